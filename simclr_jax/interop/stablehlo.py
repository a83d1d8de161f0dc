"""The encoder as a StableHLO program with the weights inside, for any batch and device."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from simclr_jax.interop.encoder import Encode, TrainedEncoder

PLATFORMS = ("cpu", "cuda", "tpu")


def write(encoder: TrainedEncoder, path: Path) -> str:
    """Writes the serialised program; returns how to use the file.

    The batch is symbolic. JAX keeps such files readable for half a year at least, see
    https://docs.jax.dev/en/latest/export/export.html: keep the safetensors file for longer.
    """
    (batch,) = export.symbolic_shape("batch")
    size_px, channels = encoder.image_size, encoder.channels
    images = jax.ShapeDtypeStruct((batch, size_px, size_px, channels), jnp.float32)
    program = jax.jit(functools.partial(encoder.apply, encoder.variables))
    path.write_bytes(export.export(program, platforms=PLATFORMS)(images).serialize())
    return (
        f"jax.export.deserialize(bytearray of the file).call takes float32 images [n, {size_px}, "
        f"{size_px}, {channels}] in [0, 1], for any n, on {', '.join(PLATFORMS)}."
    )


def read(path: Path) -> Encode:
    """Returns what the deserialised program computes on the CPU."""
    program = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)

    def encode(images: np.ndarray) -> np.ndarray:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return np.asarray(program(images))

    return encode
