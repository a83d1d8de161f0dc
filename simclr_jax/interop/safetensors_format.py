"""An encoder or a tower as a safetensors file: our names and layout, and the settings."""

import json
from pathlib import Path

from simclr_jax.core.optional import import_optional
from simclr_jax.interop.encoder import Encode, Trained, TrainedEncoder
from simclr_jax.interop.torch_bridge import encode_with

FORMAT_VERSION = "1"


def write(encoder: Trained, path: Path) -> str:
    """Writes tensors and metadata; returns how to use the file.

    Metadata: "simclr_jax", the number of this format; "kind", "resnet", "vit", "audio" or "text";
    "encoder", the settings of the network as JSON; of images "image_size" in pixels. JAX reads
    the file with `safetensors.numpy.load_file` and puts each tensor at its path; `load_encoder`
    of `torch_KIND` makes a PyTorch module of it.
    """
    metadata = {
        "simclr_jax": FORMAT_VERSION,
        "kind": encoder.kind,
        "encoder": json.dumps(encoder.settings),
    }
    takes = f"It takes {encoder.takes(channels_first=True)}."
    if isinstance(encoder, TrainedEncoder):
        metadata["image_size"] = str(encoder.image_size)
        takes = f"Images are [n, {encoder.channels}, h, w] in [0, 1]."  # of other sizes, too
    import_optional("safetensors.numpy").save_file(encoder.tensors(), str(path), metadata)
    beside = " beside torch_resnet.py and torch_vit.py" if encoder.kind == "audio" else ""
    return (
        "PyTorch reads it with load_encoder of "
        f"simclr_jax/interop/torch_{encoder.kind}.py, which needs{beside} "
        f"neither JAX nor the rest of this package. {takes}"
    )


def read(path: Path) -> Encode:
    """Returns what the PyTorch module computes with the file."""
    with import_optional("safetensors").safe_open(str(path), framework="pt") as file:
        kind = file.metadata()["kind"]
    reader = import_optional(f"simclr_jax.interop.torch_{kind}")
    return encode_with(reader.load_encoder(str(path)))
