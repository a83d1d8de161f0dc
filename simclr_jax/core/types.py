"""Names for the arrays and trees that cross module boundaries.

Dimension letters, used in every docstring and jaxtyping annotation:
  b  images in the global batch           v  views per image (2 for SimCLR)
  n  rows: b * v views, or examples       d  embedding width
  h, w, c  image height, width, channels  k  classes, prototypes or queue slots
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int, Int32, Key

Scalar: TypeAlias = Float[Array, ""]
PRNGKey: TypeAlias = Key[Array, ""]
Params: TypeAlias = Mapping[str, Any]
Collection: TypeAlias = Mapping[str, Any]
Labels: TypeAlias = Int[Array, " b"]
# All views of one size; views of several sizes are a tuple, one array for each, b the same in all.
ViewArray: TypeAlias = Float[Array, "b _v _h _w c"]
Views: TypeAlias = ViewArray | tuple[ViewArray, ...]
Projections: TypeAlias = Float[Array, "b v d"]
# Texts of each example, as tokens: "text" int32 [b, v, context], "length" int32 [b, v].
Texts: TypeAlias = Mapping[str, Array]
# "image" uint8 [b, v, s, s, 3] (what each view shows), "size" int32 [b, v, 2] (its height and
# width, at the top left), "label" int32 [b] (-1 where unknown), "id" int32 [b] (-1 in rows that
# only fill up). For views of several sizes, the first two are tuples of arrays, as the views are.
# With captions also "text" int32 [b, context], "text_length" int32 [b] and "text_id" int32 [b],
# equal for equal captions. Of sounds "audio" int16 [b, samples] takes the place of the first two.
# Of texts alone neither is there, and "text" is int32 [b, v, context], "text_length" int32 [b, v].
Batch: TypeAlias = Mapping[str, Any]
Metrics: TypeAlias = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Cuts:
    """What the views of one size show of an image: all that reading images must know of views.

    Attributes:
      size: height and width of a view in pixels.
      num_views: v, of each image.
      boxes: (random words, (height, width) of the image) -> the part that each view shows, as
        (y, x, height, width) in pixels.
    """

    size: int
    num_views: int
    boxes: Callable[[np.random.Philox, tuple[int, int]], Int32[np.ndarray, "v 4"]]


@dataclasses.dataclass(frozen=True)
class Clips:
    """The part of a sound that a view shows, in place of `Cuts` for images.

    Attributes:
      rate: samples per second.
      num_samples: length of a clip; what is shorter is repeated.
      random: whether a clip begins anywhere in a longer sound, or is its middle.
    """

    rate: int
    num_samples: int
    random: bool


@dataclasses.dataclass(frozen=True)
class Sentences:
    """The views of an example that is text alone, in place of `Cuts` for images.

    Attributes:
      num_texts: v: 1 for one of the texts of the example, drawn each time; more for the first v of
        them, in their order.
    """

    num_texts: int


# A tuple for views of several sizes, as the views are.
CutsBySize: TypeAlias = Cuts | Clips | Sentences | tuple[Cuts, ...]
