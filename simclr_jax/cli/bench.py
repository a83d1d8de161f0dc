"""Times this program beside others on this machine, and counts what its main steps take.

python -m simclr_jax bench                    # all rows, ours alone
python -m simclr_jax bench step --peer_python=.venv-peer/bin/python
python -m simclr_jax bench --check            # counts on virtual CPU devices; a minute or two
python -m simclr_jax bench --check --tpu      # by the TPU's compiler, for slices that are not there
python -m simclr_jax bench --check --renew    # keeps the counts as they are now

Rows are step, augment, loss, data, startup, evals or all. Times are told, never judged; the exit
code of --check is 1 if a count has grown by more than 2 %.
"""

import json
from collections.abc import Sequence

import jax
from absl import flags

from simclr_jax.bench import counts, table
from simclr_jax.bench.measure import measure, require_peers
from simclr_jax.bench.rows import GROUPS, ROWS
from simclr_jax.cli import app
from simclr_jax.core.errors import UserError

ONLY = flags.DEFINE_enum("only", "all", [*GROUPS, "all"], "Rows to time, or the first word.")
PEER_PYTHON = app.define_path(
    "peer_python", "Python that has the other programs; launch/peer_env.sh makes one."
)
SAMPLES = flags.DEFINE_integer("samples", 9, "Samples of each program.", lower_bound=1)
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object.")
CHECK = flags.DEFINE_bool("check", False, "Compares counts of the main steps with those kept.")
TPU = flags.DEFINE_bool("tpu", False, "With --check: as the TPU's compiler makes them.")
RENEW = flags.DEFINE_bool("renew", False, "With --check: keeps the counts as they are now.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    verb, *rest = argv
    if rest and not rest[0].startswith("-"):
        rest[0] = f"--only={rest[0]}"
    grown: list[counts.Change] = []
    code = app.run(lambda: grown.extend(_bench()), [verb, *rest], required=())
    return code or (app.FAILED if grown else app.DONE)


def _bench() -> list[counts.Change]:
    if CHECK.value:
        return _check()
    if TPU.value or RENEW.value:
        raise UserError("--tpu and --renew are about counts: give --check, too.")
    python = PEER_PYTHON.value
    facts = table.facts(require_peers(python) if python else None)
    wanted = [row for row in ROWS if ONLY.value in (row.group, "all")]
    rows = [measure(row, python, SAMPLES.value) for row in wanted]
    if JSON.value:
        print(json.dumps({**facts, "rows": rows}))
    else:
        print(table.text(rows, facts), end="")
    return []


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
