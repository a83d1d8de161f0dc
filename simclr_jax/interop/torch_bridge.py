"""Between arrays in JAX's layout and the modules of `torch_resnet` and the like."""

from typing import Any

import numpy as np

from simclr_jax.core.optional import import_optional
from simclr_jax.interop.encoder import Encode, Trained, TrainedEncoder


def torch_module(encoder: Trained) -> Any:
    """Returns the module of an encoder or a tower, in eval mode.

    Raises:
      UserError: if PyTorch or safetensors is not installed.
    """
    torch = import_optional("torch")
    reader = import_optional(f"simclr_jax.interop.torch_{encoder.kind}")
    tensors = {path: torch.tensor(x) for path, x in encoder.tensors().items()}
    if isinstance(encoder, TrainedEncoder) and encoder.kind == "vit":
        return reader.from_tensors(encoder.settings, tensors, encoder.image_size)
    return reader.from_tensors(encoder.settings, tensors)


def encode_with(module: Any) -> Encode:
    """Returns a function that runs a PyTorch module on inputs in JAX's layout."""
    torch = import_optional("torch")

    def encode(*inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(*(torch.tensor(in_torch_layout(x)) for x in inputs)).numpy()

    return encode


def in_torch_layout(x: np.ndarray) -> np.ndarray:
    """Returns images with their channels first; what are no images stays as it is."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x
