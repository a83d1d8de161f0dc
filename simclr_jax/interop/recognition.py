"""Which network a checkpoint of the official code holds, from names and shapes alone.

A network is known by the sizes of its convolution kernels in the order of their creation: no two
networks with different variables agree in these sizes. Widths are then read off the shapes, and
every variable must be there, in the shape that our model gives it.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.core.tree import path_name
from simclr_jax.interop.names import leftover_kind, official_names, tf1_name, tf1_name_of_ema
from simclr_jax.models.heads import MLP, classifier
from simclr_jax.models.resnet import BOTTLENECK_DEPTHS, SMALLEST_IMAGE_PX, STAGE_SIZES, ResNet
from simclr_jax.models.vit import ViT

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

PUBLISHED_SK_RATIO = 0.0625
MAX_LISTED = 10
_LAYER = re.compile(r"base_model/(?P<kind>conv2d|batch_normalization)(?:_(?P<number>\d+))?/(.*)")
_PROJECTOR_LAYER = re.compile(r"head_contrastive/nl_\d+/")
_CLASSIFIER = "params/classifier/kernel"


@dataclasses.dataclass(frozen=True)
class Recognised:
    """The network of a checkpoint, and where its variables are.

    Attributes:
      encoder: encoder, unbound, float32.
      projector: projector; None if the checkpoint has none, as in SimCLR v1.
      num_classes: number of classes of the classifier; None if there is none.
      names: our path -> the variable's name in the checkpoint.
      shapes: our path -> shape.
      ignored: kind of variable -> how many of the checkpoint are not used.
    """

    encoder: ResNet | ViT
    projector: MLP | None
    num_classes: int | None
    names: Mapping[str, str]
    shapes: Shapes
    ignored: Mapping[str, int]

    @property
    def encoder_size(self) -> int:
        """Parameters and moving statistics of the encoder, as the papers count."""
        return sum(math.prod(s) for path, s in self.shapes.items() if "/encoder/" in path)

    def __str__(self) -> str:
        """Returns the architecture in words."""
        e, p, k = self.encoder, self.projector, self.num_classes
        text = phrase(e)
        if isinstance(e, ResNet):
            text += f", width {e.width}" + (f", sk_ratio {e.sk_ratio}" if e.sk_ratio else "")
        text += f"; projector of {p.num_layers} layers to {p.output_dim}" if p else "; no projector"
        return text + (f"; classifier of {k} classes" if k else "; no classifier")


@dataclasses.dataclass(frozen=True)
class Imported:
    """The contents of a checkpoint.

    Attributes:
      network: what was recognised.
      variables: {"params": ..., "batch_stats": ...} of encoder and heads, float32.
      step: optimizer steps that they have seen; 0 if the checkpoint does not say.
    """

    network: Recognised
    variables: Mapping[str, Any]
    step: int


def recognise(shapes: Shapes, *, ema: bool = False, select: int = 0) -> Recognised:
    """Returns the network that variables of these names and shapes belong to.

    What names and shapes cannot tell: a selective-kernel ratio so small that every descriptor
    has the minimum of 32 channels is taken for the published 0.0625 where that fits, and a
    depth of 18 or 34 with the CIFAR stem has the same variables with ResNet-D shortcuts
    (sk_ratio > 0) as without; it is taken for one without.

    Args:
      shapes: shapes of all variables in a checkpoint, by their own TF1 or TF2 name.
      ema: take the ema_model/ copies in place of the variables. A head that has no copies is
        taken as it is.
      select: input of the classifier: 0 the encoder's output, 1 the output of the first
        projector layer. Shapes tell which only where the two differ in width.

    Raises:
      ValueError: if it is no such network: a variable is missing, is not one of its variables
        or has another shape; or there are no ema_model/ copies; or nothing to select from.
    """
    found, extra = _sort(shapes, ema)
    encoder, projector = _closest(found, shapes)
    names = official_names(encoder, projector, classifier=any("supervised" in n for n in found))
    missing = [name for name in names.values() if name not in found]
    extra += [found[name] for name in found.keys() - set(names.values())]
    if missing or extra:
        raise ValueError(
            f"does not hold the variables of a network of SimCLR; the closest is a "
            f"{phrase(encoder)}. {listing('missing', missing)}. "
            f"{listing('not in it', sorted(extra))}."
        )
    names = {path: found[name] for path, name in names.items()}
    ours = {path: tuple(shapes[name]) for path, name in names.items()}
    encoder, projector = _with_widths(encoder, projector, ours)
    num_classes = _width(ours[_CLASSIFIER]) if _CLASSIFIER in ours else None
    expected = expected_shapes(encoder, projector, num_classes, select)
    wrong = [
        f"{names[path]} is {list(ours[path])} and should be {list(shape)}"
        for path, shape in expected.items()
        if ours[path] != shape
    ]
    if wrong:
        raise ValueError(
            f"is a {phrase(encoder)}, but not all shapes fit width={encoder.width}, "
            f"sk_ratio={encoder.sk_ratio}. {listing('of another shape', wrong)}."
        )
    used = set(names.values())
    kinds = [leftover_kind(name) or "replaced" for name in shapes if name not in used]
    ignored = collections.Counter(kinds)
    return Recognised(encoder, projector, num_classes, names, expected, ignored)


def _sort(names: Iterable[str], ema: bool) -> tuple[dict[str, str], list[str]]:
    """Returns {TF1 name: name} of the network's variables, and names of unknown purpose."""
    found: dict[str, str] = {}
    extra = []
    for name in names:
        official = tf1_name(name)
        if official is not None and official not in found:
            found[official] = name
        elif official is not None or leftover_kind(name) is None:
            extra.append(name)
    if ema:
        copies = {official: name for name in names if (official := tf1_name_of_ema(name))}
        scopes = {official.partition("/")[0] for official in copies}
        if "base_model" not in scopes:
            raise ValueError("holds no ema_model/ copies of the encoder; import it without --ema.")
        found = {n: own for n, own in found.items() if n.partition("/")[0] not in scopes} | copies
    return _counted_from_zero(found), extra


def _counted_from_zero(found: dict[str, str]) -> dict[str, str]:
    """Counts from 0 again: Keras (TF2) goes on counting when a process builds a second model."""
    layers = {name: match for name in found if (match := _LAYER.fullmatch(name))}
    if not any(found[name].startswith("resnet/") for name in layers):
        return found
    first: dict[str, int] = {}
    for match in layers.values():
        first[match["kind"]] = min(int(match["number"] or 0), first.get(match["kind"], 10**9))

    def renamed(name: str) -> str:
        if name not in layers:
            return name
        kind, number, leaf = layers[name].groups()
        number = int(number or 0) - first[kind]
        return f"base_model/{kind}{f'_{number}' if number else ''}/{leaf}"

    return {renamed(name): own for name, own in found.items()}


def _closest(found: Mapping[str, str], shapes: Shapes) -> tuple[ResNet, MLP | None]:
    """Returns the network, of any width, that shares the most convolutions with the checkpoint."""
    kernels = {
        int(match["number"] or 0): shapes[own][:1]
        for name, own in found.items()
        if (match := _LAYER.fullmatch(name)) and match["kind"] == "conv2d"
    }
    if not kernels:
        raise ValueError(
            "holds no encoder of SimCLR: not one variable such as base_model/conv2d/kernel (TF1) "
            f"or resnet/.../conv2d/kernel (TF2), but {listing('others', shapes)}."
        )

    def distance(encoder: ResNet) -> int:
        sizes = {k: (size,) for k, size in enumerate(_kernel_sizes(encoder))}
        return sum(sizes.get(k) != kernels.get(k) for k in sizes.keys() | kernels.keys())

    layers = {match[0] for name in found if (match := _PROJECTOR_LAYER.match(name))}
    projector = MLP(num_layers=len(layers)) if layers else None
    return min(_candidates(), key=distance), projector


def _candidates() -> Iterator[ResNet]:
    """Yields one network for each set of variables that there is."""
    for depth, stem in itertools.product(STAGE_SIZES, SMALLEST_IMAGE_PX):
        yield ResNet(depth, stem=stem)
        if depth in BOTTLENECK_DEPTHS or stem == "imagenet":
            yield ResNet(depth, stem=stem, sk_ratio=PUBLISHED_SK_RATIO)


def _kernel_sizes(encoder: ResNet) -> list[int]:
    bottleneck = encoder.depth in BOTTLENECK_DEPTHS
    large_stem = encoder.stem == "imagenet" and encoder.sk_ratio == 0
    larger_than_1 = {
        "stem_conv": 7 if large_stem else 3,
        **dict.fromkeys(("stem_conv1", "stem_conv2", "stem_conv3", "conv", "conv2"), 3),
        "conv1": 1 if bottleneck else 3,
    }
    modules = [path.split("/")[-2] for path in official_names(encoder) if path.endswith("/kernel")]
    return [larger_than_1.get(module, 1) for module in modules]


def _with_widths(
    encoder: ResNet, projector: MLP | None, shapes: Shapes
) -> tuple[ResNet, MLP | None]:
    """Reads widths off the shapes.

    The official code truncates fractions of a channel, so the widest layers decide: from the
    512 w of the last stage all narrower ones follow.
    """
    last = "params/encoder/stage4/block0"
    bottleneck = encoder.depth in BOTTLENECK_DEPTHS
    features = _width(shapes[f"{last}/{'conv1' if bottleneck else 'conv2'}/kernel"])
    width, sk_ratio = features / 512, encoder.sk_ratio
    if f"{last}/sk/squeeze_conv/kernel" in shapes:
        squeezed = _width(shapes[f"{last}/sk/squeeze_conv/kernel"])
        if max(int(features * sk_ratio), 32) != squeezed:
            sk_ratio = squeezed / features
            if int(features * sk_ratio) < squeezed:  # rounding has lost a channel
                sk_ratio = math.nextafter(sk_ratio, 1)
    encoder = encoder.clone(width=int(width) if width == int(width) else width, sk_ratio=sk_ratio)
    if projector is not None:
        n, representation_dim = projector.num_layers, features * (4 if bottleneck else 1)
        hidden_dim = _width(shapes["params/projector/dense1/kernel"])
        projector = MLP(
            num_layers=n,
            hidden_dim=None if n == 1 or hidden_dim == representation_dim else hidden_dim,
            output_dim=_width(shapes[f"params/projector/dense{n}/kernel"]),
        )
    return encoder, projector


def _width(shape: tuple[int, ...]) -> int:
    return shape[-1] if shape else 0  # a scalar is refused with the width that it leads to


def expected_shapes(
    encoder: ResNet | ViT, projector: MLP | None, num_classes: int | None, select: int
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes that our modules have, all layers of the projector included."""
    size = encoder.patch if isinstance(encoder, ViT) else SMALLEST_IMAGE_PX[encoder.stem]
    representation, shapes = _init("encoder", encoder, (1, size, size, 3), train=False)
    hiddens = [representation]
    if projector is not None:
        outputs, of_projector = _init("projector", projector, representation.shape, train=False)
        hiddens += outputs
        shapes |= of_projector
    if select and (num_classes is None or select >= len(hiddens)):
        lacking = "classifier" if num_classes is None else "projector"
        raise ValueError(f"holds no {lacking}, which --select={select} needs.")
    if num_classes is not None:
        head = classifier(num_classes=num_classes)
        shapes |= _init("classifier", head, hiddens[select].shape)[1]
    return shapes


def _init(
    name: str, module: nn.Module, shape: tuple[int, ...], **options: Any
) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Returns a module's output and the shapes of its variables, without computing either."""
    init = lambda: module.init_with_output(jax.random.key(0), jnp.zeros(shape), **options)
    output, variables = jax.eval_shape(init)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    paths = [(path_name(path).partition("/"), leaf.shape) for path, leaf in leaves]
    return output, {f"{group}/{name}/{rest}": shape for (group, _, rest), shape in paths}


def phrase(encoder: ResNet | ViT) -> str:
    """Returns the name of a network in words."""
    if isinstance(encoder, ViT):
        heads = f", {encoder.num_heads} heads" if encoder.num_heads else ""
        return (
            f"ViT of size {encoder.size!r} with patches of {encoder.patch} px (pool "
            f"{encoder.pool!r}, positions for {encoder.learned_positions} px{heads})"
        )
    kernels = " with selective kernels" if encoder.sk_ratio else ""
    return f"ResNet-{encoder.depth}{kernels} ({encoder.stem} stem)"


def listing(what: str, items: Iterable[str]) -> str:
    """Returns a text with the number of names, and the first of them."""
    items = list(items)
    shown = ", ".join(items[:MAX_LISTED]) + (", ..." if len(items) > MAX_LISTED else "")
    return f"{len(items)} {what}" + (f": {shown}" if items else "")
