"""The images that no process of a run can read, and the end of a run that has too many of them."""

import json
from collections.abc import Sequence

from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Metrics
from simclr_jax.data.quarantine import (
    Quarantine,
    TooManyUnreadableError,
    Unreadable,
    most_unreadable,
)
from simclr_jax.data.records import Source
from simclr_jax.parallel import hosts


class CountUnreadable:
    """Hook: ends the run, of all processes after the same step, if too many are unreadable.

    A process looks only at its own rows. What all have found is put together when `count` is
    called, for a line of metrics; until then each process stops at the same share by itself.
    """

    def __init__(
        self,
        quarantine: Quarantine,
        source: Source,
        *,
        max_unreadable: float,
        earlier: Sequence[Unreadable] = (),
    ) -> None:
        """Sets what counts as too many.

        Args:
          quarantine: where this process notes what it cannot read.
          source: the training images.
          max_unreadable: share of them that may be unreadable, from 0 to 1.
          earlier: what any process found before this start; it counts, but ends no run, because
            somebody may have mended it.
        """
        self._quarantine = quarantine
        self._source = source
        self._most = most_unreadable(max_unreadable, len(source))
        self._earlier = {entry.id for entry in earlier}
        self._told: set[int] = set()
        self._met: dict[int, Unreadable] = {}  # by any process, since this start

    def count(self) -> int:
        """Returns how many there are; all processes must ask after the same step."""
        new = [entry for i, entry in self._quarantine.met.items() if i not in self._told]
        self._told.update(entry.id for entry in new)
        for text in hosts.gather(json.dumps(new)):
            self._met.update((i, Unreadable(i, *rest)) for i, *rest in json.loads(text))
        return len(self._earlier | self._met.keys())

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Ends the run if there are too many.

        Raises:
          TooManyUnreadableError: on all processes.
        """
        del step, state, metrics
        if len(self._met) > self._most:
            last = next(reversed(self._met.values()))
            raise TooManyUnreadableError(len(self._met), self._source, last)
