"""Times two programs in turn, A B A B, and tells samples in which the machine was busy.

Busy is what the whole machine's CPUs did beyond the CPU time of the processes that are compared:
other programs, and what a hypervisor took away. A sample in which that took more than a share
`DISTURBED` of all CPUs does not count.
"""

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil

from simclr_jax.bench.rows import Row
from simclr_jax.core.errors import UserError

log = logging.getLogger(__name__)
DISTURBED = 0.05
MAX_ROUNDS = 3  # times as many samples as are wanted, where the machine is busy
PACKAGE = Path(__file__).parents[1]
PEERS = ("torch", "torchvision", "lightly", "faiss", "sklearn")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
      seconds: time of a call, mean over the calls of the sample.
      others: share of all CPUs that was taken by anything else meanwhile.
    """

    seconds: float
    others: float

    @property
    def quiet(self) -> bool:
        """Whether it counts."""
        return self.others <= DISTURBED


@dataclasses.dataclass(frozen=True)
class Times:
    """What the quiet samples of one program say; all samples, if none was quiet.

    Attributes:
      median: seconds of a call.
      low: a quarter of the samples is below it.
      high: a quarter is above it.
    """

    median: float
    low: float
    high: float
    quiet: int
    samples: int

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Times":
        """Returns the figures of some samples."""
        quiet = [sample.seconds for sample in samples if sample.quiet]
        low, median, high = np.quantile(
            quiet or [sample.seconds for sample in samples], (0.25, 0.5, 0.75)
        )
        return cls(float(median), float(low), float(high), len(quiet), len(samples))


class Side:
    """A process that answers with samples, on the CPU; it finds this package on `path`."""

    def __init__(self, python: str, side: str, row: Row, path: str, errors: IO[str]):
        self._what = f"{row.what}, {side}"
        settings = json.dumps(dict(row.settings))
        command = [python, "-m", "simclr_jax.bench.serve", side, row.kind, settings]
        self._errors = errors
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        )

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def ready(self) -> None:
        """Waits until it has warmed up."""
        self._answer()

    def sample(self) -> float:
        """Returns the seconds of a call."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return self._answer()["seconds"]

    def cpu_seconds(self) -> float:
        """Returns what it has taken so far, with processes that it started and that have ended."""
        times = psutil.Process(self._process.pid).cpu_times()
        return sum(times[:4])  # user and system, of itself and of children

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{self._what} ended:\n{self._errors.read()}")
        return json.loads(line)


def require_peers(python: str) -> dict[str, str]:
    """Returns the versions of the programs that a Python has to compare with.

    Raises:
      UserError: if it lacks any.
    """
    program = (
        "import importlib, json, sys; found = map(importlib.import_module, sys.argv[1:]); "
        "print(json.dumps({m.__name__: m.__version__ for m in found}))"
    )
    advice = "launch/peer_env.sh makes an environment that has all, and prints its Python."
    try:
        found = subprocess.run([python, "-c", program, *PEERS], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"--peer_python={python}: {error.strerror}. {advice}") from error
    if found.returncode:
        last = found.stderr.strip().rpartition("\n")[2]
        raise UserError(f"--peer_python={python}: {last}. {advice}")
    return json.loads(found.stdout)


def measure(row: Row, peer_python: str | None, samples: int) -> dict[str, Any]:
    """Times a row.

    Args:
      row: what to time.
      peer_python: Python that has the other programs; None times ours alone.
      samples: quiet samples of each that are wanted.

    Returns:
      What a line of the table says; see `table`.
    """
    with contextlib.ExitStack() as stack:
        log.info("%s: preparing.", row.what)
        started = {"ours": (sys.executable, str(PACKAGE.parent))}
        if peer_python:
            started["peers"] = (peer_python, stack.enter_context(_package_alone()))
        sides = {}
        for name, (python, path) in started.items():
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            sides[name] = Side(python, name, row, path, errors)
            stack.enter_context(contextlib.closing(sides[name]))
            sides[name].ready()

        def own_seconds() -> float:
            return time.process_time() + sum(side.cpu_seconds() for side in sides.values())

        taken: dict[str, list[Sample]] = {name: [] for name in sides}
        for _ in range(MAX_ROUNDS * samples):
            for name, side in sides.items():
                taken[name].append(sample(side.sample, own_seconds))
            quiet = min(sum(one.quiet for one in found) for found in taken.values())
            log.info("%s: %d quiet samples of %d.", row.what, quiet, len(taken["ours"]))
            if quiet >= samples:
                break
    ours = Times.of(taken["ours"])
    peer = Times.of(taken["peers"]) if peer_python else None
    return {
        "what": row.what,
        "peer": row.peer,
        "ours": dataclasses.asdict(ours),
        "theirs": dataclasses.asdict(peer) if peer else None,
        "ratio": ours.median / peer.median if peer else None,
        "bar": row.bar,
    }


def sample(take: Callable[[], float], own_seconds: Callable[[], float]) -> Sample:
    """Takes a sample, and watches what else the machine does.

    Args:
      take: returns the seconds of a call.
      own_seconds: CPU time that the processes which are compared have taken so far.
    """
    machine, own, start = _machine_seconds(), own_seconds(), time.perf_counter()
    seconds = take()
    wall = time.perf_counter() - start
    others = (_machine_seconds() - machine) - (own_seconds() - own)
    return Sample(seconds, max(0.0, others) / (wall * (psutil.cpu_count() or 1)))


def _machine_seconds() -> float:
    """Returns what all CPUs have done since the start, and what was taken from them."""
    times = psutil.cpu_times()
    return sum(
        getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")
    )


@contextlib.contextmanager
def _package_alone() -> Iterator[str]:
    """Yields a path on which another Python finds this package, and nothing that is beside it."""
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / PACKAGE.name).symlink_to(PACKAGE)
        yield alone
