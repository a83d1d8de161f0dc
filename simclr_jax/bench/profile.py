"""A trace of a few steps of a run, and its most expensive operations in words."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from simclr_jax.bench.table import aligned
from simclr_jax.build.experiment import train_step
from simclr_jax.core.errors import UserError
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Metrics
from simclr_jax.parallel.hosts import is_primary
from simclr_jax.plan.hlo import parse
from simclr_jax.plan.words import in_words
from simclr_jax.run import Run

WARM_UP, NUM_STEPS, TOP = 3, 5, 10
COLUMNS = ("ms a step", "share", "operation", "pass", "where", "result")
# Their time is that of the operations which they call, which are in the trace, too.
_CALLERS = ("while", "call", "conditional")


class ProfileSteps:
    """Hook: traces a few steps after the first ones, and prints what took the most time.

    The trace is for TensorBoard's profiler or https://ui.perfetto.dev; each process writes its own.
    """

    def __init__(self, directory: str, run: Run) -> None:
        self._first = int(jax.device_get(run.state.step)) + WARM_UP
        if self._first + NUM_STEPS > run.num_steps:
            raise UserError(
                f"--profile traces steps {self._first + 1} to {self._first + NUM_STEPS}, and the "
                f"run has {run.num_steps}. Raise --config.run.epochs, or take another --workdir."
            )
        self._directory, self._experiment = directory, run.experiment

    def __call__(self, num_steps: int, state: TrainState, metrics: Metrics) -> None:
        """Starts the trace, ends it, or does nothing."""
        if num_steps not in (self._first, self._first + NUM_STEPS):
            return
        jax.block_until_ready((state, metrics))
        if num_steps == self._first:
            jax.profiler.start_trace(self._directory)
            return
        jax.profiler.stop_trace()
        if is_primary():
            e = self._experiment
            step: Any = train_step(e)
            compiled = step.lower(e.abstract_state, e.abstract_batch).compile()
            print_table(self._directory, compiled.as_text())


def print_table(directory: str, hlo: str) -> None:
    """Prints the most expensive operations of the newest trace in a directory.

    Args:
      directory: directory that a trace was written to.
      hlo: text of the compiled program that was traced.
    """
    file = max(Path(directory).glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    computations, _ = parse(hlo)
    by_name = {i.name: i for c in computations.values() for i in c.instructions.values()}
    seconds = seconds_by_operation(file, hlo.split(",", 1)[0].removeprefix("HloModule "))
    known = {n: s for n, s in seconds.items() if n in by_name and by_name[n].opcode not in _CALLERS}
    print(f"Trace of {NUM_STEPS} steps: {file}")
    if not known:
        print("It names no operation of the step; TensorBoard's profiler may show more.")
        return
    lines: list[Sequence[str]] = [COLUMNS]
    total = sum(known.values())
    for name in sorted(known, key=lambda n: -known[n])[:TOP]:
        milliseconds = f"{1e3 * known[name] / NUM_STEPS:.2f}"
        lines.append((milliseconds, f"{known[name] / total:.1%}", *in_words(by_name[name])))
    print(aligned(lines), end="")


def seconds_by_operation(file: Path, module: str) -> Mapping[str, float]:
    """Returns how long each operation of a program took in a trace, on all devices together."""
    seconds: dict[str, float] = defaultdict(float)
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                about = dict(event.stats)
                if "hlo_op" in about and about["hlo_module"] == module:
                    seconds[str(about["hlo_op"])] += event.duration_ns / 1e9
    return seconds
