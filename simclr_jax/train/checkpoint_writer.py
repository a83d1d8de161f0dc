"""Writing checkpoints: in the background, by orbax, with the sums that they are checked by."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from simclr_jax.core.errors import StorageError
from simclr_jax.core.state import TrainState
from simclr_jax.train.checkpoint import Checkpoints, why
from simclr_jax.train.integrity import write_sums

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes the checkpoints of one run; use as a context manager, which waits for the last one."""

    def __init__(self, workdir: str, *, keep: int = 2, keep_best: str = "") -> None:
        """Opens D/checkpoints, and removes what was left half written there.

        Args:
          workdir: directory of the run.
          keep: how many of the newest checkpoints stay.
          keep_best: the metric by which the best one stays, too; "" for none. The largest value is
            the best, but of a loss the smallest.
        """
        self._checkpoints = Checkpoints(workdir)
        self.directory = self._checkpoints.directory
        self._keep = keep
        self._keep_best = keep_best
        self._sign = -1 if "loss" in keep_best else 1
        self._saving: int | None = None
        self._manager = self._open()
        stored = {step: self._checkpoints.metrics(step) for step in self._manager.all_steps()}
        self._values = {s: row[keep_best] for s, row in stored.items() if keep_best in row}

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preserve(self._stay),
            cleanup_tmp_directories=True,
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._write_sums,
                # Else a save that fails early leaves threads that wait for directories for ever.
                create_directories_asynchronously=False,
            ),
        )
        return ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers={
                # Without a limit orbax holds an encoded copy of the whole state until it commits.
                "state": ocp.StandardCheckpointHandler(save_concurrent_gb=1),
                "data": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.finish()
            self._manager.close()
            return
        try:
            self._manager.close()  # `finish` would ask other processes, which may not be here
        except Exception as lost:
            log.error("The checkpoint of step %s could not be written: %s", self._saving, why(lost))

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def is_better(self, value: float) -> bool:
        """Whether a value of the metric `keep_best` is better than that of every checkpoint."""
        best = self._best_step()
        return best is None or self._sign * value > self._sign * self._values[best]

    def save(
        self,
        step: int,
        state: TrainState,
        data: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to write a checkpoint; the files appear under their name when complete.

        Args:
          step: optimizer steps taken.
          state: state after them.
          data: position in the data stream.
          metrics: values of this step, to find the best one by.

        Raises:
          StorageError: if it cannot be started, or the one before could not be finished; older
            ones are whole then, and the next may go well.
        """
        self.finish()
        metrics = {} if metrics is None else dict(metrics)
        data = {**data, "metrics": metrics, "sums": "SHA-256"}
        self._saving = step
        if self._keep_best in metrics:
            self._values[step] = metrics[self._keep_best]
        error = None
        try:
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
            )
            if not self._manager.save(step, args=args):
                raise StorageError(f"there is one of step {self.latest_step()}")
        except Exception as failure:  # of many kinds: every layer below has its own
            error = failure
        self._require_success(error)

    def finish(self) -> None:
        """Waits until the checkpoint that is being written is complete.

        Raises:
          StorageError: if it could not be written; older ones are whole.
        """
        if self._saving is None:
            return
        error = None
        try:
            self._manager.wait_until_finished()
        except Exception as failure:  # as above
            error = failure
        self._require_success(error)
        self._saving = None

    def _require_success(self, error: Exception | None) -> None:
        """Clears up after a save that failed, on all processes if it did so on one."""
        failed = error is not None
        if jax.process_count() > 1:
            failed = bool(np.any(multihost_utils.process_allgather(np.bool_(failed))))
        if not failed:
            return
        step, self._saving = self._saving, None
        self._values.pop(step or 0, None)
        try:
            self._manager.close()
        except Exception as again:  # what is known already
            log.debug("%s", again)
        self._manager = self._open()  # removes what is half written
        reason = "another process could not write its part" if error is None else why(error)
        left = ", ".join(map(str, self._checkpoints.steps()))
        raise StorageError(
            f"The checkpoint of step {step} could not be written to {self.directory}: {reason}. "
            + (f"Older ones are as they were: step {left}." if left else "There is no older one.")
        ) from error

    def _write_sums(self) -> None:
        """Writes the sums; orbax calls it, in one process, when all files are written."""
        unfinished = self.directory / f"{self._saving}{ocp.utils.TMP_DIR_SUFFIX}"
        whole = self.directory / str(self._saving)  # in a bucket nothing is renamed
        write_sums(unfinished if unfinished.exists() else whole)

    def _best_step(self) -> int | None:
        return max(self._values, key=lambda step: self._sign * self._values[step], default=None)

    def _stay(self, steps: Sequence[int]) -> list[bool]:
        stay = {*steps[-self._keep :], self._best_step()}
        return [step in stay for step in steps]


class _Preserve:
    """Tells orbax which checkpoints stay."""

    def __init__(self, stay: Callable[[Sequence[int]], Sequence[bool]]):
        self._stay = stay

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        return self._stay([checkpoint.step for checkpoint in checkpoints])
