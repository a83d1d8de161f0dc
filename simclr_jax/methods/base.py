"""The contract between a method and the train step: four functions, no base class."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from simclr_jax.core.placement import replicate
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import (
    Batch,
    Collection,
    Labels,
    Metrics,
    Params,
    PRNGKey,
    Scalar,
    Views,
)


class Variables(NamedTuple):
    """What `Method.init` creates; it must run under `jax.eval_shape`."""

    params: Params
    batch_stats: Collection
    method_state: Any = ()


class StepOutput(NamedTuple):
    """What a loss hands back beside its value."""

    batch_stats: Collection
    metrics: Metrics
    carry: Any = ()  # for `after_update`, such as the keys that MoCo enqueues


def keep_method_state(state: TrainState, carry: Any) -> Any:
    """Default `after_update`: returns the method's state unchanged."""
    del carry
    return state.method_state


@dataclasses.dataclass(frozen=True)
class Method:
    """A training recipe as the train step sees it.

    Attributes:
      init: (key, views) -> Variables; only the shapes of `views` matter.
      augment: (key, batch) -> views, run on the device inside the train step.
      loss: (params, state, views, labels, key) -> (value, StepOutput). `value` is what is
        minimised, and may be a multiple of the metric "loss" (`simclr`'s gradient_scale). Only
        `params` is differentiated; `state.params` is the same tree without a gradient.
      after_update: (state, carry) -> method_state, called with the *new* params,
        such as to move an EMA target or rotate a queue.
      frozen: regular expression for whole paths below params, such as "encoder/.*"; what it
        matches is not updated. "" freezes nothing.
      grad_cache_chunks: parts of the batch that go through the network one after the other.
      train_batch_norm: whether BatchNorm normalises with the batch and moves its statistics.
    """

    init: Callable[[PRNGKey, Views], Variables]
    augment: Callable[[PRNGKey, Batch], Views]
    loss: Callable[[Params, TrainState, Views, Labels, PRNGKey], tuple[Scalar, StepOutput]]
    after_update: Callable[[TrainState, Any], Any] = keep_method_state
    frozen: str = ""
    grad_cache_chunks: int = 1
    train_batch_norm: bool = True


def apply_model(
    model: nn.Module,
    params: Params,
    batch_stats: Collection,
    views: Views,
    *,
    train: bool = True,
    grad_cache_chunks: int = 1,
) -> tuple[Any, Collection]:
    """Applies a network to all views, in parts of the batch if all at once would not fit.

    With several parts, nothing of a part is kept but what it puts out: the backward pass computes each
    part once more and adds up the gradients. The loss still sees every row, so that, other than
    with gradient accumulation, a contrastive loss is that of the whole batch. This is the
    gradient cache of Gao et al. 2021, https://arxiv.org/abs/2101.06983. It is exact for a network
    without batch statistics. BatchNorm normalises each part with its own statistics, and the
    running ones move towards the mean over the parts.

    Args:
      model: takes (images [n, h, w, c], train); it may have a collection "batch_stats".
      params: parameters; they may be split over the devices, and are gathered here.
      batch_stats: running statistics.
      views: augmented images.
      train: normalise with the statistics of the images and move the running ones.
      grad_cache_chunks: parts of the batch, a divisor of b; with c of them, part i has the images
        i, i + c, and so on, of which every device has equally many.

    Returns:
      What the network puts out, with rows [b * v, ...] ordered as in `views`, and the new
      running statistics.
    """
    params, batch_stats = jax.tree.map(replicate, (params, batch_stats))

    def apply(views: Views) -> tuple[Any, Collection]:
        rows = views.reshape(-1, *views.shape[2:])  # batch-major: no communication
        variables = {"params": params, "batch_stats": batch_stats}
        out, updated = model.apply(variables, rows, train=train, mutable=["batch_stats"])
        return out, {"batch_stats": {}, **updated}["batch_stats"]

    if grad_cache_chunks == 1:
        return apply(views)
    b, v = views.shape[:2]
    parts = views.reshape(b // grad_cache_chunks, grad_cache_chunks, *views.shape[1:]).swapaxes(
        0, 1
    )
    out, stats = jax.lax.map(jax.checkpoint(apply, prevent_cse=False), parts)

    def merge(x: jax.Array) -> jax.Array:  # [parts, b / parts * v, ...] -> [b * v, ...]
        x = x.reshape(grad_cache_chunks, b // grad_cache_chunks, v, *x.shape[2:]).swapaxes(0, 1)
        return x.reshape(b * v, *x.shape[3:])

    out = jax.tree.map(merge, out)
    if not train:  # a mean of equals would round
        return out, batch_stats
    return out, jax.tree.map(lambda x: x.mean(axis=0), stats)


def check_grad_cache_chunks(grad_cache_chunks: int) -> None:
    """Checks a number of chunks for `apply_model`.

    Raises:
      ValueError: if it is not positive.
    """
    if grad_cache_chunks < 1:
        raise ValueError(
            f"grad_cache_chunks={grad_cache_chunks}; it must be at least 1, which is all at once."
        )


def init_model(model: nn.Module, key: PRNGKey, views: Views) -> Variables:
    """Returns the variables of `model`, whose shapes depend on one image as on many."""
    variables = {"batch_stats": {}, **model.init(key, views[:1, 0], train=False)}
    return Variables(variables["params"], variables["batch_stats"])
