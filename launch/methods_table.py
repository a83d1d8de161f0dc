"""Trains and judges every method side by side, and writes the tables on their page.

  python launch/methods_table.py --run --workdir=runs/methods    # digits, minutes for each method
  python launch/methods_table.py --run --workdir=runs/methods --only=byol,swav
  python launch/methods_table.py --run --data=cifar10 --path=DIR --workdir=runs/methods_cifar10
  python launch/methods_table.py --write

All learn from the same images, with the encoder of their recipe's small variant, and are judged
alike. Each row is kept in launch/methods.json as soon as it is there, and a run that was stopped
goes on, so that this can be stopped and started again.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import simclr_jax
from launch.pages import DOCS, replace_between
from simclr_jax.core.files import write_text
from simclr_jax.evals.features import extract_features
from simclr_jax.evals.representation import effective_rank
from simclr_jax.methods import METHODS

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "launch" / "methods.json"
PAGE = DOCS / "methods" / "README.md"
LEFT_OUT = {
    "supervised": "learns from labels alone",
    "distill": "needs a fine-tuned teacher",
    "rotation": "a 6 turned by half is a 9",
    "colorization": "digits have no colour",
    "clip": "learns from captions, which name the classes",
    "siglip": "as `clip`",
    "clap": "learns from sounds",
    "simcse": "learns from sentences",
}
OTHER_CIFAR10 = {"simclr": "simclr_cifar10:small"}
BASELINES = {"random features": "random_features", "raw pixels": "pixels"}
# Published: kNN with 200 neighbours after 200 epochs with a batch of 128 (lightly's documentation,
# the best of all epochs), and a linear classifier trained beside 1,000 epochs (solo-learn's
# README), both of a whole ResNet-18 with the CIFAR stem; in percent.
PUBLISHED = {
    "simclr": ("84.7", "90.7"),
    "supcon": ("-", "93.8"),
    "dcl": ("84.4", "-"),
    "moco_v2": ("83.8", "92.9"),
    "moco_v3": ("-", "93.1"),
    "byol": ("86.9", "92.6"),
    "simsiam": ("81.9", "90.5"),
    "barlow_twins": ("84.2", "92.1"),
    "vicreg": ("-", "92.1"),
    "swav": ("81.2", "89.2"),
}
DIGITS_TEXT = """\
The variant `digits` of each recipe: 4,000 images without labels (supcon, triplet and hybrid use
some), the same ResNet-18 of a quarter of the width and 50 epochs where the page of the method says
nothing else; a linear probe fitted with 40 labels, mean and deviation of 10 draws, and with 4,000;
kNN (k = 200) with 4,000; and the effective rank of the representations of 1,000 test images. Where
a second number stands after a stroke, it is of a second seed. `python launch/methods_table.py
--run` makes the rows, minutes each on two CPU cores, and `--write` this part of the page.
"""
CIFAR10_TEXT = """\
The variant `cifar10_small` of each recipe: 50,000 images without labels (supcon uses all, hybrid a
tenth), the same ResNet-18 of a quarter of the width with the stem for ImageNet, 5 epochs, one seed;
a linear probe fitted with 500 labels, mean and deviation of 10 draws, and with 50,000; kNN (k =
200) with 50,000; and the effective rank of the representations of 1,000 test images. Published are
figures of others for a whole ResNet-18 with the stem for CIFAR: kNN after 200 epochs (lightly) and
a linear classifier after 1,000 (solo-learn), in percent. As in solo-learn's, labels put SupCon
first. After so few epochs two methods stand elsewhere than in lightly's order: BYOL, the first
there, is the last here, and SwAV, the last there, is behind DCL and SimCLR alone; the others follow
each other as they do there, but for differences of about a point. `python
launch/methods_table.py --run --data=cifar10 --path=DIR` makes the rows, 8 to 10 minutes each on two
CPU cores.
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """One data set's runs and their table.

    Attributes:
      recipe: name of a method -> its recipe.
      names: methods and baselines, in the order of the rows.
      twice: methods that are trained with a second seed, too.
      few: labels that the smaller probe takes.
      many: training images, all of which the larger one takes.
      text: what stands above the table.
      left_out: why a method has no row.
      published: more columns, {title: {method: cell}}.
      run: settings of the section "run" of all recipes.
    """

    recipe: Callable[[str], str]
    names: tuple[str, ...]
    twice: tuple[str, ...]
    few: int
    many: int
    text: str
    left_out: dict[str, str]
    published: dict[str, dict[str, str]]
    run: dict[str, Any]


TABLES = {
    "digits": Table(
        recipe=lambda name: "simclr_digits" if name == "simclr" else f"{name}:digits",
        names=(*(name for name in METHODS if name not in LEFT_OUT), *BASELINES),
        twice=("simclr", "supcon", "hybrid", "moco_v2", "moco_v3", "byol", "simsiam", "swav"),
        few=40,
        many=4_000,
        text=DIGITS_TEXT,
        left_out=LEFT_OUT,
        published={},
        run={},
    ),
    "cifar10": Table(
        recipe=lambda name: OTHER_CIFAR10.get(name, f"{name}:cifar10_small"),
        names=(
            *("simclr", "supcon", "hybrid", "dcl", "moco_v2", "moco_v3", "byol", "simsiam"),
            *("barlow_twins", "vicreg", "swav", "rotation", "colorization", *BASELINES),
        ),
        twice=(),
        few=500,
        many=50_000,
        text=CIFAR10_TEXT,
        left_out={},
        published={
            "lightly, kNN": {name: knn for name, (knn, _) in PUBLISHED.items()},
            "solo-learn, linear": {name: linear for name, (_, linear) in PUBLISHED.items()},
        },
        run={"epochs": 5},
    ),
}


def figures_of(workdir: Path, features: str) -> dict[str, Any]:
    """Returns the figures of one kind of features, judged on the images of a run."""
    figures = {}
    for row in simclr_jax.evaluate(
        workdir, protocol=["knn", "linear"], features=[features], fractions=[0.01, 1.0]
    ):
        name = f"{row['protocol']} {row['num_train']}"
        figures[name] = [row["top1"], row["top1_std"]]
    return figures


def judged(workdir: Path) -> dict[str, Any]:
    """Returns the figures of a run's encoder."""
    run = simclr_jax.load(workdir).run
    test, cuts = run.dataset.open("test"), run.network.evaluation.cuts
    batches = run.dataset.eval_batches(test, cuts, indices=np.arange(1_000))
    features = extract_features(run.encode, batches, run.mesh).features
    return {**figures_of(workdir, "encoder"), "rank": float(effective_rank(features))}


def section(table: Table, rows: dict[str, dict[str, Any]]) -> str:
    """Returns what stands between the two marks of a table on the page."""
    few, many = f"linear, {table.few:,} labels", f"linear, {table.many:,}"
    titles = ["method", few, many, "kNN", "effective rank", *table.published]
    lines = [f"| {' | '.join(titles)} |\n", f"|{'---|' * len(titles)}\n"]
    for name in table.names:
        seeds = [rows[name][seed] for seed in sorted(rows.get(name, ()))]
        linear, knn = f"linear {table.many}", f"knn {table.many}"
        few_mean_std = [row[f"linear {table.few}"] for row in seeds]
        columns = [
            [f"{mean:.3f} +/- {std:.3f}" for mean, std in few_mean_std],
            [f"{row[linear][0]:.3f}" for row in seeds],
            [f"{row[knn][0]:.3f}" for row in seeds],
            [f"{row['rank']:.1f}" if "rank" in row else "-" for row in seeds],
        ]
        cells = [f"`{name}`" if name in METHODS else name]
        cells += [" / ".join(column) or "not run" for column in columns]
        cells += [published.get(name, "-") for published in table.published.values()]
        lines.append(f"| {' | '.join(cells)} |\n")
    left_out = ", ".join(f"`{name}` ({why})" for name, why in table.left_out.items())
    last = f"Not in the table: {left_out}.\n" if left_out else ""
    return f"{table.text}\n{''.join(lines)}\n{trained_elsewhere(rows)}{last}"


def sections() -> dict[str, str]:
    """Returns what the kept rows make of each table, by the name of the data set."""
    rows = json.loads(ROWS.read_text())
    return {name: section(table, rows[name]) for name, table in TABLES.items()}


def trained_elsewhere(rows: dict[str, dict[str, Any]]) -> str:
    """Returns a sentence for each kind of device other than a CPU that trained some methods."""
    kinds: dict[str, list[str]] = {}
    for name in METHODS:
        devices = [row["device"] for _, row in sorted(rows.get(name, {}).items())]
        for kind in sorted(set(devices) - {"cpu"}):
            seeds = "" if set(devices) == {kind} else " (second seed)"
            kinds.setdefault(kind, []).append(f"`{name}`{seeds}")
    return "".join(f"Trained on one {kind}: {', '.join(kinds[kind])}.\n\n" for kind in kinds)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", action="store_true", help="train and judge what is not there yet")
    parser.add_argument("--write", action="store_true", help=f"replace the tables in {PAGE.name}")
    parser.add_argument("--data", choices=TABLES, default="digits", help="what is learned from")
    parser.add_argument("--path", help="directory of TFDS data sets, for cifar10")
    parser.add_argument("--workdir", type=Path, default=Path("runs/methods"), help="for the runs")
    parser.add_argument("--only", default="", help="names of methods, with commas between them")
    flags = parser.parse_args()
    all_rows = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    table, rows = TABLES[flags.data], all_rows.setdefault(flags.data, {})
    data = {"data": {"path": flags.path}} if flags.path else {}
    names = flags.only.split(",") if flags.only else table.names
    wanted = [(name, 0) for name in names] + [(name, 1) for name in names if name in table.twice]
    for name, seed in wanted if flags.run else ():
        if str(seed) in rows.get(name, ()) or name not in table.names:
            continue
        if name in BASELINES:
            row = figures_of(flags.workdir / "simclr", BASELINES[name])
        else:
            workdir = flags.workdir / (f"{name}-{seed}" if seed else name)
            run = {**table.run, "seed": seed}
            simclr_jax.train(table.recipe(name), workdir=workdir, run=run, **data)
            row = {**judged(workdir), "device": jax.devices()[0].device_kind}
        rows.setdefault(name, {})[str(seed)] = row
        write_text(ROWS, json.dumps(all_rows, indent=1) + "\n")
        print(name, seed, row, flush=True)
    for name, text in sections().items() if flags.write else ():
        replace_between(PAGE, f"<!-- {name} -->\n", f"<!-- /{name} -->\n", text)
    if not flags.run and not flags.write:
        print(section(table, rows), end="")


if __name__ == "__main__":
    main()
