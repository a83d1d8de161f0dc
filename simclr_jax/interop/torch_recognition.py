"""Which network of torchvision or timm a state dict holds, from names and shapes alone.

ResNets are named alike in both; ViTs are not. A network is known by its depth and width, and every
tensor must then be there, in the shape that follows.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from simclr_jax.core.optional import import_optional
from simclr_jax.interop.recognition import (
    Recognised,
    Shapes,
    expected_shapes,
    listing,
    phrase,
)
from simclr_jax.models.resnet import STAGE_SIZES, ResNet
from simclr_jax.models.vit import SIZES, ViT

# Names in timm's ViT -> in torchvision's.
_TORCHVISION_VIT = (
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^blocks\.", "encoder.layers.encoder_layer_"),
    (r"\.norm(\d)\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^norm\.", "encoder.ln."),
)
_CLASSIFIERS = ("fc", "head", "heads.head")
_COUNTER = "num_batches_tracked"
# What timm's other ViTs have, and why they are not read.
_FOREIGN = {
    "fc_norm.weight": "it normalises after the mean of the patches, the ViTs here before",
    "norm_pre.weight": "CLIP's ViTs differ in the epsilon of LayerNorm and often in the GELU",
    "reg_token": "it has register tokens",
    "blocks.0.ls1.gamma": "it scales its branches",
    "dist_token": "it has a token for distillation",
}


def recognise(shapes: Shapes, *, num_heads: int | None = None) -> Recognised:
    """Returns the network that tensors of these names and shapes belong to.

    Args:
      shapes: shapes of all tensors, by their names.
      num_heads: heads of a ViT's attention, which no shape tells; None for its size's.

    Raises:
      ValueError: if it is none of the networks that can be read: a tensor is missing, is not one
        of its tensors or has another shape.
    """
    encoder, rename = _encoder(shapes, num_heads)
    kind = "vit" if isinstance(encoder, ViT) else "resnet"
    state_dict_name = import_optional(f"simclr_jax.interop.torch_{kind}").state_dict_name
    head = next((name for name in _CLASSIFIERS if f"{name}.weight" in shapes), None)
    num_classes = shapes[f"{head}.weight"][0] if head and shapes[f"{head}.weight"] else None
    expected = expected_shapes(encoder, None, num_classes, 0)
    names = {}
    for path in expected:
        leaf = {"kernel": "weight"}.get(path.rpartition("/")[2], "bias")
        is_classifier = path.startswith("params/classifier/")
        names[path] = f"{head}.{leaf}" if is_classifier else rename(state_dict_name(path))
    used = {*names.values()}
    missing = [name for name in names.values() if name not in shapes]
    extra = [name for name in shapes if name not in used and not name.endswith(_COUNTER)]
    wrong = [
        f"{name} is {list(shapes[name])} and should be {list(want)}"
        for path, name in names.items()
        if name in shapes and shapes[name] != (want := torch_shape(path, expected[path], encoder))
    ]
    if missing or extra or wrong:
        reasons = [why for name, why in _FOREIGN.items() if name in shapes]
        raise ValueError(
            f"does not hold the tensors of a {phrase(encoder)}, the closest network. "
            f"{listing('missing', missing)}. {listing('not in it', sorted(extra))}. "
            f"{listing('of another shape', wrong)}."
            + "".join(f" It cannot be read: {why}." for why in reasons)
        )
    counters = sum(name.endswith(_COUNTER) for name in shapes)
    ignored = Counter({"counter": counters} if counters else {})
    return Recognised(encoder, None, num_classes, names, expected, ignored)


def torch_shape(path: str, shape: tuple[int, ...], encoder: ResNet | ViT) -> tuple[int, ...]:
    """Returns the shape that PyTorch gives to a variable of ours."""
    if path.endswith("/class_token"):
        return (1, 1, *shape)
    if path.endswith("/positions") and isinstance(encoder, ViT):
        return (1, shape[0] * shape[1] + (encoder.pool == "token"), shape[2])
    if path.endswith("/patches/kernel") and isinstance(encoder, ViT):
        return (shape[1], 3, encoder.patch, encoder.patch)
    # Height, width, input, output become output, input, height, width.
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def to_jax_layout(path: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a tensor of PyTorch as the variable at a path."""
    if path.endswith("/positions"):
        return x[0, -shape[0] * shape[1] :].reshape(shape)  # behind that of the class token
    if x.ndim == 4:
        x = x.transpose(2, 3, 1, 0)
    elif x.ndim == 2:
        x = x.T
    return x.reshape(shape)


def _encoder(shapes: Shapes, num_heads: int | None) -> tuple[ResNet | ViT, Callable[[str], str]]:
    """Returns the closest network, and a function from timm's names to those in the file."""
    same = lambda name: name
    if "patch_embed.proj.weight" in shapes:
        return _vit(shapes, num_heads, same), same
    if "conv_proj.weight" in shapes:
        return _vit(shapes, num_heads, _torchvision_name), _torchvision_name
    if "conv1.weight" in shapes and "layer1.0.conv1.weight" in shapes:
        return _resnet(shapes), same
    raise ValueError(
        "holds no network that can be read: neither conv1.weight and layer1.0.conv1.weight (a "
        "ResNet of torchvision or timm), patch_embed.proj.weight (a ViT of timm) nor "
        f"conv_proj.weight (a ViT of torchvision), but {listing('others', shapes)}."
    )


def _torchvision_name(name: str) -> str:
    for pattern, theirs in _TORCHVISION_VIT:
        name = re.sub(pattern, theirs, name)
    return name


def _resnet(shapes: Mapping[str, tuple[int, ...]]) -> ResNet:
    found = (re.match(r"layer(\d)\.(\d+)\.", name) for name in shapes)
    blocks = {match.groups() for match in found if match}
    sizes = tuple(sum(stage == str(i) for stage, _ in blocks) for i in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in shapes
    for depth in (18, 34, 50, 101, 152):
        if STAGE_SIZES[depth] == sizes and (depth >= 50) == bottleneck:
            return ResNet(depth, geometry="torchvision")
    raise ValueError(
        f"holds a ResNet with stages of {sizes} blocks{' with bottlenecks' * bottleneck}, which "
        "is none of ResNet-18, 34, 50, 101 and 152."
    )


def _vit(shapes: Shapes, num_heads: int | None, rename: Callable[[str], str]) -> ViT:
    """Reads size, patch, positions and pooling off the shapes."""
    kernel, positions = shapes[rename("patch_embed.proj.weight")], rename("pos_embed")
    blocks = re.compile(re.escape(rename("blocks.")) + r"(\d+)\.")
    depth = len({match[1] for name in shapes if (match := blocks.match(name))})
    size = [s for s, known in SIZES.items() if [*kernel[:1], depth] == [known.width, known.depth]]
    if not size or len(kernel) != 4 or kernel[2] != kernel[3]:
        known = ", ".join(f"{s}: {width} and {depth}" for s, (width, depth, _) in SIZES.items())
        raise ValueError(
            f"holds a ViT of {depth} blocks with {rename('patch_embed.proj.weight')} of shape "
            f"{list(kernel)}. Those that can be read have square patches and a width and a number "
            f"of blocks of {known}."
        )
    has_token = rename("cls_token") in shapes
    if len(shapes.get(positions, ())) != 3:
        raise ValueError(f"holds a ViT without positions: {positions} [1, t, d] is missing.")
    side = max(round(max(shapes[positions][1] - has_token, 1) ** 0.5), 1)
    return ViT(
        size[0],
        patch=kernel[2],
        num_heads=num_heads,
        learned_positions=side * kernel[2],
        pool="token" if has_token else "mean",
    )
