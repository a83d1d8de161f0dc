"""Momentum memory: an EMA copy of the network, and a queue of what it made of past batches.

He et al. 2019, https://arxiv.org/abs/1911.05722 (MoCo)
Chen et al. 2020, https://arxiv.org/abs/2006.10029, Section 2 (its use in SimCLRv2)
"""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from simclr_jax.core.errors import UserError
from simclr_jax.core.ranges import Count
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Collection, PRNGKey
from simclr_jax.losses.contrastive import l2_normalize
from simclr_jax.methods.base import Variables

Keys: TypeAlias = Float[Array, "b v d"]


@dataclasses.dataclass(frozen=True)
class Memory:
    """The momentum memory of SimCLRv2.

    The paper gives it one sentence and the released code lacks it. Its author says that what a
    view is compared with comes from the momentum encoder, from this batch and past ones, as in
    MoCo (github.com/google-research/simclr/issues/115). We read that as follows. As in MoCo, the
    target starts as a copy of the network, normalises with the statistics of its batch, and
    follows the weights after each step; the queue starts with random directions. As in SimCLR,
    both views of an image are queries and keys, and the keys of other images of this batch are
    negatives, besides the queue. MoCo shuffles images between devices because each of them
    normalises by itself; here BatchNorm is global, and nothing leaks.

    The state of a method with a memory is {"target": {"params", "batch_stats"}, "queue"}. The
    queue [slots, 2b, d] is float32 and holds unit keys; step t, from 0, writes slot t % slots.

    Attributes:
      size: keys in the queue, a multiple of the 2b keys of a batch; the paper's 64K if not set.
      ema: share of itself that the target keeps in each step, in [0, 1).
    """

    size: Count = 65536
    ema: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(
                f"ema={self.ema}; it must be in [0, 1): at 1 the target would never move. "
                "The paper uses 0.999."
            )

    def start(self, key: PRNGKey, variables: Variables, shape: tuple[int, int, int]) -> Any:
        """Returns the state before the first step.

        Args:
          key: of the random directions in the queue.
          variables: those of the network, which the target copies.
          shape: of the keys of one batch, [b, 2, d].

        Raises:
          UserError: if the queue is not a whole number of batches; with sizes that work.
        """
        b, v, d = shape
        network = {"params": variables.params, "batch_stats": variables.batch_stats}
        queue = jax.random.normal(key, (self._num_slots(b, b * v), b * v, d), jnp.float32)
        # Copies, because the train step is given the whole state to overwrite.
        return {"target": jax.tree.map(jnp.copy, network), "queue": l2_normalize(queue)}

    def after_update(self, state: TrainState, carry: tuple[Keys, Collection]) -> Any:
        """Returns the state after a step: the target moves, and the oldest keys are replaced.

        Args:
          state: with the new params, and with a step that counts this one.
          carry: this batch's keys, of any scale, and the target's running statistics.
        """
        keys, batch_stats = carry
        target, queue = state.method_state["target"], state.method_state["queue"]
        rows = l2_normalize(keys).reshape(queue.shape[1:])
        slot = (state.step - 1) % queue.shape[0]
        return {
            "target": {
                "params": optax.incremental_update(state.params, target["params"], 1 - self.ema),
                "batch_stats": batch_stats,
            },
            "queue": jax.lax.dynamic_update_index_in_dim(queue, rows, slot, axis=0),
        }

    def _num_slots(self, num_images: int, num_keys: int) -> int:
        slots, rest = divmod(self.size, num_keys)
        if slots < 1 or rest:
            works = [str(num_keys * n) for n in (slots, slots + 1) if n >= 1] or [str(num_keys)]
            raise UserError(
                f"config.method.memory.size={self.size} is not a multiple of the {num_keys} keys "
                f"that a batch of {num_images} images makes; use {' or '.join(works)}."
            )
        return slots


def negatives(queue: Float[Array, "s n d"]) -> Float[Array, "k d"]:
    """Returns the queue as one list of keys.

    In this order, row by row of the batch, each device's share is a block of the list, so that
    no key has to move. The order does not matter to a loss.
    """
    return queue.swapaxes(0, 1).reshape(-1, queue.shape[-1])
