"""The exceptions that the command line turns into a message and an exit code."""

import difflib
import re
from collections.abc import Iterable

_OUT_OF_MEMORY = re.compile(r"out.of.memory|RESOURCE_EXHAUSTED.*allocat", re.IGNORECASE)


class UserError(ValueError):
    """A mistake in a config, a path, a file or a flag.

    The message is written for the person who made it: what was given and where, what is
    needed, and a value that would work.
    """


class StorageError(OSError):
    """A file that could not be written or read: the message says which, why, and what is left."""


class PartlyFailedError(RuntimeError):
    """Some of what was asked for failed, and the rest is done: the message says which, and why."""


class TryAgainError(RuntimeError):
    """Nothing is wrong with what was asked for; it may go well the next time."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether the host or a device had no room: XLA says it in words alone."""
    said = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    return said or isinstance(error, MemoryError)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the known name closest to `name`, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
