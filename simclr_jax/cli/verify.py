"""Proves on a config that one device learns what many do, on virtual devices and without data.

python -m simclr_jax verify --config=configs/simclr_digits.py
python -m simclr_jax verify --config=configs/simclr_imagenet.py:v2_r50_1x,memory --devices=16
"""

import json
import math
from collections.abc import Sequence

import jax
from absl import flags

from simclr_jax.build.resolve import take_over_network
from simclr_jax.build.schema import complete
from simclr_jax.cli import app, recipe
from simclr_jax.core.errors import UserError
from simclr_jax.verify.proof import LEAST_GRADIENT, verify
from simclr_jax.verify.shrunk import shrink
from simclr_jax.verify.variants import (
    TOLERANCE,
    VIEWS_TOLERANCE,
    Comparison,
    fsdp_size,
    num_chunks,
)

CONFIG = recipe.define("simclr_digits")
DEVICES = flags.DEFINE_integer("devices", 8, "Virtual devices to compare with one.")
STEPS = flags.DEFINE_integer("steps", 3, "Steps that each variant takes.")
LIMIT = flags.DEFINE_float("tolerance", TOLERANCE, "Largest relative difference of any quantity.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object.")
HEADERS = {
    "views": "views",
    "loss": "loss",
    "gradients": "gradients",
    "batch_stats": "statistics",
    "method_state": "state",
    "update": "update",
}


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code, 1 if anything differs."""
    failures: list[str] = []
    code = app.run(lambda: failures.extend(_verify()), argv, required=("config",))
    return code or (app.FAILED if failures else app.DONE)


def _verify() -> list[str]:
    if DEVICES.value < 4 or DEVICES.value % 2:
        raise UserError(
            f"--devices={DEVICES.value} must be even and at least 4, such as 8, so that a mesh "
            "can have two axes."
        )
    if STEPS.value < 1:
        raise UserError(f"--steps={STEPS.value} must be at least 1.")
    if not 0 < LIMIT.value < math.inf:
        raise UserError(f"--tolerance={LIMIT.value} must be a number above 0.")
    config = CONFIG().config
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES.value)
    config = complete(take_over_network(config))
    grad_cache_chunks = num_chunks(config)
    shrunk = shrink(config, multiple=grad_cache_chunks * DEVICES.value, num_steps=STEPS.value)
    if not JSON.value:
        print(*_preface(shrunk.changes), sep="\n", flush=True)
    comparisons = verify(shrunk, num_devices=DEVICES.value, num_steps=STEPS.value)
    failures = [line for one in comparisons for line in one.failures(LIMIT.value)]
    if JSON.value:
        print(json.dumps(_report(shrunk.changes, comparisons, failures), indent=2))
    else:
        print(*_table(comparisons), *_notes(comparisons, grad_cache_chunks), sep="\n")
        print("\n".join(["FAILED", *failures]) if failures else "All agree.")
    return failures


def _preface(changes: list[str]) -> list[str]:
    num, split = DEVICES.value, fsdp_size(DEVICES.value)
    return [
        f"{STEPS.value} steps on 1 and on {num} virtual CPU devices; zero1 and fsdp on a mesh of "
        f"data {num // split} x fsdp {split}.",
        "All data is random, and so are all weights. No data set and no checkpoint is read.",
        "Made smaller:" if changes else "Nothing was made smaller.",
        *(f"  {change}" for change in changes),
    ]


def _table(comparisons: list[Comparison]) -> list[str]:
    """Returns the rows; a reference stands above those that are compared with it."""
    rows = [["variant", *HEADERS.values(), "negatives", "most in gradients", "compiled"]]
    for one in comparisons:
        is_reference = one.variant == one.reference
        cells = [
            f"{one.differences[name]:.1e}" if name in one.differences else "-" for name in HEADERS
        ]
        if is_reference:
            cells = ["reference" if cell == "0.0e+00" else cell for cell in cells]
        seen = "-"
        if one.negatives is not None:
            seen = f"{one.negatives:.2f} of {one.expected_negatives}"
        where = "" if is_reference else one.worst["gradients"]
        rows.append([str(one.variant), *cells, seen, where, f"{one.compile_seconds:.0f} s"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return ["", *lines, ""]


def _notes(comparisons: list[Comparison], grad_cache_chunks: int) -> list[str]:
    contrasts = comparisons[0].expected_negatives is not None
    return [
        "Numbers are the largest relative differences, max |a - b| / max |a| of an array, of all",
        f"arrays and steps; each step starts where the reference did. Tolerance {LIMIT.value:.0e}.",
        "  views       of the augmentation, in float32, with a tolerance of "
        f"{VIEWS_TOLERANCE:.0e}; all else is in",
        "              float64 and sees the views of one device",
        f"  gradients   relative to {LEAST_GRADIENT:.0e} of the largest at the least: one that",
        "              should be zero is all rounding, such as that of a shift before BatchNorm",
        "  statistics  BatchNorm's, which are moved by the step",
        "  state       what the method keeps, such as a queue or an EMA target",
        "  update      parameters and optimizer state, beside what one device's optimizer makes of",
        "              the same gradients, relative to how far they move",
        "  negatives   of each row: exp(loss) - 1 where all projections are equal"
        if contrasts
        else "  negatives   this method contrasts nothing",
        f"  cached      in {grad_cache_chunks} parts, each of which BatchNorm normalises by "
        "itself: so it is compared",
        "              with cached, with the whole batch where statistics are frozen, and its",
        "              statistics with means of those of each part",
    ]


def _report(
    changes: list[str],
    comparisons: list[Comparison],
    failures: list[str],
) -> dict[str, object]:
    return {
        "devices": DEVICES.value,
        "steps": STEPS.value,
        "changes": changes,
        "tolerance": LIMIT.value,
        "views_tolerance": VIEWS_TOLERANCE,
        "variants": [
            {
                "variant": str(one.variant),
                "reference": str(one.reference),
                "differences": one.differences,
                "worst": one.worst,
                "negatives": one.negatives,
                "expected_negatives": one.expected_negatives,
                "compile_seconds": round(one.compile_seconds, 1),
            }
            for one in comparisons
        ],
        "failures": failures,
        "agree": not failures,
    }
