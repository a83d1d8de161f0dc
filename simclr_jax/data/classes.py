"""Classes: from the names that a data set has for them to numbers."""

import re
from collections.abc import Sequence

from simclr_jax.core.errors import UserError


def number_labels(
    names: Sequence[str], class_names: Sequence[str] | None, where: str
) -> tuple[list[int], tuple[str, ...]]:
    """Returns the class of each image as a number, -1 where unknown, and what they are called.

    Args:
      names: names of the classes, "" where unknown.
      class_names: those expected, in the order of their numbers; None takes those found, whole
        numbers in numerical order and others in alphabetical order.
      where: the data set, for messages.

    Raises:
      UserError: if a class is none of those expected.
    """
    found = set(names) - {""}
    numeric = all(re.fullmatch(r"[0-9]{1,18}", name) for name in found)
    in_order = sorted(sorted(found), key=int if numeric else None)  # "1" and "01", always alike
    if not found:
        return [-1] * len(names), ()
    expected = tuple(in_order if class_names is None else class_names)
    index = {name: k for k, name in enumerate(expected)}
    if strange := [name for name in in_order if name not in index]:
        raise UserError(
            f"{where} has the classes {quote(strange)}, that are none of the {len(index)} expected "
            f"ones, {quote(expected)}: those of the training images, of the run or of its teacher. "
            "Rename the classes, or leave their images out."
        )
    return [index.get(name, -1) for name in names], expected


def quote(names: Sequence[str]) -> str:
    """Returns names as people list them, at most eight, and of each at most 60 characters."""
    cut = lambda name: name if len(name) <= 60 else f"{name[:57]}..."
    return shorten([repr(cut(name)) for name in names])


def shorten(names: Sequence[str], limit: int = 8) -> str:
    """Returns the first of some names, and how many more there are."""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
