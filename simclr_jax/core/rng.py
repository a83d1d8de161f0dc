"""One root key per run; every random draw names its stream and its step.

Keys are derived, never stored or threaded: a resumed run draws the numbers of
an uninterrupted one, and a new stream moves no other stream.
"""

import zlib

import jax
from jaxtyping import Array, Int, Key

from simclr_jax.core.types import PRNGKey

STREAMS = ("init", "augment", "method")


def stream(root: PRNGKey, name: str, step: int | Int[Array, ""]) -> PRNGKey:
    """Returns the key of stream `name` at optimizer step `step`.

    Raises:
      ValueError: if `name` is not in `STREAMS`.
    """
    if name not in STREAMS:
        raise ValueError(f"Unknown random stream {name!r}; it must be one of {STREAMS}.")
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def per_example(key: PRNGKey, num_examples: int) -> Key[Array, " b"]:
    """Returns one key per row of the global batch, the same at any device count."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jax.numpy.arange(num_examples))
