"""Hooks of the loop: metrics and progress, and an orderly stop on signals."""

import contextlib
import datetime
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Metrics, Params
from simclr_jax.data.quarantine import TooManyUnreadableError
from simclr_jax.data.reading import OutageError
from simclr_jax.train.metrics import MetricsWriter
from simclr_jax.train.norms import copied, norms_of_update
from simclr_jax.train.saving import SaveCheckpoint

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 10.0  # of plain progress in a log file


class Terminated(Exception):  # noqa: N818 - it is no error: the run was asked to stop
    """The run stopped on a signal, after a checkpoint at `step`, if that is not 0."""

    def __init__(self, step: int, signum: int = signal.SIGTERM) -> None:
        name = signal.Signals(signum).name
        when = f"after a checkpoint at step {step}" if step else "before the first step"
        super().__init__(f"Stopped by {name} {when}.")
        self.step = step
        self.signum = signum


class StopOnSignal:
    """Hook: after a signal, finishes the step, saves a checkpoint and raises `Terminated`.

    The signals are SIGTERM, Ctrl-C (a second one ends the process at once) and SIGHUP, which a
    terminal sends when it is closed. One that was ignored before stays so, as under nohup.

    With several processes, all stop after the same step if any of them gets a signal: JAX catches
    SIGTERM, and finds a step that none has passed.
    """

    def __init__(self, save_checkpoint: SaveCheckpoint, *, first_step: int) -> None:
        self._save_checkpoint = save_checkpoint
        self._step = first_step
        self._waits = False  # for a batch
        self._signum: int | None = None
        self._alone = jax.process_count() == 1
        self._previous = {
            signum: signal.signal(signum, self._on_signal)
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            if signal.getsignal(signum) != signal.SIG_IGN
            and (self._alone or signum != signal.SIGTERM)
        }

    def _on_signal(self, signum: int, frame: object) -> None:
        del frame
        self._signum = signum
        if signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            # Not through `logging`: the signal may have come while that was writing.
            os.write(2, b"\nSaving a checkpoint. Ctrl-C again ends at once, without it.\n")
        if not self._alone:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._waits:
            raise Terminated(self._step, signum)

    def answering(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields batches; a signal ends the wait for one if no other process waits for us."""
        while True:
            self._waits = True
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._waits = False
            yield batch

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Stops the run if a signal has come since the last step."""
        self._step = step
        if self._alone:
            asked = self._signum is not None
        else:
            asked = multihost_utils.reached_preemption_sync_point(step)
        if asked:
            self._save_checkpoint.save_at_last(step, state, metrics)
            raise Terminated(step, self._signum or signal.SIGTERM)

    def close(self) -> None:
        """Restores what the signals did before."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


class Waits:
    """Iterator: hands batches on, and counts the seconds that the loop waits for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        asked = time.monotonic()
        try:
            return next(self._batches)
        finally:
            self.seconds += time.monotonic() - asked


class SaveAtEarlyEnd:
    """Hook and context: where no batch comes after a step, saves that step.

    Several processes save together: their batches must end after the same step.
    """

    def __init__(self, save_checkpoint: SaveCheckpoint) -> None:
        self._save_checkpoint = save_checkpoint
        self._last: tuple[int, TrainState, Metrics] | None = None
        self._ended = False

    def watching(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields batches, and notes when they end with an error."""
        try:
            yield from batches
        except Exception:
            self._ended = True
            raise

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Notes the last step."""
        self._last = (step, state, metrics)

    def __enter__(self) -> "SaveAtEarlyEnd":
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Saves, unless what ends the run is something else."""
        early = self._ended or isinstance(error, TooManyUnreadableError)
        # An evaluation, too, may find storage away, but of several processes perhaps one alone.
        alone = isinstance(error, OutageError) and jax.process_count() == 1
        if (early or alone) and self._last is not None:
            self._save_checkpoint.save_at_last(*self._last)


class LogMetrics:
    """Hook: writes metrics every `every` steps, and shows progress with the time left.

    Those lines have the norms of the parameters and of their update, too, for which a copy of the
    parameters is kept during the step.

    On a terminal progress is a bar that stays at the bottom; in a log file it is a plain
    line every ten seconds or so.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        schedule: optax.Schedule,
        params: Params,
        *,
        every: int,
        first_step: int,
        num_steps: int,
        batch_size: int,
        num_examples: int,
        examples: str,
        count_unreadable: Callable[[], int],
        seconds_waited: Callable[[], float],
        started: float,
    ) -> None:
        self._writer = writer
        self._schedule = schedule
        self._every = every
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._num_examples = num_examples
        self._examples = examples  # what they are called
        self._count_unreadable = count_unreadable
        self._seconds_waited = seconds_waited
        self._waited = 0.0  # until the last line
        self._started = started  # of the run, by `time.monotonic`
        self._trained = 0.0  # seconds
        self._seconds_before = writer.last_row.get("seconds", 0.0)  # of a resumed run
        self._start = self._logged_at = self._printed_at = time.monotonic()
        self._first_step = self._logged_step = first_step
        # Parameters before a step whose line is due. The first one's is, so that what is compiled
        # for this counts as time of the compiler.
        self._before = copied(params) if self._is_due(first_step + 1) else None
        self._bar: Progress | None = None
        if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=num_steps, completed=first_step, note="")
            self._bar.start()

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Logs and shows what is due at this step."""
        if self._before is not None:
            metrics = {**metrics, **norms_of_update(self._before, state.params)}
        self._before = copied(state.params) if self._is_due(step + 1) else None
        if self._is_due(step) or self._writer.pending:
            self._log(step, metrics, last=step == self._num_steps)
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def _is_due(self, step: int) -> bool:
        # The first step's line shows at once that the run is alive, and how long it compiled.
        first, last = step == self._first_step + 1, step == self._num_steps
        return (step % self._every == 0 or first or last) and step <= self._num_steps

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            with contextlib.suppress(OSError):  # the terminal may have been closed
                self._bar.stop()

    def _log(self, step: int, metrics: Metrics, *, last: bool) -> None:
        values = {name: float(np.asarray(value)) for name, value in metrics.items()}
        now, waited = time.monotonic(), self._seconds_waited()  # after the wait for the device
        timed: dict[str, float] = {}
        if self._logged_step > self._first_step:  # the first step's time is that of the compiler
            seconds = now - self._logged_at - self._writer.pending.get("eval_seconds", 0.0)
            timed["pairs_per_second"] = (step - self._logged_step) * self._batch_size / seconds
            timed["wait_share"] = (waited - self._waited) / seconds
            self._trained += seconds - (waited - self._waited)
            timed["goodput"] = self._trained / (now - self._started)
        row = self._writer.write(
            step,
            {
                "epoch": step * self._batch_size / self._num_examples,
                **values,
                "lr": float(np.asarray(self._schedule(step - 1))),
                **timed,
                "unreadable_images": self._count_unreadable(),
                "seconds": self._seconds_before + now - self._start,
            },
        )
        self._logged_step, self._logged_at, self._waited = step, now, waited
        note = _note(row, self._examples)
        if self._bar is not None:
            self._bar.update(self._task, note=note)
        elif not timed or last or now - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._printed_at = now
            if timed:
                left = (self._num_steps - step) * self._batch_size / timed["pairs_per_second"]
                note += f"  left {datetime.timedelta(seconds=round(left))}"
            log.info("step %d/%d  %s", step, self._num_steps, note)


def _note(row: dict[str, Any], examples: str) -> str:
    parts = [f"epoch {row['epoch']:.1f}", f"loss {row['loss']:.3f}"]
    if "loss_chance" in row:
        parts.append(f"(chance {row['loss_chance']:.3f})")
    if "knn_top1" in row:
        parts.append(f"kNN {row['knn_top1']:.1%}")
    if "test_top1" in row:
        parts.append(f"test top-1 {row['test_top1']:.1%}")
    if "pairs_per_second" in row:
        parts.append(f"{row['pairs_per_second']:.0f} {examples}/s")
    return "  ".join(parts)
