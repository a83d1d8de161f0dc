"""Names for the arrays and trees that cross module boundaries.

Dimension letters, used in every docstring and jaxtyping annotation:
  b  images in the global batch           v  views per image (2 for SimCLR)
  n  rows: b * v views, or examples       d  embedding width
  h, w, c  image height, width, channels  k  classes, prototypes or queue slots
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from jaxtyping import Array, Float, Int, Key

Scalar: TypeAlias = Float[Array, ""]
PRNGKey: TypeAlias = Key[Array, ""]
Params: TypeAlias = Mapping[str, Any]
Collection: TypeAlias = Mapping[str, Any]
Labels: TypeAlias = Int[Array, " b"]
# All views of one size; views of several sizes are a tuple, one array for each, b the same in all.
ViewArray: TypeAlias = Float[Array, "b _v _h _w c"]
Views: TypeAlias = ViewArray | tuple[ViewArray, ...]
Projections: TypeAlias = Float[Array, "b v d"]
# "image" uint8 [b, C, C, 3], "size" int32 [b, 2] (valid height and width, at the top left of
# the canvas), "label" int32 [b] (-1 where unknown), "id" int32 [b] (-1 in rows that only fill up).
Batch: TypeAlias = Mapping[str, Array]
Metrics: TypeAlias = Mapping[str, Array]
