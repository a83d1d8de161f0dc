"""Writes the features of any images, as the encoder of a run sees them.

python -m simclr_jax embed --workdir=runs/mine --data=folder --path=photos --output=photos.npz
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath

from simclr_jax.cli import app, restored
from simclr_jax.core.errors import UserError
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.evals.features import extract_features

WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run.")
DATA = flags.DEFINE_string("data", None, "digits, folder or tfds/NAME; the run's own if left out.")
PATH = flags.DEFINE_string("path", None, "The folder, or the directory of prepared data sets.")
SPLIT = flags.DEFINE_string("split", None, "Which images of it; a folder's are 'all'.")
OUTPUT = flags.DEFINE_string("output", "", "The .npz file to write.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_embed, argv, required=("workdir", "output"))


def _embed() -> None:
    output = epath.Path(OUTPUT.value)
    if output.suffix != ".npz" or not output.parent.exists():
        raise UserError(f"--output={output} must end in .npz, in a directory that exists.")
    run = restored.load(WORKDIR.value)
    dataset, split = run.dataset, SPLIT.value or run.dataset.split
    if DATA.value is not None:
        dataset = dataclasses.replace(
            dataset, name=DATA.value, path=PATH.value, labels_from_folders=False
        )
        split = SPLIT.value or ("all" if DATA.value == "folder" else "test")
    source = dataset.open(split)
    unreadable = Quarantine()
    batches = dataset.eval_batches(source, run.network.evaluation.cuts, quarantine=unreadable)
    features = extract_features(run.encode, batches, run.mesh)
    names = np.array([source[int(i)].name for i in features.ids])
    unfinished = output.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        np.savez(file, names=names, **features._asdict())
    unfinished.replace(output)
    n, d = features.features.shape
    print(f"{output}: features [{n}, {d}] of {source.name}; {unreadable.count} unreadable images.")
    for entry in unreadable.entries.values():
        print(f"  unreadable: {entry.name}: {entry.reason}")
