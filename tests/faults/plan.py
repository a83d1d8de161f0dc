"""What goes wrong in a test, and when: a plan is made first; its faults happen by themselves."""

import errno
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Action = Callable[[], None]


class Plan:
    """Faults of one run, at a step or at a call of the system; of a file, at once.

    plan.at_step(17, send(signal.SIGINT)); plan.at_call("rename", fail(errno.ENOSPC), number=2)
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._at_steps: dict[int, Action] = {}

    def at_step(self, step: int, do: Action) -> None:
        """Does something after a step of training, before the hooks of the run."""
        self._at_steps[step] = do

    def at_call(self, name: str, do: Action, *, number: int | None = None) -> None:
        """Does something before a call of `os.NAME`: the `number`-th from now on, or each."""
        original, calls = getattr(os, name), itertools.count(1)

        def called(*args: Any, **kwargs: Any) -> Any:
            if number in (None, next(calls)):
                do()
            return original(*args, **kwargs)

        self._monkeypatch.setattr(os, name, called)

    def undo(self) -> None:
        """Lets calls do what they did before."""
        self._monkeypatch.undo()

    def hook(self, step: int, state: Any, metrics: Any) -> None:
        """Is the first hook of the run."""
        if step in self._at_steps:
            self._at_steps[step]()


class KilledError(Exception):
    """Stands for a process that dies between two steps."""


def kill() -> None:
    """Ends a run between two steps, without a word to it."""
    raise KilledError


def send(signum: signal.Signals) -> Action:
    """Returns what sends this process a signal."""
    return lambda: os.kill(os.getpid(), signum)


def fail(code: int = errno.ENOSPC) -> Action:
    """Returns what raises the error of a system call."""

    def failing() -> None:
        raise OSError(code, os.strerror(code))

    return failing


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Leaves the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Leaves nothing in a file."""
    path.write_bytes(b"")


def lose(path: Path) -> None:
    """Deletes a file."""
    path.unlink()
