"""An encoder or a tower as a StableHLO program with weights inside, for any batch and device."""

import functools
from pathlib import Path

import jax
import numpy as np
from jax import export

from simclr_jax.interop.encoder import Encode, Trained

PLATFORMS = ("cpu", "cuda", "tpu")


def write(encoder: Trained, path: Path) -> str:
    """Writes the serialised program; returns how to use the file.

    The batch is symbolic. JAX keeps such files readable for half a year at least, see
    https://docs.jax.dev/en/latest/export/export.html: keep the safetensors file for longer.
    """
    (batch,) = export.symbolic_shape("batch")
    inputs = [jax.ShapeDtypeStruct((batch, *x.shape), x.dtype) for x in encoder.inputs().values()]
    program = jax.jit(functools.partial(encoder.apply, encoder.variables))
    path.write_bytes(export.export(program, platforms=PLATFORMS)(*inputs).serialize())
    return (
        "jax.export.deserialize(bytearray of the file).call takes "
        f"{encoder.takes(channels_first=False)}, for any n, on {', '.join(PLATFORMS)}."
    )


def read(path: Path) -> Encode:
    """Returns what the deserialised program computes on the CPU."""
    program = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)

    def encode(*inputs: np.ndarray) -> np.ndarray:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return np.asarray(program(*inputs))

    return encode
