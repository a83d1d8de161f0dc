"""TrainState: everything that a checkpoint must hold, and nothing else."""

from typing import Any

import flax.struct
import optax

from simclr_jax.core.types import Params


class TrainState(flax.struct.PyTreeNode):
    """State of one run between two optimizer steps.

    Leaves are arrays, or shapes or shardings where the state is described and not held.

    Attributes:
      step: optimizer steps taken so far, int32.
      params: what the optimizer updates; the encoder, if there is one, is `params["encoder"]`.
      batch_stats: BatchNorm running statistics that belong to `params`.
      opt_state: optax state, with the structure of `params` where it mirrors them.
      method_state: memory that the method owns (EMA target, queue, teacher); `()` if none.
    """

    step: Any
    params: Params
    batch_stats: Any  # a Collection; where it is empty, checkpoints map over it as over a leaf
    opt_state: optax.OptState
    method_state: Any = ()
