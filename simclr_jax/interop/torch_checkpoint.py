"""Reads ResNets and ViTs of torchvision and timm from safetensors files.

No pickle is opened: a .pth file becomes a .safetensors file where it comes from. The header is
checked before any tensor is read.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.core.errors import UserError
from simclr_jax.core.optional import import_optional
from simclr_jax.core.sections import config_errors_at
from simclr_jax.interop.recognition import Imported, Recognised
from simclr_jax.interop.torch_recognition import recognise, to_jax_layout
from simclr_jax.models.resnet import ResNet

log = logging.getLogger(__name__)

# Mean and standard deviation of each channel that images are normalised with, by timm's names.
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
DTYPES = ("F64", "F32", "F16", "BF16")


def read_state_dict(path: str, *, normalization: str, num_heads: int | None = None) -> Imported:
    """Reads a file into memory, one tensor at a time.

    The network here sees images in [0, 1]. A ViT's patch projection takes mean and deviation in,
    which is exact, as it pads nothing. A ResNet's first convolution pads with zeros after the
    subtraction, so mean and deviation become settings of the network.

    Args:
      path: a .safetensors file.
      normalization: what images were normalised with in its training, a key of
        `NORMALIZATIONS`.
      num_heads: see `torch_recognition.recognise`.

    Raises:
      UserError: if safetensors or PyTorch is not installed; if there is no such file, it is
        damaged, or holds another network.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--checkpoint={path} is not a file; it must be a .safetensors file.")
    safetensors = import_optional("safetensors")
    mean, std = NORMALIZATIONS[normalization]
    try:
        with safetensors.safe_open(path, framework="pt") as tensors:
            names = tensors.keys()  # it is no mapping: it cannot be iterated itself
            slices = {name: tensors.get_slice(name) for name in names}
            shapes = {name: tuple(x.get_shape()) for name, x in slices.items()}
            with config_errors_at(path):
                network = recognise(shapes, num_heads=num_heads)
                _require_floats({name: slices[name].get_dtype() for name in network.names.values()})
            log.info("Recognised: %s.", network)
            read = lambda name: tensors.get_tensor(name).float().numpy()
            variables = _variables(network, read)
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path} cannot be read as a safetensors file: {error}. A .pth file of PyTorch becomes "
            "one by safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
        ) from error
    if isinstance(network.encoder, ResNet):
        encoder = network.encoder.clone(input_mean=mean, input_std=std)
        network = dataclasses.replace(network, encoder=encoder)
    else:
        _fold(variables["params"]["encoder"]["patches"], mean, std)
    return Imported(network, jax.tree.map(jnp.asarray, variables), step=0)


def _require_floats(dtypes: Mapping[str, str]) -> None:
    wrong = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in DTYPES]
    if wrong:
        raise ValueError(f"holds weights of another type than {', '.join(DTYPES)}: {wrong[0]}.")


def _variables(network: Recognised, read: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """Returns the variables, float32, with the normalisation of the images still to be done."""
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path, name in network.names.items():
        *parents, leaf = path.split("/")
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        x = read(name)
        node[leaf] = to_jax_layout(path, x, network.shapes[path])
        if leaf == "positions" and "class_token" in node:
            # There, the class token has a position, too; here their sum is the class token.
            node["class_token"] = node["class_token"] + x[0, 0]
    return variables


def _fold(patches: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Changes a projection of (images - mean) / std into the same projection of images."""
    kernel = patches["kernel"].astype(np.float64)  # [pixels of a patch, width]
    pixels = kernel.reshape(-1, 3, kernel.shape[-1])  # the channel is the last of a pixel's indices
    folded = pixels / np.asarray(std)[:, None]
    shift = (folded * np.asarray(mean)[:, None]).sum(axis=(0, 1))
    patches["kernel"] = folded.reshape(kernel.shape).astype(np.float32)
    patches["bias"] = (patches["bias"] - shift).astype(np.float32)
