"""A ledger of a run: what each step saw and made of it, to compare two runs step by step."""

import collections
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from simclr_jax.core import rng
from simclr_jax.core.errors import StorageError
from simclr_jax.core.files import append_lines, reason
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Metrics, Params, PRNGKey
from simclr_jax.parallel import hosts
from simclr_jax.train.metrics import rewind


class Ledger:
    """Hook: writes a line of D/ledger.jsonl after each step, for which the loop then waits.

    A line holds "step"; "ids", of the images in the rows of the global batch, stand-ins included;
    "key", of the augmentations, in hexadecimal; "loss", its bits; "params", their `fingerprint`.
    After a resume the lines after the checkpoint are dropped.
    """

    def __init__(self, workdir: str, root: PRNGKey, *, first_step: int) -> None:
        """Opens the file of a run that goes on after `first_step` with the key `root`."""
        self._path = epath.Path(workdir) / "ledger.jsonl"
        self._root = root
        self._ids: collections.deque[list[int]] = collections.deque()  # of batches on their way
        self._fingerprint = jax.jit(fingerprint)
        if hosts.is_primary():
            rewind(self._path, first_step)

    def watching(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields the batches of this process, and notes who is in them."""
        for batch in batches:
            self._ids.append(batch["id"].tolist())
            yield batch

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Writes the line of a step.

        Raises:
          StorageError: if it cannot be written: a ledger with gaps would be none.
        """
        parts = hosts.gather(json.dumps(self._ids.popleft()))
        key = jax.random.key_data(rng.stream(self._root, "augment", step - 1))
        params = int(self._fingerprint(state.params))
        if hosts.is_primary():
            row = {
                "step": step,
                "ids": [i for part in parts for i in json.loads(part)],
                "key": np.asarray(key).tobytes().hex(),
                "loss": np.float32(metrics["loss"]).tobytes().hex(),
                "params": f"{params:08x}",
            }
            try:
                append_lines(self._path, [json.dumps(row)])
            except OSError as error:
                raise StorageError(
                    f"{self._path} cannot be written: {reason(error)}. Make room, or go on without "
                    "it: --config.run.ledger=False."
                ) from error


def fingerprint(params: Params) -> jax.Array:
    """Returns 32 bits, uint32, that change when a bit of a parameter does, however it is sharded.

    Sums the bits of all float32 values, each times an odd number that depends on its place, modulo
    2^32: integers have no rounding, so that the order of the sum does not matter.
    """
    total = jnp.zeros((), jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(params)):
        bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
        places = jax.lax.iota(jnp.uint32, bits.size).reshape(bits.shape)
        odd = (2 * places + 1) * jnp.uint32((0x9E3779B1 * (2 * number + 1)) % 2**32)
        total += jnp.sum(bits * odd, dtype=jnp.uint32)
    return total
