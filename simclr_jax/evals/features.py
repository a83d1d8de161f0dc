"""Features of a whole data set, computed on the mesh and gathered to every host."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from simclr_jax.core.types import Batch
from simclr_jax.data.place import place_batches


class Features(NamedTuple):
    """Representations of a data set, on the host, in ascending order of `ids`.

    Attributes:
      ids: index of each example in its source.
      features: one row for each example.
      labels: class of each example, -1 where unknown.
    """

    ids: Int[np.ndarray, " n"]
    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]


def extract_features(
    encode: Callable[[Batch], Float[Array, "b d"]],
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
) -> Features:
    """Encodes every example once; rows that are padding or unreadable are left out.

    The result does not depend on how many devices or processes share the work. For raw
    pixels as a baseline, `encode` is the evaluation crop, flattened.

    Args:
      encode: jitted function of a placed global batch; one row for each image.
      batches: this host's batches in fixed shape, with "id" and "valid" beside what `encode`
        reads, as from `data.load.eval_batches`. Every process must yield equally many.
      mesh: devices that the batches are spread over.

    Returns:
      float32 features, int64 ids and int32 labels, the same on every process.

    Raises:
      ValueError: if there is no batch, or no valid row.
    """
    waiting: collections.deque[Mapping[str, np.ndarray]] = collections.deque()

    def remembered() -> Iterator[Mapping[str, np.ndarray]]:
        for batch in batches:
            waiting.append({name: batch[name] for name in ("id", "valid", "label")})
            yield batch

    parts: list[Features] = []
    for placed in place_batches(remembered(), mesh):
        rows = _local_rows(encode(placed), placed["label"])
        host = waiting.popleft()  # placed batches come in order, a few ahead of their use
        valid = host["valid"]
        # Every host gathers the same number of rows, so padding stays in until then.
        labels = np.where(valid, host["label"], _PADDING).astype(np.int32)
        parts.append(Features(host["id"].astype(np.int64), rows, labels))
    if not parts:
        raise ValueError("extract_features got no batches.")
    gathered = _all_processes(Features(*map(np.concatenate, zip(*parts, strict=True))))
    keep = np.flatnonzero(gathered.labels != _PADDING)
    if not keep.size:
        raise ValueError(f"None of the {len(gathered.ids)} rows is valid: nothing to encode.")
    keep = keep[np.argsort(gathered.ids[keep])]
    return Features(*(column[keep] for column in gathered))


def labelled(features: Features) -> Features:
    """Returns the rows that have a label."""
    keep = features.labels >= 0
    return Features(*(column[keep] for column in features))


def check_labels(labels: Int[np.ndarray, " n"], num_classes: int) -> Int[np.ndarray, " n"]:
    """Returns `labels` if all are in [0, num_classes).

    Raises:
      ValueError: with the smallest and the largest label, if not.
    """
    if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        found = f"{labels.min()} to {labels.max()}" if len(labels) else "no label"
        raise ValueError(f"Labels must be in [0, {num_classes}), got {found}.")
    return labels


_PADDING = np.iinfo(np.int32).min  # a label that no data set has: -1 means unknown


def _local_rows(x: Float[Array, "b d"], like: Array) -> Float[np.ndarray, "n d"]:
    """Returns this host's rows of a global array, in the order in which `like` was placed."""
    x = jax.device_put(x, like.sharding)  # the compiler may have chosen another placement
    shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(shards[start], np.float32) for start in sorted(shards)])


def _all_processes(local: Features) -> Features:
    """Concatenates the rows of all processes; every process gets all of them."""
    if jax.process_count() == 1:
        return local
    halves = local.ids.view(np.int32).reshape(-1, 2)  # without x64, int64 would be cut to int32
    halves, features, labels = multihost_utils.process_allgather(
        (halves, local.features, local.labels), tiled=True
    )
    ids = np.ascontiguousarray(halves).view(np.int64).reshape(-1)
    return Features(ids, np.asarray(features), np.asarray(labels))
