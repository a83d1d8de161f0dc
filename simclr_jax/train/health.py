"""Stops a run before it trains on numbers that are not finite."""

import math

from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Metrics


class NonFiniteError(FloatingPointError):
    """The loss or a gradient became infinite or NaN; the update was not applied."""


def require_finite(step: int, metrics: Metrics) -> None:
    """Waits for the metrics of `step` and checks that its update was finite.

    Raises:
      NonFiniteError: naming the step; the train step has kept the state before it.
    """
    if not bool(metrics["health/finite"]):
        loss, norm = float(metrics["loss"]), float(metrics["norm/grads"])
        culprit = "loss" if not math.isfinite(loss) else "gradient"
        raise NonFiniteError(
            f"The {culprit} is not finite at step {step} (loss {loss}, gradient norm {norm}). "
            "The update was not applied. Usual causes: a learning rate that is too high "
            "(lower schedule.base_lr or raise schedule.warmup_epochs), a temperature that is "
            "too low, or images that hold NaN."
        )


class StopOnNonFinite:
    """Hook: checks each step one step late, so that the device is never kept waiting."""

    def __init__(self) -> None:
        self._previous: tuple[int, Metrics] | None = None

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Checks the step before this one."""
        del state
        if self._previous is not None:
            require_finite(*self._previous)
        self._previous = (step, metrics)
