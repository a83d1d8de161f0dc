"""Checks images before a run, or makes shards of them: a few large files instead of many.

`audit` looks at every image: formats, sizes, what cannot be read, copies, images that look the
same, those in train and test at once. With --output it writes audit.json, audit.html and
contact_sheet.jpg. A folder of folders such as train and test is taken as splits, unless --split
says which.

`convert` writes the images as ArrayRecord shards, which data set "array_record" reads. They are
stored as they are, byte for byte. With --canvas=N those that do not fit N x N pixels are scaled
down and stored anew, upright and in RGB, as JPEG of quality 95 or, if they were not JPEG, as PNG:
pixels, more than 8 bits a channel, other channels, transparency and camera data are lost. A
conversion that was stopped goes on when the same command is given again.

How images are read is set as in `train`: --config.data.value_range=0:4095, image_column, ground,
outage_seconds and the like.

python -m simclr_jax data audit photos --output=photos_audit
python -m simclr_jax data audit photos/train photos/test
python -m simclr_jax data audit --data=tfds/cifar10 --split=train --split=test
python -m simclr_jax data audit --data=csv table.csv --config.data.image_column=photo
python -m simclr_jax data convert photos --output=photos_shards
"""

import dataclasses
import functools
import json
import re
from collections.abc import Sequence

from absl import flags
from etils import epath

from simclr_jax.cli import app, reading
from simclr_jax.cli.tables import print_table
from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.files import in_a_bucket, reason, require_writable, write_text
from simclr_jax.core.sections import build_section
from simclr_jax.data.audit import Audit, audit, facts, splits_of
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import as_rgb, decode
from simclr_jax.data.reading import Reader
from simclr_jax.data.records import Source, examples_of
from simclr_jax.data.shards import Split, convert
from simclr_jax.report.audit import (
    TILE_PX,
    Pictures,
    shown_members,
    tables,
    write_contact_sheet,
    write_page,
)
from simclr_jax.report.tables import printable

AUDIT_OUTAGE_SECONDS = 3.0  # a file that cannot be read is named soon, and the next looked at
RECIPES = {"sounds": "clap", "texts": "simcse"}  # of what is no image
KEYS = (*reading.KEYS, "channels", "labels_from_folders")

PATHS = app.define_paths(
    "path", "The folder, or what else holds the images; --path= may be left out."
)
DATA = flags.DEFINE_string("data", "folder", "What it is; see `config.data.name`.")
SPLITS = flags.DEFINE_multi_string("split", [], "Which images; each is a part of its own.")
OUTPUT = app.define_path("output", "Directory to write; audit only prints if left out.")
CANVAS = flags.DEFINE_integer("canvas", None, "convert: scale larger images down to this.", 1)
IMAGES_PER_SHARD = flags.DEFINE_integer("images_per_shard", 4096, "convert: in each file.", 1)
JSON = flags.DEFINE_bool("json", False, "audit: prints one JSON object instead of tables.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    action, actions = argv[1] if len(argv) > 1 else "", {"audit": _audit, "convert": _convert}
    if action not in actions:
        return app.run(functools.partial(_refuse, action, list(actions)), argv[:1], required=())
    words = [argv[0], *argv[2:]]
    return reading.run(actions[action], words, required=(), keys=KEYS, positional="path")


def _refuse(action: str, actions: Sequence[str]) -> None:
    what = f"`data {action}` is no verb" if action else "`data` needs to know what to do"
    raise UserError(f"{what}: {' or '.join(actions)}.{did_you_mean(action, actions)}")


def _audit(settings: reading.Settings) -> None:
    output = epath.Path(OUTPUT.value) if OUTPUT.value else None
    datasets = _datasets({"outage_seconds": AUDIT_OUTAGE_SECONDS, **settings})
    sources = [_images(dataset) for dataset in datasets]
    if output is not None:
        _make(output)
        require_writable(output / "audit.json", "--output")
    found = audit(datasets, sources)
    if output is not None:
        pictures = _pictures(found, datasets)
        write_text(output / "audit.json", json.dumps(facts(found), indent=1))
        write_contact_sheet(found, pictures, output / "contact_sheet.jpg")
        write_page(found, pictures, output / "audit.html")
    if JSON.value:
        print(json.dumps(facts(found)))
        return
    for table in tables(found):
        print_table(table)
    for note in found.notes:
        print(f"- {printable(note)}")
    if output is not None:
        print(f"Written to {output}: audit.html, audit.json, contact_sheet.jpg")


def _convert(settings: reading.Settings) -> None:
    if not OUTPUT.value:
        raise UserError("--output is missing: the directory of the shards.")
    output = epath.Path(OUTPUT.value)
    if in_a_bucket(output):
        raise UserError(
            f"--output={output} is in a bucket; shards are written to a disk. Give a directory "
            "there, and copy it with gcloud storage cp -r."
        )
    datasets = _datasets(settings)
    if CANVAS.value is not None and any(dataset.channels != 3 for dataset in datasets):
        raise UserError(
            "--canvas stores images anew, in RGB; without it they are stored as they are, for any "
            "config.data.channels."
        )
    splits = _splits(datasets)
    _make(output)
    require_writable(output / "convert.json", "--output")
    done = convert(splits, output, canvas=CANVAS.value, images_per_shard=IMAGES_PER_SHARD.value)
    print(
        f"{output}: {done.num_images:,} images in {done.num_shards:,} shards, "
        f"{done.num_bytes / 1e6:,.1f} MB"
    )
    if CANVAS.value is not None:
        print(
            f"{done.num_changed:,} are smaller than they were; {done.num_unreadable:,} could not "
            "be read, and are stored as they were."
        )
    names = " or ".join(split.name for split in splits)
    print(
        f"Read them with --config.data.name=array_record --config.data.path={output} "
        f"--config.data.split=all, or {names}"
    )


def _splits(datasets: Sequence[Dataset]) -> list[Split]:
    """Returns what is converted, with one list of classes, under names that TFDS takes."""
    sources = [_images(dataset) for dataset in datasets]
    classes = max((source.class_names for source in sources), key=len)
    splits: dict[str, Split] = {}
    for dataset, source in zip(datasets, sources, strict=True):
        if source.class_names != classes:
            source = dataclasses.replace(dataset, class_names=classes).open(dataset.split)
        if source.class_names != classes:
            raise UserError(f"{source.name} has no labels, and another part has; see --split.")
        name = re.sub(r"\W+", "_", dataset.split).strip("_")
        name = "train" if name == "all" else name  # TFDS calls all splits together so
        if name in splits:
            raise UserError(
                f"{splits[name].source.name} and {source.name} would both be the split {name!r}. "
                "Convert them one by one, each to an --output of its own."
            )
        splits[name] = Split(name, dataset, source)
    return [*splits.values()]


def _images(dataset: Dataset) -> Source:
    """Opens a part.

    Raises:
      UserError: if it is of sounds or texts, or not there.
    """
    source = dataset.open(dataset.split)
    if (examples := examples_of(source)) in RECIPES:
        raise UserError(
            f"{source.name} has {examples}, and `data` is for images. The recipe "
            f"{RECIPES[examples]} trains on {examples} as they are; those that cannot be read "
            "stand in quarantine.jsonl of the run."
        )
    return source


def _datasets(settings: reading.Settings) -> list[Dataset]:
    """Returns how to read each part: all splits of all paths."""
    common = {"name": DATA.value, "batch_size": 1, "canvas": TILE_PX, "labels_from_folders": None}
    datasets = []
    for path in PATHS.value or [None]:
        by_itself = splits_of(path) if path is not None and DATA.value == "folder" else ["all"]
        for split in SPLITS.value or by_itself:
            section = {**common, "split": split, "path": path, **settings}
            datasets.append(build_section("config.data", Dataset, section))
    return datasets


def _make(directory: epath.Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output={directory} cannot be made: {reason(error)}. Give another directory."
        ) from error


def _pictures(found: Audit, datasets: Sequence[Dataset]) -> Pictures:
    """Returns what the page shows, small."""
    readers = [
        Reader(part.source, dataset.patience)
        for part, dataset in zip(found.parts, datasets, strict=True)
    ]
    pictures = {}
    for member in shown_members(found):
        record = readers[member.part].record(int(found.parts[member.part].rows["id"][member.row]))
        rendering = datasets[member.part].rendering
        pixels = decode(record.image, canvas=TILE_PX, rendering=rendering).pixels
        pictures[member] = as_rgb(pixels)
    return pictures
