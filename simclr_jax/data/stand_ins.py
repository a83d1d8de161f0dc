"""Which image stands in for one that cannot be read: the same on every machine, none twice.

All images are laid on a ring, in an order that the seed alone decides. Along it, each unreadable
image of a batch opens a bracket, and each readable image outside of the batch closes the one that
was opened last. What closes an image's bracket stands in for it: mostly the next image on the
ring, in every batch the same. Two never share one, and each is found by looking at a few images
from there on, without a word from the processes that read the other rows.
"""

import collections
import functools
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from simclr_jax.data.order import permutation

T = TypeVar("T")
_RING = 2**64 - 2  # in place of an epoch, which no run reaches; see `order._ROWS`


class StandIns:
    """The stand-ins of one global batch."""

    def __init__(self, num_examples: int, seed: int, ids: Callable[[], Int64[np.ndarray, " b"]]):
        """Says which batch.

        Args:
          num_examples: length n of the data set.
          seed: seed of the order on the ring.
          ids: returns the index of each row of the global batch; called when one is needed.
        """
        self._num_examples = num_examples
        self._seed = seed
        self._batch = functools.cache(ids)

    def find(self, row: int, look: Callable[[int], T | None]) -> T | None:
        """Returns what stands in for the image of an unreadable row.

        Where all readable images are in the batch or stand in already, it is the next readable one
        on the ring, whichever that is.

        Args:
          row: number in the global batch.
          look: returns what an index stands for; None if it cannot be read, as always for the same
            index.

        Returns:
          What `look` found; None if nothing can be read.
        """
        ring, places = _ring(self._num_examples, self._seed)
        ids = self._batch()
        start = int(places[ids[row]])
        # A batch over the end of an epoch may have an image twice: then each row opens a bracket.
        open_brackets = 1 + int(np.count_nonzero(ids[:row] == ids[row]))
        spare = None
        for k in range(1, self._num_examples):
            i = int(ring[(start + k) % self._num_examples])
            found = look(i)
            spare = found if spare is None else spare
            if found is None:
                open_brackets += self._counts[i]
            elif i not in self._counts:
                open_brackets -= 1
                if not open_brackets:
                    return found
        return spare

    @functools.cached_property
    def _counts(self) -> collections.Counter[int]:
        return collections.Counter(self._batch().tolist())


@functools.lru_cache(maxsize=2)
def _ring(num_examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the index at each place of the ring, and the place of each index."""
    ring = permutation(num_examples, seed, _RING)
    places = np.empty_like(ring)
    places[ring] = np.arange(num_examples)
    return ring, places
