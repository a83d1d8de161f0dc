"""The program in processes of its own that start at once: forks of one that has imported it.

Exit codes, signals and output are those of `python -m simclr_jax`. Environment variables are those
with which the first one started.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from simclr_jax.__main__ import main
from simclr_jax.models.ssl import ENCODERS
from tests.tiny import TinyEncoder

ROOT = Path(__file__).parents[1]
_FORKS = multiprocessing.get_context("forkserver")
# Not the modules of the verbs: each defines flags, which another one may have, too.
_FORKS.set_forkserver_preload(
    [
        __name__,
        "simclr_jax.cli.recipe",
        "simclr_jax.cli.tables",
        "simclr_jax.data.audit",
        "simclr_jax.data.shards",
        "simclr_jax.evals.selection",
        "simclr_jax.report.audit",
        "simclr_jax.report.comparison",
        "simclr_jax.report.page",
        "simclr_jax.run",
        "simclr_jax.trained.embedding",
        "simclr_jax.trained.evaluate",
        "simclr_jax.trained.export",
    ]
)


class Program:
    """A verb in a process, which knows `TinyEncoder` as encoder.name="tiny".

    Args:
      arguments: the verb and its flags.
      cwd: directory in which it runs.
      num_devices: virtual devices that it has.
      before: what the process does first; a function of a module, or a partial of one.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path = ROOT,
        num_devices: int = 1,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._arguments = [str(argument) for argument in arguments]
        self._printed = tempfile.TemporaryDirectory()
        self._files = [Path(self._printed.name, name) for name in ("stdout", "stderr")]
        self._process = _FORKS.Process(
            target=_run, args=(self._arguments, self._files, cwd, num_devices, before)
        )
        self._process.start()

    def send(self, signum: int) -> None:
        """Sends a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signum)

    def finish(self, timeout_seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Waits; returns the exit code and what was printed."""
        self._process.join(timeout_seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f"{self._arguments} takes more than {timeout_seconds} s")
        with self._printed:
            printed = [file.read_text() for file in self._files]
        return subprocess.CompletedProcess(self._arguments, code, *printed)


def run(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Runs a `Program` to its end; returns its exit code and what it printed."""
    return Program(*arguments, **settings).finish()


def _run(
    arguments: list[str],
    files: Sequence[Path],
    cwd: Path,
    num_devices: int,
    before: Callable[[], None] | None,
) -> None:
    """What the fork does."""
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    ENCODERS["tiny"] = TinyEncoder
    jax.config.update("jax_num_cpu_devices", num_devices)
    if before is not None:
        before()
    sys.argv = ["simclr_jax", *arguments]
    sys.exit(main())
