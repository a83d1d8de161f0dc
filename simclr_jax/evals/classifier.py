"""Top-1 and top-5 accuracy of a classifier, every example counted exactly once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Batch
from simclr_jax.evals.features import extract_features

TOP = 5


def classifier_accuracy(
    classify: Callable[[Batch], Float[Array, "b k"]],
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
) -> dict[str, Any]:
    """Returns the accuracy of logits over labelled examples.

    Rows that fill up the last batch, and images that cannot be read, are not counted.

    Args:
      classify: placed global batch -> logits.
      batches: this host's batches, with "valid"; see `data.load.eval_batches`.
      mesh: devices that the batches are spread over.

    Returns:
      "top1" and "top5" in [0, 1] (no "top5" with 5 classes or less), and
      "num_test", the examples counted.

    Raises:
      UserError: if no example has a label.
    """
    seen = extract_features(lambda batch: _hits(classify(batch), batch["label"]), batches, mesh)
    correct = seen.features[seen.labels >= 0]
    if not len(correct):
        raise UserError(
            f"None of the {len(seen.labels)} test images has a label to compare with; judge on "
            "labelled images."
        )
    accuracy = {"top1": float(correct[:, 0].mean())}
    if correct.shape[1] > 1:
        accuracy["top5"] = float(correct[:, 1].mean())
    return {**accuracy, "num_test": len(correct)}


@jax.jit
def _hits(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, "b _"]:
    """Whether the label is the first, and among the first five, of the sorted logits."""
    num_classes = logits.shape[-1]
    _, best = jax.lax.top_k(logits, min(TOP, num_classes))  # [b, 5], ties in order of class
    found = best == labels[:, None]
    columns = [found[:, 0]] + ([found.any(axis=-1)] if num_classes > TOP else [])
    return jnp.stack(columns, axis=-1).astype(jnp.float32)
