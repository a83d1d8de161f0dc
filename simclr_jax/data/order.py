"""The global order of examples: a function of seed, epoch and position, of nothing else.

Each epoch is a permutation of the data set, and epochs stand end to end in one endless stream.
Position g of the stream is row g % b of global batch g // b, so a batch may straddle epochs
(as in the reference, which shuffles, repeats and then batches). Any step can be asked for at
once, so a resumed run needs no more than its step number, on any number of processes.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int64

_ROWS = 2**64 - 1  # in place of an epoch, which no run reaches: no permutation has these words


@functools.lru_cache(maxsize=4)
def permutation(num_examples: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    """Returns the order of one epoch, read-only.

    Sorts raw words of Philox (Salmon et al. 2011), counter-based and keyed with (seed, epoch):
    NumPy guarantees those words for all versions, while `Generator.permutation` may change.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False  # shared by all who ask
    return order


def random_words(seed: int, step: int, row: int, stream: int = 0) -> np.random.Philox:
    """Returns random words that belong to one row of one global batch, whoever reads it.

    Args:
      seed: seed of the run.
      step: number of the global batch.
      row: number in it.
      stream: what they are for: 0 for cuts, 1 for captions, so that neither changes the other.
    """
    return np.random.Philox(
        key=np.array([seed, _ROWS], np.uint64), counter=np.array([0, stream, row, step], np.uint64)
    )


@dataclasses.dataclass(frozen=True)
class Order:
    """Which examples a process reads for which step.

    Attributes:
      num_examples: length n of the data set.
      batch_size: rows b of the global batch; `process_count` must divide it.
      seed: seed of the shuffle, from 0 to 2**64 - 1.
      process_index: this process, which reads rows [index * b / count, (index + 1) * b / count).
      process_count: how many processes share the global batch.
    """

    num_examples: int
    batch_size: int
    seed: int
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        if self.num_examples < 1:
            raise ValueError("An order needs at least one example, got an empty data set.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be from 0 to 2**64 - 1, got {self.seed}.")
        process_rows(self.batch_size, self.process_index, self.process_count)

    @property
    def rows(self) -> Int64[np.ndarray, " b"]:
        """The rows of the global batch that this process reads."""
        return process_rows(self.batch_size, self.process_index, self.process_count)

    def ids(self, step: int) -> Int64[np.ndarray, " b"]:
        """Returns the example index of each of this process's rows of global batch `step`."""
        rows = self.rows
        epochs, offsets = np.divmod(step * self.batch_size + rows, self.num_examples)
        ids = np.empty(len(rows), np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            ids[here] = permutation(self.num_examples, self.seed, epoch)[offsets[here]]
        return ids


def process_rows(
    batch_size: int, process_index: int, process_count: int
) -> Int64[np.ndarray, " b"]:
    """Returns the rows of the global batch that a process reads.

    Raises:
      ValueError: if the processes cannot share the batch evenly, or the index is not among them.
    """
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size must be a positive multiple of the {process_count} processes, "
            f"got {batch_size}."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index must be from 0 to {process_count - 1}, got {process_index}."
        )
    share = batch_size // process_count
    return np.arange(process_index * share, (process_index + 1) * share, dtype=np.int64)
