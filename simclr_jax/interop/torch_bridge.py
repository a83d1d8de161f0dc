"""Between arrays in JAX's layout and the PyTorch modules of `torch_resnet` and `torch_vit`."""

from typing import Any

import numpy as np

from simclr_jax.core.optional import import_optional
from simclr_jax.interop.encoder import Encode, TrainedEncoder


def torch_module(encoder: TrainedEncoder) -> Any:
    """Returns the encoder as a `torch_resnet.ResNet` or a `torch_vit.ViT`, in eval mode.

    Raises:
      UserError: if PyTorch or safetensors is not installed.
    """
    torch = import_optional("torch")
    reader = import_optional(f"simclr_jax.interop.torch_{encoder.kind}")
    tensors = {path: torch.tensor(x) for path, x in encoder.tensors().items()}
    sizes = (encoder.image_size,) if encoder.kind == "vit" else ()
    return reader.from_tensors(encoder.settings, tensors, *sizes)


def encode_with(module: Any) -> Encode:
    """Returns a function that runs a PyTorch module on images in JAX's layout."""
    torch = import_optional("torch")

    def encode(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()

    return encode
