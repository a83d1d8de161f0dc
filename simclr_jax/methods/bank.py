"""A bank: rows that a method remembers of each training image, found by the image's id.

Its state is a tree of arrays [rows, ...], of which row i belongs to the image with id i. An id is
the image's place in the data set, whatever the order in which images are drawn, so that a run
that goes on, perhaps on other devices, finds every row again.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from simclr_jax.core.run_facts import RunFacts
from simclr_jax.parallel.mesh import AXES
from simclr_jax.parallel.sharding import Rule

# Each device keeps an equal share of the rows.
BANK_RULE = Rule("bank(/.*)?", 0, AXES)


def num_bank_rows(facts: RunFacts) -> int:
    """Returns the training images, rounded up to whole batches.

    A batch can be split over the devices of any mesh that the run may have, and so can these
    rows. Those beyond the images are never written.
    """
    return -(-facts.num_images // facts.batch_size) * facts.batch_size


def read_bank(bank: Any, ids: Int[Array, " b"]) -> Any:
    """Returns the rows [b, ...] of images; those of id -1, which is no image, mean nothing."""
    return jax.tree.map(lambda x: x[jnp.maximum(ids, 0)], bank)


def write_bank(bank: Any, ids: Int[Array, " b"], rows: Any) -> Any:
    """Returns the bank with new rows for some images.

    Args:
      bank: tree of [rows, ...].
      ids: images that the rows belong to; -1 is dropped. Of an image that occurs twice, as it may
        where an epoch ends within a batch, the last row is taken.
      rows: tree of [b, ...].
    """
    again = jnp.triu(ids[:, None] == ids[None, :], k=1).any(axis=1)  # [b], later in the batch

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        slots = jnp.where((ids < 0) | again, old.shape[0], ids)  # past the end: dropped
        return old.at[slots].set(new.astype(old.dtype), mode="drop")

    return jax.tree.map(write, bank, rows)
