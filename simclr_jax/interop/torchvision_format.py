"""The encoder as a state dict that torchvision's ResNets load with `strict=True`."""

import json
from pathlib import Path

from simclr_jax.core.errors import UserError
from simclr_jax.core.optional import import_optional
from simclr_jax.interop.encoder import Encode, TrainedEncoder
from simclr_jax.interop.torch_bridge import encode_with, torch_module
from simclr_jax.models.resnet import BOTTLENECK_DEPTHS, ResNet

DEPTHS = (18, 34, 50, 101, 152)
NUM_CLASSES = 1000  # what torchvision's networks have unless told otherwise


def write(encoder: TrainedEncoder, path: Path) -> str:
    """Writes weights under torchvision's names and in its layout; returns how to use the file.

    fc.weight and fc.bias come from `encoder.classifier`, or are zeros for 1000 classes.

    Raises:
      UserError: if torchvision has no such architecture.
    """
    network = _network(encoder)
    torch = import_optional("torch")
    module = torch_module(encoder)
    state = module.state_dict()
    if encoder.classifier is not None:
        state["fc.weight"] = torch.tensor(encoder.classifier["kernel"]).T.contiguous()
        state["fc.bias"] = torch.tensor(encoder.classifier["bias"])
        head = "the run's classifier"
    else:
        state["fc.weight"] = torch.zeros(NUM_CLASSES, module.output_dim)
        state["fc.bias"] = torch.zeros(NUM_CLASSES)
        head = "zeros, as the run has no classifier on the representation"
    architecture = f"resnet{network.depth}"
    # "format" is what other readers of PyTorch weights in safetensors ask for.
    settings = json.dumps(encoder.settings)
    metadata = {"format": "pt", "architecture": architecture, "encoder": settings}
    import_optional("safetensors.torch").save_file(state, str(path), metadata)
    num_classes = state["fc.bias"].numel()
    normalization = (
        f"then normalised with mean {network.input_mean} and std {network.input_std}"
        if network.normalizes
        else "without torchvision's usual normalisation"
    )
    return (
        f"fc.weight and fc.bias, for {num_classes} classes, are {head}. "
        f"torchvision.models.{architecture}(num_classes={num_classes}) takes "
        "safetensors.torch.load_file(...) with load_state_dict(..., strict=True). Images are "
        f"[n, 3, h, w] in [0, 1], {normalization}."
    )


def read(path: Path) -> Encode:
    """Returns what torchvision's network, up to its classifier, computes with the file.

    `torch_resnet` with the geometry of torchvision stands in for torchvision, an installation
    of several gigabytes: layers, names and padding are the same.
    """
    with import_optional("safetensors").safe_open(str(path), framework="pt") as file:
        settings = json.loads(file.metadata()["encoder"])
    state = import_optional("safetensors.torch").load_file(str(path))
    del state["fc.weight"], state["fc.bias"]
    torch_resnet = import_optional("simclr_jax.interop.torch_resnet")
    module = torch_resnet.ResNet(**{**settings, "geometry": "torchvision"})
    module.load_state_dict(state, strict=True)
    return encode_with(module.eval())


def _network(encoder: TrainedEncoder) -> ResNet:
    """Returns the network; raises a UserError if torchvision has none of this architecture."""
    network, reason, cure = encoder.network, "", ""
    if not isinstance(network, ResNet):
        raise UserError(
            "--format=torchvision is for ResNets, and this encoder is a ViT. Use --format=timm, "
            "whose names are more widely read than those of torchvision's ViTs."
        )
    if network.depth not in DEPTHS:
        reason = f"no ResNet-{network.depth}"
    elif network.stem != "imagenet":
        reason = f"no stem {network.stem!r}"
    elif network.width != 1 or network.sk_ratio > 0:
        reason = "only ResNets of width 1 without selective kernels"
    elif network.depth not in BOTTLENECK_DEPTHS and network.geometry != "torchvision":
        reason = f"one convolution less in ResNet-{network.depth}, in the first shortcut"
        cure = " Or train with config.encoder.geometry='torchvision'."
    if reason:
        raise UserError(
            f"--format=torchvision cannot hold this encoder ({_listed(encoder)}): torchvision has "
            f"{reason}. Use --format=safetensors, which simclr_jax/interop/torch_resnet.py loads "
            f"into PyTorch exactly.{cure}"
        )
    return network


def _listed(encoder: TrainedEncoder) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in encoder.settings.items())
