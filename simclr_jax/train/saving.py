"""When a run saves, and what it does when that fails."""

import logging
import time
from typing import Any

from simclr_jax.core.errors import StorageError
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Metrics
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from simclr_jax.train.health import NonFiniteError, OnNonFinite
from simclr_jax.train.metrics import MetricsWriter
from simclr_jax.train.replicas import require_equal_replicas

log = logging.getLogger(__name__)
TRIES_PER_INTERVAL = 4  # to save again after a failure
PAUSES_SECONDS = (5, 10, 20, 40)  # between the tries to save the last step


class SaveCheckpoint:
    """Hook: saves every `every` steps and at the last step, if the step was finite.

    Before that, devices that hold copies of the state are compared.

    A save that fails is tried again with a later step, four times an interval, while the run goes
    on; older checkpoints stay. The last step is tried for more than a minute.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        metrics: MetricsWriter,
        *,
        every: int,
        num_steps: int,
        batch_size: int,
        listing: str,
        on_non_finite: OnNonFinite,
        evaluated: str = "",
        keep_best: str = "",
    ) -> None:
        """Sets when to save.

        Args:
          writer: what writes checkpoints.
          metrics: the run's writer of metrics; its lines are written before this hook is called.
          every: steps from one checkpoint to the next.
          num_steps: steps of the whole run.
          batch_size: images of a step.
          listing: fingerprint of the training images.
          on_non_finite: what checks a step before it is saved.
          evaluated: see `Method.evaluated`.
          keep_best: the metric of `CheckpointWriter`. If it comes from an evaluation, a step that
            is better than all before is saved, whatever `every` is.
        """
        self._writer = writer
        self._metrics = metrics
        self._every = every
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._listing = listing
        self._on_non_finite = on_non_finite
        self._evaluated = evaluated
        self._keep_best = keep_best
        self._failed = False
        self._confirm_at: int | None = None  # the step by which the last save must be finished

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Saves if it is time to."""
        if step == self._num_steps:
            self.save_at_last(step, state, metrics)
            return
        due = step % self._every == 0 or self._is_best(step, metrics)
        if step == self._confirm_at:
            due = due or self._failed or not self._finished()
        if due:
            self._confirm_at = step + max(1, self._every // TRIES_PER_INTERVAL)
            self._failed = not self._started(step, state, metrics)

    def save_at_last(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Saves, and waits until that is done: there will be no later step.

        Raises:
          StorageError: if it cannot be done in several tries.
        """
        for pause in PAUSES_SECONDS:
            if self._started(step, state, metrics) and self._finished():
                return
            log.warning("Next try in %d s.", pause)
            time.sleep(pause)
        self._start(step, state, metrics)
        self._writer.finish()

    def _started(self, step: int, state: TrainState, metrics: Metrics) -> bool:
        try:
            self._start(step, state, metrics)
        except StorageError as error:
            log.warning("%s", error)
            return False
        return True

    def _finished(self) -> bool:
        try:
            self._writer.finish()
        except StorageError as error:
            log.warning("%s", error)
            return False
        return True

    def _start(self, step: int, state: TrainState, metrics: Metrics) -> None:
        self._on_non_finite.check(step, metrics)
        if self._writer.latest_step() == step:
            return
        require_equal_replicas(step, state)
        self._writer.save(step, state, self._data(step), self._best_by(step, metrics))

    def _data(self, step: int) -> dict[str, Any]:
        # The position in the stream of shuffled images: the next batch starts there.
        return {
            "next_example": step * self._batch_size,
            "listing": self._listing,
            "evaluated": self._evaluated,
        }

    def roll_back(self, step: int, checkpoints: Checkpoints, abstract_state: TrainState) -> None:
        """Makes a checkpoint of `step` that holds what the newest one holds.

        Raises:
          NonFiniteError: if there is none.
          StorageError: if it cannot be written.
        """
        self._writer.finish()
        last = self._writer.latest_step()
        if last is None:
            raise NonFiniteError(f"Step {step} cannot be rolled back: there is no checkpoint yet.")
        if last < step:
            state = checkpoints.restore(last, abstract_state)
            state = state.replace(step=state.step + (step - last))
            self._writer.save(step, state, self._data(step))
            self._writer.finish()
        log.warning("Rolled back to step %d; the batches until step %d are left out.", last, step)
        log.info("Checkpoint at step %d -> %s", step, self._writer.directory)

    def _best_by(self, step: int, metrics: Metrics) -> dict[str, float]:
        """Returns the metric to find the best checkpoint by, if there is one at this step."""
        row, name = self._metrics.last_row, self._keep_best
        if name in metrics:
            return {name: float(metrics[name])}
        return {name: row[name]} if name in row and row["step"] == step else {}

    def _is_best(self, step: int, metrics: Metrics) -> bool:
        if not self._keep_best or self._keep_best in metrics:
            return False
        values = self._best_by(step, metrics)
        return bool(values) and self._writer.is_better(values[self._keep_best])
