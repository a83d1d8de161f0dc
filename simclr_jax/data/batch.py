"""What a batch holds: views of images, or clips of sounds, their labels, and tokens of texts."""

from typing import Any, TypeAlias

import jax
import numpy as np

from simclr_jax.core.types import Clips, Cuts, CutsBySize, Sentences
from simclr_jax.data.records import Source
from simclr_jax.data.text import tokenizer_of

HostBatch: TypeAlias = dict[str, Any]


def empty_batch(num_rows: int, cuts: CutsBySize, source: Source, *, channels: int = 3) -> HostBatch:
    """Returns black images, or silence, without labels; what a source gives decides the entries.

    Args:
      num_rows: b.
      cuts: how many views there are, and how large.
      source: where the images will come from.
      channels: c.

    Returns:
      {"image": uint8 [b, v, s, s, c], "size": int32 [b, v, 2], "label": int32 [b], "id": int64
      [b]}, and for a source of tokens "text": int32 [b, context], "text_length": int32 [b] and
      "text_id": int32 [b]. For views of several sizes, the first two are tuples of such arrays. For
      sounds, "audio": int16 [b, samples] takes their place. For texts alone nothing does, and
      "text" is int32 [b, v, context], "text_length" int32 [b, v]; "text_id" is that of the first.
    """

    def black(cuts: Cuts) -> np.ndarray:
        return np.zeros((num_rows, cuts.num_views, cuts.size, cuts.size, channels), np.uint8)

    def full(cuts: Cuts) -> np.ndarray:
        return np.full((num_rows, cuts.num_views, 2), cuts.size, np.int32)

    if isinstance(cuts, Clips):
        batch = {"audio": np.zeros((num_rows, cuts.num_samples), np.int16)}
    elif isinstance(cuts, Sentences):
        batch = {}
    else:
        batch = {"image": jax.tree.map(black, cuts), "size": jax.tree.map(full, cuts)}
    batch |= {
        "label": np.full(num_rows, -1, np.int32),
        "id": np.full(num_rows, -1, np.int64),
    }
    tokenizer = tokenizer_of(source)
    if tokenizer is None:
        return batch
    texts = (num_rows, cuts.num_texts) if isinstance(cuts, Sentences) else (num_rows,)
    return batch | {
        "text": np.zeros((*texts, tokenizer.context), np.int32),
        "text_length": np.zeros(texts, np.int32),
        "text_id": np.zeros(num_rows, np.int32),
    }
