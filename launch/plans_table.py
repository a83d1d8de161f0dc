"""Plans every published recipe on a TPU slice, and prints the table or writes it on its page.

  python launch/plans_table.py --run            # compiles what launch/plans.json lacks; hours
  python launch/plans_table.py --run --only=v1_r50_1x --again
  python launch/plans_table.py --write

Needs requirements-tpu.txt for --run. Each answer of `plan` is kept with its command as soon as it
is there, so that a run can be stopped and started again.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.pages import DOCS, replace_between
from simclr_jax.core.files import write_text
from simclr_jax.models.published import NETWORKS

ROOT = Path(__file__).parents[1]
PLANS = ROOT / "launch" / "plans.json"
PAGE = DOCS / "planning.md"
START, END = "<!-- plans -->\n", "<!-- /plans -->\n"
RECIPE = "configs/simclr_imagenet.py"
PUBLISHED_BATCH = 4096
# Slices of at most 256 chips in the order in which they are tried; the first that fits counts.
SLICES = ("v5e:8x8", "v5e:16x16", "v5p:4x4x4")
# Too large for 64 chips of 16 GB: each takes half as much, or nearly, on four times as many.
LARGE = {"v1_r50_4x", "v2_r101_2x_sk", "v2_r152_2x", "v2_r152_2x_sk", "v2_r152_3x_sk"}
OLD_CHIPS = (("v1_r50_1x", "v3:4x4"),)
# v1_r50_1x with 64 pairs on each device.
SCALING = {8: "2x2x2", 16: "2x2x4", 64: "4x4x4", 256: "4x8x8", 1024: "8x8x16"}
PAIRS_PER_DEVICE = 64
# v1_r50_1x on a quarter of the chips, the batch in parts.
CHUNKS, CHUNKS_ON = (1, 4, 16), "v5e:4x4"
# What else is pretrained, each with the batch that is published for it, and on what.
FAMILY_SLICES = ("v5e:8x8", "v5p:4x4x4")
FAMILY = {
    **dict.fromkeys(("byol:r50", "moco_v3:r50", "moco_v3:vit_s", "swav:r50"), FAMILY_SLICES),
    **dict.fromkeys(("deepcluster_v2:r50", "dino:vit_s", "instdisc:r50"), FAMILY_SLICES),
    "clip:vit_b16": ("v5e:16x16", "v5p:4x4x4"),
}
NUM_IMAGES = {"clip:vit_b16": 400_000_000}  # which the paper's data set has
TABLES = ("scaling", "chunks", "family")

BEFORE = f"""\
Pretraining on ImageNet with the published batch of {PUBLISHED_BATCH}, without momentum memory,
planned by the TPU compiler and not run. Step, rate, utilisation and hours are estimates from the
compiler's counts and the data sheets' peaks, bounds that no run reaches; transfers between devices
are not in them. HBM is of one device, of what the compiler may use.

"""
BETWEEN = f"""
`v1_r50_1x` on v5p slices with {PAIRS_PER_DEVICE} pairs on each device, per device:

"""
CHUNKS_BEFORE = f"""
What grows is NT-Xent: each device gathers the projections of all, and compares its own with them.

`v1_r50_1x` on 16 chips, {CHUNKS_ON}, with the whole batch of {PUBLISHED_BATCH} and
`--config.method.grad_cache_chunks`, per device:

"""
FAMILY_BEFORE = """
Less memory is paid for in transfers: the gradient is summed over the devices once for each chunk.

Other methods with the batch that is published for each. All views, second networks, queues and
banks are in it, as the recipe has them. Of DeepCluster v2 it is the step of an epoch that finds
clusters; most steps, and the recipe, are shorter. The two cores that compiled them did other work
beside:

"""
AFTER = """
`python launch/plans_table.py --run` compiles what `launch/plans.json` lacks (its answers stand
there, each with its command), and `--write` makes this part of the page.
"""
NETWORK_COLUMNS = (
    *("network", "slice", "settings", "parameters", "HBM", "FLOPs", "HBM traffic"),
    *("step, at least", "pairs/s, at most", "MFU, at most", "recipe, at least", "compiled in"),
)
SCALING_COLUMNS = ("chips", "batch", "HBM", "FLOPs", "HBM traffic", "step", "transfers")
FAMILY_COLUMNS = ("recipe", "batch", *NETWORK_COLUMNS[1:])
CHUNKS_COLUMNS = ("chunks", "HBM", "FLOPs", "HBM traffic", "step", "transfers")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", action="store_true", help="compile the rows that are not there")
    parser.add_argument("--again", action="store_true", help="and those that are")
    parser.add_argument("--only", help=f"networks, {', '.join(TABLES)}; by commas")
    parser.add_argument(
        "--write", action="store_true", help="replace the table in docs/planning.md"
    )
    given = parser.parse_args()
    known = [*NETWORKS, *TABLES]
    only = given.only.split(",") if given.only else known
    unknown = set(only) - set(known)
    if unknown:
        parser.error(f"--only={','.join(unknown)} is none of {', '.join(known)}.")
    if given.run:
        _run(only, again=given.again)
    if not given.write:
        print(section(_load()), end="")
        return
    replace_between(PAGE, START, END, section(_load()))


def command(variant: str, topology: str, *overrides: str, recipe: str = RECIPE) -> str:
    """Returns the command that plans one row; its answer is kept under it."""
    arguments = [f"--config={recipe}:{variant}", f"--topology={topology}", *overrides]
    return shlex.join(["python", "-m", "simclr_jax", "plan", *arguments])


def family_command(name: str, topology: str) -> str:
    """Returns the command that plans one row of the fourth table."""
    recipe, _, variant = name.partition(":")
    counted = [f"--num_images={NUM_IMAGES[name]}"] if name in NUM_IMAGES else []
    return command(variant, topology, *counted, recipe=f"configs/{recipe}.py")


def scaling_command(chips: int) -> str:
    """Returns the command that plans one row of the second table."""
    batch = f"--config.data.batch_size={PAIRS_PER_DEVICE * chips}"
    return command("v1_r50_1x", f"v5p:{SCALING[chips]}", batch)


def chunks_command(chunks: int) -> str:
    """Returns the command that plans one row of the third table."""
    return command("v1_r50_1x", CHUNKS_ON, f"--config.method.grad_cache_chunks={chunks}")


def _run(only: Sequence[str], *, again: bool) -> None:
    for name in only:
        if name in TABLES:
            for line in _commands(name):
                _plan(line, again=again)
            continue
        for topology in _slices(name):
            if _plan(command(name, topology), again=again)["fits"]:
                break
        for variant, topology in OLD_CHIPS:
            if variant == name:
                _plan(command(variant, topology), again=again)


def _commands(table: str) -> list[str]:
    if table == "scaling":
        return [scaling_command(chips) for chips in SCALING]
    if table == "family":
        return [family_command(name, topology) for name in FAMILY for topology in FAMILY[name]]
    return [chunks_command(chunks) for chunks in CHUNKS]


def _slices(network: str) -> Sequence[str]:
    return SLICES[network in LARGE :]


def _plan(line: str, *, again: bool) -> dict[str, Any]:
    """Returns the answer to a command, the one that is kept if there is one."""
    plans = _load()
    if line in plans and not again:
        return plans[line]
    print(line, file=sys.stderr, flush=True)
    run = subprocess.run(
        [sys.executable, *shlex.split(line)[1:], "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    if run.returncode not in (0, 1) or not run.stdout:
        sys.exit(f"It ended with exit code {run.returncode}; nothing is kept of it.")
    answer = json.loads(run.stdout)
    for key in ("chip", "tried", "flags", "traffic"):
        answer.pop(key, None)  # a step that does not fit has no traffic
    write_text(PLANS, json.dumps(_load() | {line: answer}, indent=1, sort_keys=True) + "\n")
    return answer


def _load() -> dict[str, dict[str, Any]]:
    return json.loads(PLANS.read_text()) if PLANS.exists() else {}


def section(plans: dict[str, dict[str, Any]]) -> str:
    """Returns what stands between the two marks in docs/planning.md."""
    networks = [row for name in NETWORKS for row in _network_rows(name, plans)]
    scaling = {n: plans.get(scaling_command(n)) for n in SCALING}
    first = next((answer for answer in scaling.values() if answer and answer["fits"]), None)
    rows = [_scaling_row(n, answer, first) for n, answer in scaling.items()]
    parts = [_chunks_row(n, plans.get(chunks_command(n))) for n in CHUNKS]
    return "".join(
        (
            *(BEFORE, _table(NETWORK_COLUMNS, networks)),
            *(BETWEEN, _table(SCALING_COLUMNS, rows)),
            *(CHUNKS_BEFORE, _table(CHUNKS_COLUMNS, parts)),
            *(FAMILY_BEFORE, _family(plans), AFTER),
        )
    )


def _network_rows(name: str, plans: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    tried = [plans.get(command(name, topology)) for topology in _slices(name)]
    answers = [answer for answer in tried if answer]
    fitting = [answer for answer in answers if answer["fits"]]
    old = [plans.get(command(name, t)) for variant, t in OLD_CHIPS if variant == name]
    for answer in [*(fitting[:1] or answers[-1:]), *filter(None, old)]:
        yield [f"`{name}`", *_network_cells(answer)]
    if not answers:
        yield [f"`{name}`", "not planned yet", *[""] * (len(NETWORK_COLUMNS) - 2)]


def _family(plans: dict[str, dict[str, Any]]) -> str:
    rows, missing = [], []
    for name in FAMILY:
        for topology in FAMILY[name]:
            if answer := plans.get(family_command(name, topology)):
                rows.append([f"`{name}`", f"{answer['batch_size']:,}", *_network_cells(answer)])
            else:
                missing.append(f"`{name}` on {topology}")
    left = f"\nNot planned yet: {', '.join(missing)}.\n" if missing else ""
    return _table(FAMILY_COLUMNS, rows) + left


def _network_cells(answer: dict[str, Any]) -> list[str]:
    chosen = (("preset", "replicated"), ("remat", "none"), ("grad_cache_chunks", 1))
    settings = [f"{key} {answer[key]}" for key, usual in chosen if answer[key] != usual]
    cells = [
        f"{answer['topology']} ({answer['chips']} chips)",
        ", ".join(settings) or "-",
        f"{answer['parameters'] / 1e6:.0f} M",
    ]
    if "estimate" not in answer:
        return [*cells, "does not fit", *[""] * (len(NETWORK_COLUMNS) - 5)]
    estimate = answer["estimate"]
    return [
        *cells,
        _hbm(answer),
        *_costs(answer),
        f"{estimate['pairs_per_second']:,.0f}",
        f"{estimate['mfu']:.0%}",
        _hours(estimate["hours"]),
        f"{answer['compile_seconds'] / 60:.0f} min",
    ]


def _hours(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"


def _scaling_row(
    chips: int, answer: dict[str, Any] | None, first: dict[str, Any] | None
) -> list[str]:
    row = [str(chips), f"{PAIRS_PER_DEVICE * chips:,}"]
    if answer is None or "estimate" not in answer or first is None:
        said = "not planned yet" if answer is None else "does not fit"
        return [*row, said, *[""] * (len(SCALING_COLUMNS) - 3)]
    costs = (
        f"{cost} ({now / then - 1:+.1%})"
        for cost, now, then in zip(_costs(answer), _figures(answer), _figures(first), strict=True)
    )
    return [*row, _hbm(answer), *costs, _transfers(answer)]


def _chunks_row(chunks: int, answer: dict[str, Any] | None) -> list[str]:
    if answer is None or "estimate" not in answer:
        said = "not planned yet" if answer is None else "does not fit"
        return [str(chunks), said, *[""] * (len(CHUNKS_COLUMNS) - 2)]
    return [str(chunks), _hbm(answer), *_costs(answer), _transfers(answer)]


def _hbm(answer: dict[str, Any]) -> str:
    used, usable = answer["total_bytes"] / 2**30, answer["usable_hbm_bytes"] / 2**30
    too_much = "" if answer["fits"] else ": does not fit"
    return f"{used:.1f} of {usable:.1f} GiB{too_much}"


def _transfers(answer: dict[str, Any]) -> str:
    return "; ".join(
        f"{c['count']} {kind}, {c['bytes'] / 1e6:.1f} MB"
        for kind, c in answer["collectives"].items()
    )


def _figures(answer: dict[str, Any]) -> tuple[float, ...]:
    return (answer["flops"], answer["hbm_bytes"], answer["estimate"]["step_seconds"])


def _costs(answer: dict[str, Any]) -> tuple[str, ...]:
    flops, nbytes, seconds = _figures(answer)
    return (f"{flops / 1e12:.2f} T", f"{nbytes / 1e9:.1f} GB", f"{seconds * 1e3:.0f} ms")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
