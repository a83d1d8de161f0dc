"""Trains and judges every method on the digits, side by side, and writes the table on its page.

  python launch/methods_table.py --run --workdir=runs/methods    # minutes for each method
  python launch/methods_table.py --run --workdir=runs/methods --only=byol,swav
  python launch/methods_table.py --write

All learn from the same 4,000 images, with the encoder of their recipe's variant "digits" and for
its epochs, and are judged alike. Each row is kept in launch/methods.json as soon as it is there,
and a run that was stopped goes on, so that this can be stopped and started again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import simclr_jax
from launch.pages import DOCS, replace_between
from simclr_jax.core.files import write_text
from simclr_jax.evals.representation import effective_rank
from simclr_jax.methods import METHODS

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "launch" / "methods.json"
PAGE = DOCS / "methods" / "README.md"
START, END = "<!-- digits -->\n", "<!-- /digits -->\n"
OTHERS = {
    "supervised": "is what they are compared with when labels are there",
    "distill": "needs a fine-tuned teacher",
    "rotation": "a 6 turned by half is a 9",
    "colorization": "digits have no colour",
    "clip": "and `siglip` learn from captions, which say what the classes are",
    "siglip": "",
    "clap": "hears, and `simcse` reads",
    "simcse": "",
}
BASELINES = {"random features": "random_features", "raw pixels": "pixels"}
TWICE = ("simclr", "supcon", "hybrid", "moco_v2", "moco_v3", "byol", "simsiam", "swav")
BEFORE = """\
The variant `digits` of each recipe: 4,000 images without labels (supcon, triplet and hybrid use
some), the same ResNet-18 of a quarter of the width and 50 epochs where the page of the method says
nothing else; a linear probe fitted with 40 labels, mean and deviation of 10 draws, and with 4,000;
kNN (k = 200) with 4,000; and the effective rank of the representations of 1,000 test images. Where
a second number stands after a stroke, it is of a second seed. `python launch/methods_table.py
--run` makes the rows, minutes each on two CPU cores, and `--write` this part of the page.

| method | linear, 40 labels | linear, 4,000 | kNN | effective rank |
|---|---|---|---|---|
"""


def rows_of(workdir: Path, features: str) -> dict[str, Any]:
    """Returns the figures of one kind of features, judged on the images of a run."""
    figures = {}
    for row in simclr_jax.evaluate(
        workdir, protocol=["knn", "linear"], features=[features], fractions=[0.01, 1.0]
    ):
        name = f"{row['protocol']} {row['num_train']}"
        figures[name] = [row["top1"], row["top1_std"]]
    return figures


def judged(name: str, seed: int, workdir: Path) -> dict[str, Any]:
    """Trains a method and returns its figures."""
    recipe = "simclr_digits" if name == "simclr" else f"{name}:digits"
    simclr_jax.train(recipe, workdir=workdir, run={"seed": seed})
    encoder = simclr_jax.load(workdir)
    test = encoder.run.dataset.open("test")
    features = encoder([np.asarray(test[i].image) for i in range(len(test))])
    return {
        **rows_of(workdir, "encoder"),
        "rank": float(effective_rank(features)),
        "device": jax.devices()[0].device_kind,
    }


def section(rows: dict[str, dict[str, Any]]) -> str:
    """Returns what stands between the two marks on the page."""
    lines = []
    for name in (*METHODS, *BASELINES):
        if name in OTHERS:
            continue
        label = f"`{name}`" if name in METHODS else name
        seeds = [rows[name][seed] for seed in sorted(rows.get(name, ()))]
        few = [f"{row['linear 40'][0]:.3f} +/- {row['linear 40'][1]:.3f}" for row in seeds]
        many = [f"{row['linear 4000'][0]:.3f}" for row in seeds]
        knn = [f"{row['knn 4000'][0]:.3f}" for row in seeds]
        rank = [f"{row['rank']:.1f}" if "rank" in row else "-" for row in seeds]
        cells = [" / ".join(column) or "not run" for column in (few, many, knn, rank)]
        lines.append(f"| {label} | {' | '.join(cells)} |\n")
    left_out = "; ".join(f"`{name}`: {why}" for name, why in OTHERS.items() if why)
    return f"{BEFORE}{''.join(lines)}\n{trained_elsewhere(rows)}Not in the table: {left_out}.\n"


def trained_elsewhere(rows: dict[str, dict[str, Any]]) -> str:
    """Returns a sentence for each kind of device other than a CPU that trained some methods."""
    kinds: dict[str, list[str]] = {}
    for name in METHODS:
        for row in rows.get(name, {}).values():
            if row["device"] != "cpu":
                kinds.setdefault(row["device"], []).append(f"`{name}`")
    return "".join(f"Trained on one {kind}: {', '.join(kinds[kind])}.\n\n" for kind in kinds)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", action="store_true", help="train and judge what is not there yet")
    parser.add_argument("--write", action="store_true", help=f"replace the table in {PAGE.name}")
    parser.add_argument("--workdir", type=Path, default=Path("runs/methods"), help="for the runs")
    parser.add_argument("--only", default="", help="names of methods, with commas between them")
    flags = parser.parse_args()
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    names = flags.only.split(",") if flags.only else [*METHODS, *BASELINES]
    wanted = [(name, 0) for name in names] + [(name, 1) for name in names if name in TWICE]
    for name, seed in wanted if flags.run else ():
        if str(seed) in rows.get(name, ()) or name in OTHERS:
            continue
        if name in BASELINES:
            row = rows_of(flags.workdir / "simclr", BASELINES[name])
        else:
            row = judged(name, seed, flags.workdir / (f"{name}-{seed}" if seed else name))
        rows.setdefault(name, {})[str(seed)] = row
        write_text(ROWS, json.dumps(rows, indent=1) + "\n")
        print(name, seed, row, flush=True)
    if flags.write:
        replace_between(PAGE, START, END, section(rows))
    elif not flags.run:
        print(section(rows), end="")


if __name__ == "__main__":
    main()
