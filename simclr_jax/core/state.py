"""TrainState: everything that a checkpoint must hold, and nothing else."""

from typing import Any

import flax.struct
import optax
from jaxtyping import Array, Int

from simclr_jax.core.types import Collection, Params


class TrainState(flax.struct.PyTreeNode):
    """State of one run between two optimizer steps.

    Attributes:
      step: optimizer steps taken so far.
      params: what the optimizer updates; the encoder is always `params["encoder"]`.
      batch_stats: BatchNorm running statistics that belong to `params`.
      opt_state: optax state, with the structure of `params` where it mirrors them.
      method_state: memory that the method owns (EMA target, queue, teacher); `()` if none.
    """

    step: Int[Array, ""]
    params: Params
    batch_stats: Collection
    opt_state: optax.OptState
    method_state: Any = ()
