"""Ranges of settings, stated in their annotations: `weight_decay: NonNegative = 1e-6`.

`core.sections`, which reads settings, checks them before anything is built. No setting may
be infinite or NaN, whatever its range.
"""

import dataclasses
import math
import typing
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval; each bound is left out if None.

    Attributes:
      least: lower bound, inclusive.
      above: lower bound, exclusive.
      most: upper bound, inclusive.
      below: upper bound, exclusive.
    """

    least: float | int | None = None
    above: float | int | None = None
    most: float | int | None = None
    below: float | int | None = None

    def __contains__(self, value: float | int) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        return " and ".join(
            f"{word} {bound}" for word, bound in bounds.items() if bound is not None
        )


Count = Annotated[int, Range(least=1)]
CountOrZero = Annotated[int, Range(least=0)]
Seed = Annotated[int, Range(least=0, below=2**32)]  # JAX takes what is larger modulo 2^32
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(above=0, most=1)]
Share = Annotated[float, Range(least=0, most=1)]
Decay = Annotated[float, Range(least=0, below=1)]  # of a running mean


def problem(value: Any, hint: Any) -> str:
    """Returns what is wrong with the value of a setting, "" if nothing is.

    Args:
      value: a value of a type that the annotation allows.
      hint: the annotation; a `Range` counts in `Annotated[..., Range(...)]`, alone or in a union.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return "must be a finite number"
    for option in (hint, *typing.get_args(hint)):
        for note in getattr(option, "__metadata__", ()):
            if isinstance(note, Range) and value not in note:
                return f"must be {note}"
    return ""
