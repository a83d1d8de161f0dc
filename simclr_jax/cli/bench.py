"""Counts what the main train steps take, and fails if that has grown.

python -m simclr_jax bench --check            # on virtual CPU devices; a minute or two
python -m simclr_jax bench --check --tpu      # by the TPU's compiler, for slices that are not there
python -m simclr_jax bench --check --renew    # keeps the counts as they are now

Exit code 1 if a count has grown by more than 2 %.
"""

import logging
from collections.abc import Sequence

import jax
from absl import flags

from simclr_jax.bench import counts
from simclr_jax.cli import app
from simclr_jax.core.errors import UserError

log = logging.getLogger(__name__)

CHECK = flags.DEFINE_bool("check", False, "Compares counts of the main steps with those kept.")
TPU = flags.DEFINE_bool("tpu", False, "With --check: as the TPU's compiler makes them.")
RENEW = flags.DEFINE_bool("renew", False, "With --check: keeps the counts as they are now.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    grown: list[counts.Change] = []
    code = app.run(lambda: grown.extend(_check()), argv, required=("check",))
    return code or (app.FAILED if grown else app.DONE)


def _check() -> list[counts.Change]:
    """Returns the counts that have grown."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", counts.NUM_CPU_DEVICES)
    jax.config.update("jax_enable_compilation_cache", False)
    steps = counts.ON_TPU if TPU.value else counts.ON_CPU
    compiler, renew = counts.compiler(steps), f"bench --check{' --tpu' * TPU.value} --renew"
    kept = {compiler: {}, **counts.kept()}[compiler]
    missing = [str(step) for step in steps if str(step) not in kept]
    if missing and not RENEW.value:
        raise UserError(
            f"No counts of {', '.join(missing)} by {compiler} are kept to compare with. To keep "
            f"them as they are now: python -m simclr_jax {renew}"
        )
    now = {str(step): counts.counts_of(step) for step in steps}
    found = [
        change for step in now for change in counts.changes(step, kept.get(step, {}), now[step])
    ]
    if RENEW.value:
        counts.keep(compiler, now)
        print(*found, f"Kept, {len(now)} steps by {compiler}: {counts.KEPT}", sep="\n")
        return []
    grown = [change for change in found if change.grew]
    print(*(f"{'GREW  ' if change.grew else ''}{change}" for change in found), sep="\n")
    print(
        f"{len(grown)} counts of {len(now)} steps by {compiler} grew by more than "
        f"{counts.GROWTH:.0%}. If that is meant: python -m simclr_jax {renew}"
        if grown
        else f"No count of {len(now)} steps by {compiler} grew by more than {counts.GROWTH:.0%}."
    )
    return grown
