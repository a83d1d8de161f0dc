"""Memories of methods: a target that follows the network, and a ring of past rows.

He et al. 2019, https://arxiv.org/abs/1911.05722 (MoCo), Equation 2 and Algorithm 1
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Collection, Params, PRNGKey
from simclr_jax.losses.similarity import l2_normalize
from simclr_jax.methods.base import Variables
from simclr_jax.parallel.mesh import AXES
from simclr_jax.parallel.sharding import Rule

Queue: TypeAlias = Float[Array, "k d"]
# Each device keeps the rows of its own images and writes them in place; see `Ring`.
RING_RULE = Rule("queue(/.*)?", 1, AXES)


@dataclasses.dataclass(frozen=True)
class Target:
    """An exponential moving average of the network, or of parts of it.

    It starts as a copy and follows the parameters after each step. Its BatchNorm statistics are
    its own. State: {"params", "batch_stats"} of the parts.

    Attributes:
      ema: share of itself that the target keeps: a number in [0, 1), or a function of the number
        of updates before this one.
      parts: names of subtrees of the parameters, such as ("encoder", "projector"); all if empty.
    """

    ema: float | Callable[[Int[Array, ""]], Float[Array, ""]]
    parts: tuple[str, ...] = ()

    def init(self, variables: Variables) -> dict[str, Any]:
        """Returns the target before the first step."""
        trees = {"params": variables.params, "batch_stats": variables.batch_stats}
        # Copies, because the train step is given the whole state to overwrite.
        return {name: jax.tree.map(jnp.copy, self._select(tree)) for name, tree in trees.items()}

    def update(self, target: Any, state: TrainState, batch_stats: Collection) -> dict[str, Any]:
        """Returns the target after a step.

        Args:
          target: target before the step.
          state: state with the new params, and with a step that counts this one.
          batch_stats: the target's running statistics.
        """
        keep = self.ema(state.step - 1) if callable(self.ema) else self.ema
        params = optax.incremental_update(self._select(state.params), target["params"], 1 - keep)
        return {"params": params, "batch_stats": batch_stats}

    def _select(self, tree: Params) -> dict[str, Any]:
        return {name: tree[name] for name in tree if not self.parts or name in self.parts}


def cosine_ema(start: float, num_steps: int) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """Returns an EMA rate that rises from `start` to 1 over a run, on half a cosine.

    Grill et al. 2020, https://arxiv.org/abs/2006.07733, Section 3.3

    Raises:
      ValueError: if `start` is not in [0, 1].
    """
    if not 0 <= start <= 1:
        raise ValueError(f"ema={start}; it must be in [0, 1]. BYOL uses 0.996, MoCo v3 0.99.")
    done = lambda step: jnp.clip(step / num_steps, 0, 1)
    return lambda step: 1 - (1 - start) * (1 + jnp.cos(jnp.pi * done(step))) / 2


@dataclasses.dataclass(frozen=True)
class Ring:
    """A queue of the rows of past batches: keys, and what else is known of them.

    Its state is a tree of arrays [slots, n, ...]: step t, from 0, writes slot t % slots with the n
    rows of its batch. `RING_RULE` splits it over the devices.

    Attributes:
      size: rows in all slots, a multiple of the n rows of a batch.
    """

    size: int

    def num_slots(self, num_rows: int, path: str) -> int:
        """Returns how many batches of rows it holds.

        Args:
          num_rows: rows of a batch.
          path: where the size stands in a config, for messages, such as "memory.size".

        Raises:
          ValueError: if that is not a whole number; with sizes that work.
        """
        slots, rest = divmod(self.size, num_rows)
        if slots < 1 or rest:
            works = [str(num_rows * n) for n in (slots, slots + 1) if n >= 1] or [str(num_rows)]
            raise ValueError(
                f"{path}={self.size} is not a multiple of the {num_rows} rows that a batch adds "
                f"to it; use {' or '.join(works)}."
            )
        return slots

    def init(self, key: PRNGKey, num_rows: int, width: int, path: str) -> Float[Array, "slots n d"]:
        """Returns random directions, float32, in the place of past keys.

        Args:
          key: random key for the directions.
          num_rows: rows of a batch.
          width: d.
          path: place of the size in a config, as for `num_slots`, which says what is raised.
        """
        shape = (self.num_slots(num_rows, path), num_rows, width)
        return l2_normalize(jax.random.normal(key, shape, jnp.float32))

    def push(self, ring: Any, rows: Any, state: TrainState) -> Any:
        """Returns the ring with the oldest rows replaced.

        Args:
          ring: tree of [slots, n, ...].
          rows: tree of [n, ...].
          state: state after the step, so that its step counts this batch.
        """

        def write(slots: jax.Array, new: jax.Array) -> jax.Array:
            slot = (state.step - 1) % slots.shape[0]
            return jax.lax.dynamic_update_index_in_dim(slots, new.astype(slots.dtype), slot, axis=0)

        return jax.tree.map(write, ring, rows)


def ring_rows(ring: Any) -> Any:
    """Returns the arrays [slots, n, ...] of a ring as lists of rows [slots * n, ...].

    In this order, row by row of the batch, each device's share is a block of the list, so that
    nothing has to move. The order does not matter to a loss.
    """
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), ring)


@dataclasses.dataclass(frozen=True)
class TargetAndQueue:
    """A target, and a queue of the keys that it made; its state is {"target", "queue"}.

    The queue [slots, n, d] is float32, holds unit keys, and starts with random directions.

    Attributes:
      target: what makes the keys.
      ring: how many keys the queue holds.
      num_keys: n, keys of one batch.
      path: where the size of the queue stands in a config, for messages.
    """

    target: Target
    ring: Ring
    num_keys: int
    path: str

    def init(self, key: PRNGKey, variables: Variables, width: int) -> dict[str, Any]:
        """Returns the state before the first step.

        Args:
          key: random key of `Method.init`, from which that of the queue is derived.
          variables: variables of the network at its start.
          width: d.

        Raises:
          ValueError: if the queue is not a whole number of batches.
        """
        key = jax.random.fold_in(key, 1)
        queue = self.ring.init(key, self.num_keys, width, self.path)
        return {"target": self.target.init(variables), "queue": queue}

    def update(self, state: TrainState, carry: tuple[Array, Collection]) -> dict[str, Any]:
        """Returns the state after a step.

        Args:
          state: state with the new params, and with a step that counts this one.
          carry: the keys of the batch, [..., d] and of any length, and the target's running
            statistics.
        """
        (keys, batch_stats), old = carry, state.method_state
        rows = l2_normalize(keys).reshape(-1, keys.shape[-1])
        return {
            "target": self.target.update(old["target"], state, batch_stats),
            "queue": self.ring.push(old["queue"], rows, state),
        }
