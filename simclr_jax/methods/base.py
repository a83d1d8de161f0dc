"""The contract between a method and the train step: four functions, no base class."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

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
      loss: (params, state, views, labels, key) -> (loss, StepOutput). Only `params`
        is differentiated; `state.params` is the same tree without a gradient.
      after_update: (state, carry) -> method_state, called with the *new* params,
        such as to move an EMA target or rotate a queue.
      frozen: regular expression for whole paths below params, such as "encoder/.*"; what it
        matches is not updated. "" freezes nothing.
    """

    init: Callable[[PRNGKey, Views], Variables]
    augment: Callable[[PRNGKey, Batch], Views]
    loss: Callable[[Params, TrainState, Views, Labels, PRNGKey], tuple[Scalar, StepOutput]]
    after_update: Callable[[TrainState, Any], Any] = keep_method_state
    frozen: str = ""


def init_model(model: nn.Module, key: PRNGKey, views: Views) -> Variables:
    """Returns the variables of `model`, whose shapes depend on one image as on many."""
    variables = model.init(key, views[:1, 0], train=False)
    return Variables(variables["params"], variables["batch_stats"])
