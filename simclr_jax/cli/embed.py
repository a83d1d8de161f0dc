"""Writes the features of any images, as the encoder of a run sees them, with their labels.

The file holds features [n, d], ids, names and labels [n], -1 where unknown, and class_names. The
images of another folder have labels if each of them is in a class folder.

python -m simclr_jax embed --workdir=runs/mine --data=folder --path=photos --output=photos.npz
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath

from simclr_jax.cli import app, own_encoder
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import atomic_write, require_writable
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.reading import Reader
from simclr_jax.data.sources import LISTED, SOURCES
from simclr_jax.evals.features import extract_features
from simclr_jax.trained import restored
from simclr_jax.trained.images import choose_images

WORKDIR = app.define_workdir()
STEP = flags.DEFINE_integer("step", None, "Of the checkpoint; the newest whole one if left out.")
own_encoder.define()
DATA = flags.DEFINE_string("data", None, f"{', '.join(SOURCES)}; the run's own if left out.")
PATH = flags.DEFINE_string("path", None, "The folder or file, or where prepared data sets are.")
SPLIT = flags.DEFINE_string("split", None, "Which images; of another folder or table all.")
OUTPUT = app.define_path("output", "The .npz file to write.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_embed, argv, required=("workdir", "output"))


def _embed() -> None:
    output = epath.Path(OUTPUT.value)
    if output.suffix != ".npz":
        raise UserError(f"--output={output} must end in .npz.")
    require_writable(output, "--output")
    run = restored.load(WORKDIR.value, STEP.value)
    name = DATA.value or run.dataset.name
    dataset = choose_images(
        run.dataset,
        data=DATA.value,
        path=PATH.value,
        split=SPLIT.value,
        needed=() if name in LISTED else ("split",),
    )
    if name == "folder" and (DATA.value or PATH.value):
        dataset = dataclasses.replace(dataset, labels_from_folders=None)
    source = dataset.open(dataset.split)
    unreadable = Quarantine()
    batches = dataset.eval_batches(source, run.network.evaluation.cuts, quarantine=unreadable)
    features = extract_features(run.encode, batches, run.mesh)
    reader = Reader(source, dataset.patience)
    names = np.array([reader.record(int(i)).name for i in features.ids])
    with atomic_write(output) as unfinished, unfinished.open("wb") as file:
        np.savez(
            file, names=names, class_names=np.array(source.class_names, str), **features._asdict()
        )
    n, d = features.features.shape
    labels = f"labels of {len(source.class_names)} classes" if source.class_names else "no labels"
    print(
        f"{output}: features [{n}, {d}] of {source.name}, {labels}; {unreadable.count} unreadable "
        "images."
    )
    for entry in unreadable.entries.values():
        print(f"  unreadable: {entry.name}: {entry.reason}")
