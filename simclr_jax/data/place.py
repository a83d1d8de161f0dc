"""Host batches to global arrays, a few batches ahead of the step that needs them."""

import collections
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.core.types import Batch


def place_batches(
    batches: Iterator[Mapping[str, Any]], mesh: Mesh, *, depth: int = 2
) -> Generator[Batch, None, None]:
    """Yields batches as global arrays whose rows are split over all axes of the mesh.

    Transfers run while the device computes: JAX starts them and returns, so with a depth of 2
    the next batch travels during the step on this one. There is no thread here; closing the
    result, or running it out, closes `batches`.

    Args:
      batches: this process's rows of each global batch, as `load.train_batches` yields them;
        the rows of process p are block p of the global batch, so the devices of a process must
        be neighbours in the mesh.
      mesh: device mesh over all processes; its size must divide the global batch.
      depth: batches placed or on their way, the one handed out included; at least 1.
    """
    if depth < 1:
        raise ValueError(f"place_batches needs a depth of at least 1, got {depth}.")
    return _placed(batches, NamedSharding(mesh, P(mesh.axis_names)), depth)


def _placed(
    batches: Iterator[Mapping[str, Any]], sharding: NamedSharding, depth: int
) -> Generator[Batch, None, None]:
    def place(rows: np.ndarray) -> jax.Array:
        # JAX has no int64 unless asked: ids are int32 on the device.
        rows = rows.astype(jax.dtypes.canonicalize_dtype(rows.dtype))
        return jax.make_array_from_process_local_data(sharding, rows)

    queue: collections.deque[Batch] = collections.deque()
    try:
        for batch in batches:
            queue.append(jax.tree.map(place, dict(batch)))
            if len(queue) >= depth:
                yield queue.popleft()
        while queue:
            yield queue.popleft()
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
