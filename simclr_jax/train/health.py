"""Steps whose loss or gradient is not finite: none is applied; the run stops, or goes on."""

import json
import logging
import math
from collections.abc import Callable

import numpy as np
from etils import epath
from jaxtyping import Int

from simclr_jax.core.files import append_lines, reason
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Metrics

log = logging.getLogger(__name__)
THEN = ("stop", "skip", "roll back")
MOST_IN_A_ROW = 10  # so many steps are skipped; more are no matter of a few images


class NonFiniteError(FloatingPointError):
    """The loss or a gradient became infinite or NaN; the update was not applied."""


class RollBackError(NonFiniteError):
    """The same; the run goes on from its last checkpoint with the batches after `step`."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(what)
        self.step = step


class OnNonFinite:
    """Hook: checks each step one step late, so that the device is never kept waiting.

    Each step that is not finite is noted in D/non_finite.jsonl, with the images of its batch.
    """

    def __init__(
        self,
        then: str,
        path: epath.PathLike,
        ids: Callable[[int], Int[np.ndarray, " b"]],
        *,
        examples: str,
        writes: bool = True,
    ) -> None:
        """Sets what happens then.

        Args:
          then: one of `THEN`; "skip", too, stops after `MOST_IN_A_ROW` steps in a row.
          path: file for the notes.
          ids: number of a batch, from 0 -> its images, or those that others stand in for.
          examples: what these are called, such as "images".
          writes: whether this process takes the notes.
        """
        self._then = then
        self._path = epath.Path(path)
        self._ids = ids
        self._examples = examples
        self._writes = writes
        self._previous: tuple[int, Metrics] | None = None
        self._last = 0  # step that was not finite
        self._in_a_row = 0

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Checks the step before this one."""
        del state
        if self._previous is not None:
            self.check(*self._previous)
        self._previous = (step, metrics)

    def check(self, step: int, metrics: Metrics) -> None:
        """Waits for the metrics of `step` and checks that its update was finite.

        Raises:
          NonFiniteError: naming the step, if the run must stop.
          RollBackError: if it must go back.
        """
        if bool(metrics["health/finite"]) or step == self._last:
            return
        self._in_a_row = self._in_a_row + 1 if step == self._last + 1 else 1
        self._last = step
        loss, norm = float(metrics["loss"]), float(metrics["norm/grads"])
        culprit = "loss" if not math.isfinite(loss) else "gradient"
        ids = self._ids(step - 1).tolist()
        self._note({"step": step, "loss": str(loss), "norm/grads": str(norm), "ids": ids})
        what = (
            f"The {culprit} is not finite at step {step} (loss {loss}, gradient norm {norm}). "
            f"The update was not applied; {self._path} names the {len(ids)} {self._examples} of "
            "its batch."
        )
        if self._then == "skip" and self._in_a_row <= MOST_IN_A_ROW:
            log.warning("%s The run goes on.", what)
            return
        if self._then == "roll back":
            raise RollBackError(what, step)
        raise NonFiniteError(
            f"{what} Usual causes: a learning rate that is too high (lower schedule.base_lr or "
            "raise schedule.warmup_epochs), a temperature that is too low, or "
            f"{self._examples} that hold NaN."
        )

    def _note(self, row: dict[str, object]) -> None:
        if not self._writes:
            return
        try:
            append_lines(self._path, [json.dumps(row)])
        except OSError as error:  # the message says the most of it
            log.warning("%s cannot be written: %s.", self._path, reason(error))
