"""Progress of a long piece of work, logged now and then."""

import logging
import time

log = logging.getLogger(__name__)
TELL_EVERY_SECONDS = 5.0


class Progress:
    """Counts what is done, and logs it every few seconds, with the time that is left."""

    def __init__(self, what: str, total: int) -> None:
        """Says what is done, such as "Images looked at", and how many there are."""
        self._what, self._total, self._done = what, total, 0
        self._start = self._told_at = time.monotonic()

    def add(self, count: int) -> None:
        """Counts what has been done since the last call."""
        self._done += count
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY_SECONDS:
            self._told_at = now
            rate = self._done / (now - self._start)
            log.info(
                "%s: %s of %s, %.0f a second, %.0f s left.",
                self._what, f"{self._done:,}", f"{self._total:,}", rate,
                (self._total - self._done) / max(rate, 1e-9),
            )  # fmt: skip
