"""Reading from storage that may fail for a while, or hang: tried again, with patience.

What storage fails to give says nothing about an image. Only its content can make it unreadable,
so the images of a run do not depend on whether its disks had trouble.
"""

import contextlib
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

import numpy as np

from simclr_jax.core.errors import TryAgainError
from simclr_jax.core.files import reason
from simclr_jax.core.ranges import NonNegative, Positive
from simclr_jax.data.records import Record, Source, captions_of, name_of, read_records

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 10.0
TELL_AFTER_SECONDS, TELL_EVERY_SECONDS = 5.0, 60.0
LOOK_EVERY_SECONDS = 0.2  # whether a read hangs


class OutageError(TryAgainError):
    """Storage gave no answer, or only errors, for longer than the run waits."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long storage is waited for.

    Attributes:
      outage_seconds: a read that fails or hangs is tried again for so long; then the run stops.
      read_timeout: seconds that a read may take before it is reported, and tried again in parallel.
    """

    outage_seconds: NonNegative = 600.0
    read_timeout: Positive = 60.0


PATIENCE = Patience()


class Reader:
    """Records of a source, read in threads, since a read may hang for ever.

    `run` does a job in a thread of the reader, and starts it again in another one if a read in it
    hangs; whichever ends first is what counts. `record`, `records` and `captions` are for use
    within a job. While storage answers, nothing is done twice: a job costs one change of threads.
    """

    def __init__(self, source: Source, patience: Patience) -> None:
        """Names the source; threads start with the first job."""
        self._source = source
        self._patience = patience
        self._closed = threading.Event()
        self._local = threading.local()  # of each thread: where its jobs go, or its attempt
        self._queues: list[queue.SimpleQueue[_Attempt | None]] = []
        self._told_at = -TELL_EVERY_SECONDS

    def record(self, i: int) -> Record:
        """Reads one record.

        Raises:
          UnreadableImageError: if its content is no image.
          OutageError: if storage fails for too long.
        """
        return self._patiently(i, lambda: self._source[i])

    def records(self, ids: np.ndarray) -> Sequence[Record | None]:
        """Reads records as `read_records` does."""
        if not len(ids):
            return []
        return self._patiently(int(ids[0]), lambda: read_records(self._source, ids))

    def captions(self, i: int) -> tuple[str, ...]:
        """Reads the captions of a record, without its image where the source can.

        Raises:
          UnreadableImageError: if they are no texts.
          OutageError: if storage fails for too long.
        """
        return self._patiently(i, lambda: captions_of(self._source, i))

    def run(self, job: Callable[[], T]) -> T:
        """Returns what `job` does, which must be the same each time.

        Raises:
          OutageError: if a read in it hangs for too long.
        """
        future: Future[T] = Future()
        attempt = self._start(job, future)
        first_hang: float | None = None
        while True:
            try:
                return future.result(timeout=LOOK_EVERY_SECONDS)
            except TimeoutError:
                if future.done():
                    raise
            if self._closed.is_set():
                raise RuntimeError("The reader was closed; nobody waits for this.")
            if attempt.reads is None:
                continue
            i, since = attempt.reads
            now = time.monotonic()
            if now - since < self._patience.read_timeout:
                continue
            name = name_of(self._source, i)
            first_hang = since if first_hang is None else first_hang
            if now - first_hang >= self._patience.outage_seconds:
                raise self._outage(name, now - first_hang, "the read hangs")
            log.warning("Reading %s takes more than %.3g s: tried again.", name, now - since)
            del self._local.queue  # its thread is stuck
            attempt = self._start(job, future)

    def close(self) -> None:
        """Ends the threads that are not stuck; those are left to the system."""
        self._closed.set()
        for jobs in self._queues:
            jobs.put(None)

    def _start(self, job: Callable[[], Any], future: "Future[Any]") -> "_Attempt":
        if not hasattr(self._local, "queue"):
            self._local.queue = queue.SimpleQueue()
            self._queues.append(self._local.queue)
            threading.Thread(
                target=self._work, args=(self._local.queue,), name="reader", daemon=True
            ).start()
        attempt = _Attempt(job, future)
        self._local.queue.put(attempt)
        return attempt

    def _work(self, jobs: "queue.SimpleQueue[_Attempt | None]") -> None:
        while (attempt := jobs.get()) is not None:
            self._local.attempt = attempt
            attempt.run()
            if self._closed.is_set():
                return

    def _patiently(self, i: int, read: Callable[[], T]) -> T:
        attempt: _Attempt | None = getattr(self._local, "attempt", None)
        failed_at: float | None = None
        pause = FIRST_PAUSE_SECONDS
        while True:
            now = time.monotonic()
            if attempt is not None:
                attempt.reads = (i, now)
            try:
                return read()
            except OSError as error:
                failed_at = now if failed_at is None else failed_at
                waited = time.monotonic() - failed_at
                name, why = name_of(self._source, i), reason(error)
                if waited + pause > self._patience.outage_seconds or self._closed.is_set():
                    raise self._outage(name, waited, why) from error
                self._tell(name, waited, why)
            finally:
                if attempt is not None:
                    attempt.reads = None
            self._closed.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _tell(self, name: str, waited: float, why: str) -> None:
        now = time.monotonic()
        if waited >= TELL_AFTER_SECONDS and now - self._told_at >= TELL_EVERY_SECONDS:
            self._told_at = now
            log.warning(
                "%s cannot be read since %.0f s: %s. Tried again until %.0f s are over.",
                name, waited, why, self._patience.outage_seconds,
            )  # fmt: skip

    def _outage(self, name: str, seconds: float, why: str) -> OutageError:
        return OutageError(
            f"{name} of {self._source.name} could not be read for {seconds:.0f} s: {why}. If its "
            "storage is away for longer, --config.data.outage_seconds waits for it; once it is "
            "there, the same command goes on. If only this image is gone or locked, bring it back."
        )


class _Attempt:
    """One try at a job; `reads` says which record it waits for, and since when."""

    def __init__(self, job: Callable[[], Any], future: "Future[Any]") -> None:
        self.reads: tuple[int, float] | None = None
        self._job = job
        self._future = future

    def run(self) -> None:
        with contextlib.suppress(InvalidStateError):  # another attempt was faster
            try:
                result = self._job()
            except BaseException as error:  # whoever waits gets it
                self._future.set_exception(error)
            else:
                self._future.set_result(result)
