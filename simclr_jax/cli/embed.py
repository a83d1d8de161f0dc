"""Writes the features of any images or texts, as a run sees them, with the labels of images.

The file holds features [n, d], ids, names and labels [n], -1 where unknown, and class_names. The
images of another folder have labels if each of them is in a class folder.

The text tower of a run embeds the lines of a file, --texts; names are these texts. Their rows are
compared by cosine, and in a run of two towers with those that --projected gives of images.

How images are read is set as in `train`: --config.data.outage_seconds=3600, image_column and the
like.

python -m simclr_jax embed --workdir=runs/mine --data=folder --path=photos --output=photos.npz
python -m simclr_jax embed --workdir=runs/clip --texts=captions.txt --output=captions.npz
"""

from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath

from simclr_jax.cli import app, own_encoder, reading
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import atomic_write, require_writable
from simclr_jax.data.sources import SOURCES
from simclr_jax.evals.features import Features
from simclr_jax.trained import restored
from simclr_jax.trained.embedding import embed, embed_texts, images_of, read_texts

WORKDIR = app.define_workdir()
STEP = flags.DEFINE_integer("step", None, "Of the checkpoint; the newest whole one if left out.")
own_encoder.define()
DATA = flags.DEFINE_string("data", None, f"{', '.join(SOURCES)}; the run's own if left out.")
PATH = flags.DEFINE_string("path", None, "The folder or file, or where prepared data sets are.")
SPLIT = flags.DEFINE_string("split", None, "Which images; of another folder or table all.")
PROJECTED = flags.DEFINE_bool(
    "projected", False, "Rows that are compared with those of texts, and not representations."
)
TEXTS = app.define_path("texts", "A file of one text a line, in place of images.")
OUTPUT = app.define_path("output", "The .npz file to write.")
OF_IMAGES = (DATA, PATH, SPLIT, PROJECTED)


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return reading.run(_embed, argv, required=("workdir", "output"))


def _embed(settings: reading.Settings) -> None:
    output = epath.Path(OUTPUT.value)
    if output.suffix != ".npz":
        raise UserError(f"--output={output} must end in .npz.")
    require_writable(output, "--output")
    if TEXTS.value:
        _embed_texts(output)
    else:
        _embed_images(output, settings)


def _embed_images(output: epath.Path, settings: reading.Settings) -> None:
    run = restored.load(WORKDIR.value, STEP.value)
    where = {"data": DATA.value, "path": PATH.value, "split": SPLIT.value}
    dataset = images_of(run, **where, reading=settings)
    images = dataset.open(dataset.split)
    found = embed(run, dataset, images, projected=PROJECTED.value)
    source, features, names, unreadable = found
    shape = _write(output, features, names, source.class_names)
    labels = f"labels of {len(source.class_names)} classes" if source.class_names else "no labels"
    print(
        f"{output}: features {shape} of {source.name}, {labels}; {unreadable.count} unreadable "
        f"{run.examples}."
    )
    for entry in unreadable.entries.values():
        print(f"  unreadable: {entry.name}: {entry.reason}")


def _embed_texts(output: epath.Path) -> None:
    if given := [f"--{flag.name}" for flag in OF_IMAGES if flag.value]:
        raise UserError(f"--texts takes no images: leave {' and '.join(given)} out, or --texts.")
    texts = read_texts(TEXTS.value)
    run = restored.load(WORKDIR.value, STEP.value, for_texts=True)
    shape = _write(output, embed_texts(run, texts), texts, ())
    print(f"{output}: features {shape} of {TEXTS.value}, as names.")


def _write(
    output: epath.Path, features: Features, names: Sequence[str], class_names: Sequence[str]
) -> str:
    """Writes the file; returns the shape of the features for people."""
    with atomic_write(output) as unfinished, unfinished.open("wb") as file:
        np.savez(
            file,
            names=np.array(names),
            class_names=np.array(class_names, str),
            **features._asdict(),
        )
    return str([*features.features.shape])
