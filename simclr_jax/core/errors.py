"""The exceptions that the command line turns into a message and an exit code."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a config, a path, a file or a flag.

    The message is written for the person who made it: what was given and where, what is
    needed, and a value that would work.
    """


class StorageError(OSError):
    """A file that could not be written or read: the message says which, why, and what is left."""


class TryAgainError(RuntimeError):
    """Nothing is wrong with what was asked for; it may go well the next time."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the known name closest to `name`, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
