"""The encoder as a state dict that timm's VisionTransformer loads with `strict=True`."""

import json
from pathlib import Path

from simclr_jax.core.errors import UserError
from simclr_jax.interop.encoder import Encode, TrainedEncoder
from simclr_jax.interop.optional import import_optional
from simclr_jax.interop.torch_bridge import encode_with, torch_module
from simclr_jax.models.vit import SIZES, ViT

# timm's networks for patches of 16 px and images of 224 px.
NAMES = {
    "s": "vit_small_patch16_224",
    "b": "vit_base_patch16_224",
    "l": "vit_large_patch16_224",
}


def write(encoder: TrainedEncoder, path: Path) -> str:
    """Writes weights under timm's names and in its layout; returns how to use the file.

    Positions are for images of the size that the encoder was trained on. head.weight and head.bias
    come from `encoder.classifier`; without one, the file has none.

    Raises:
      UserError: if it is not a ViT.
    """
    network = encoder.network
    if not isinstance(network, ViT):
        raise UserError(
            "--format=timm is for ViTs, and this encoder is a ResNet. Use --format=torchvision: "
            "timm's resnet18 to resnet152 have the same names."
        )
    module = torch_module(encoder)
    state = module.state_dict()
    side = encoder.image_size // network.patch
    state["pos_embed"] = module.positions(side, side).detach().contiguous()
    num_classes = 0
    if encoder.classifier is not None:
        torch = import_optional("torch")
        state["head.weight"] = torch.tensor(encoder.classifier["kernel"]).T.contiguous()
        state["head.bias"] = torch.tensor(encoder.classifier["bias"])
        num_classes = len(state["head.bias"])
    call = f"timm.create_model({_arguments(network, encoder.image_size, num_classes)})"
    # "format" is what other readers of PyTorch weights in safetensors ask for.
    metadata = {
        "format": "pt",
        "timm": call,
        "encoder": json.dumps({**encoder.settings, "learned_positions": encoder.image_size}),
    }
    import_optional("safetensors.torch").save_file(state, str(path), metadata)
    return (
        f"{call} takes safetensors.torch.load_file(...) with load_state_dict(..., strict=True). "
        "Images are [n, 3, h, w] in [0, 1], without timm's usual normalisation."
    )


def read(path: Path) -> Encode:
    """Returns what timm's network, up to its classifier, computes with the file.

    `torch_vit` stands in for timm: layers, names and arithmetic are the same.
    """
    with import_optional("safetensors").safe_open(str(path), framework="pt") as file:
        settings = json.loads(file.metadata()["encoder"])
    state = import_optional("safetensors.torch").load_file(str(path))
    torch_vit = import_optional("simclr_jax.interop.torch_vit")
    module = torch_vit.ViT(image_size=settings["learned_positions"], **settings)
    encoder_state = {name: x for name, x in state.items() if not name.startswith("head.")}
    module.load_state_dict(encoder_state, strict=True)
    return encode_with(module.eval())


def _arguments(network: ViT, image_size: int, num_classes: int) -> str:
    """Returns what `timm.create_model` must be told, as source text."""
    name = NAMES.get(network.size, NAMES["s"])
    arguments: dict[str, object] = {"num_classes": num_classes}
    if network.size not in NAMES:
        width, depth, num_heads = SIZES[network.size]
        arguments |= {"embed_dim": width, "depth": depth, "num_heads": num_heads}
    if network.num_heads is not None:
        arguments["num_heads"] = network.num_heads
    if network.patch != 16:
        arguments["patch_size"] = network.patch
    if image_size != 224:
        arguments["img_size"] = image_size
    if network.pool == "mean":
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    if network.pre_norm:
        arguments["pre_norm"] = True
    return ", ".join([repr(name), *(f"{key}={value!r}" for key, value in arguments.items())])
