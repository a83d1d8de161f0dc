"""How fast images are read: against the plain decoder, against lightly's transform, on two cores.

python tests/benchmarks/data.py --photos=DIR [--lightly_python=PYTHON] [--files=1000000]

Each way runs in a process of its own, on as many cores as it may use. Images per CPU second are
what one core does, whatever else runs on the machine; per second they need a machine that is idle.
Views are two of 224 px, cut
from images within 896 px, as a recipe for one's own photographs has them. With --files, so many
empty files in folders of 1,000 are made in a temporary directory, and listed.
"""

import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags
from PIL import Image

from simclr_jax.augment.policies import simclr
from simclr_jax.data.decode import decode
from simclr_jax.data.load import train_batches
from simclr_jax.data.sources import open_source

PHOTOS = flags.DEFINE_string("photos", None, "Folder of JPEGs.")
LIGHTLY = flags.DEFINE_string("lightly_python", None, "Python of an environment with lightly.")
EPOCHS = flags.DEFINE_integer("epochs", 5, "Passes over the photographs.")
FILES = flags.DEFINE_integer("files", 0, "How many files are listed.")
MEASURE = flags.DEFINE_string("measure", None, "For the script itself: what a process measures.")
CORES = flags.DEFINE_integer("cores", 1, "For the script itself: how many it may use.")
SIZE, CANVAS, BATCH = 224, 896, 32
# Runs where simclr_jax is not installed; it prints a `Speed`.
LIGHTLY_PROGRAM = """
import sys, time
from pathlib import Path
import torch
from PIL import Image
from lightly.transforms import SimCLRTransform

torch.set_num_threads(1)
transform = SimCLRTransform(input_size=%d)
paths = sorted(Path(sys.argv[1]).iterdir())
batch, clock, cpu = [], time.perf_counter(), time.process_time()
for path in paths:
    with Image.open(path) as image:
        batch.append(torch.stack(transform(image.convert("RGB"))))
    if len(batch) == %d:
        batch = [torch.stack(batch)][:0]
seconds = time.perf_counter() - clock, time.process_time() - cpu
print(*(len(paths) / each for each in seconds))
"""


class Speed(NamedTuple):
    """Images a second, by the clock and by what all threads of the process took."""

    by_clock: float
    by_cpu: float


def timed(run: Callable[[], int]) -> Speed:
    """Returns how fast `run` goes, which returns the number of its images."""
    clock, cpu = time.perf_counter(), time.process_time()
    count = run()
    return Speed(count / (time.perf_counter() - clock), count / (time.process_time() - cpu))


def batches() -> int:
    """Reads a stream of training batches: read, decoded, cut into views, put together."""
    source = open_source("folder", split="all", path=PHOTOS.value)
    stream = train_batches(
        source,
        simclr(size=SIZE).cuts,
        batch_size=BATCH,
        canvas=CANVAS,
        seed=0,
        first_step=0,
        num_steps=EPOCHS.value * len(source) // BATCH,
        num_threads=CORES.value,
    )
    return sum(len(batch["id"]) for batch in stream)


def canvases() -> int:
    """Reads images and decodes them to fit their canvas."""
    source = open_source("folder", split="all", path=PHOTOS.value)
    for i in range(EPOCHS.value * len(source)):
        decode(source[i % len(source)].image, canvas=CANVAS)
    return EPOCHS.value * len(source)


def plain_decoder() -> int:
    """Reads and decodes images by Pillow alone, at the scale at which they are read here."""
    assert PHOTOS.value is not None
    paths = sorted(Path(PHOTOS.value).iterdir())
    for path in EPOCHS.value * paths:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.draft("RGB", (CANVAS, CANVAS))
            np.asarray(image.convert("RGB"))
    return EPOCHS.value * len(paths)


def listing() -> str:
    """Lists the files of a folder; returns the time and the memory that it took."""
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    before, start = peak(), time.perf_counter()
    source = open_source("folder", split="all", path=PHOTOS.value)
    seconds = time.perf_counter() - start
    more = peak() - before
    return f"{len(source):,} files in {seconds:.1f} s: {more:.0f} MB more, {peak():.0f} MB in all"


MEASURES = {"batches": batches, "canvases": canvases, "plain_decoder": plain_decoder}


def said_by(name: str, cores: int, photos: str) -> str:
    """Returns what a process of its own says that may use the first few cores."""
    command = [sys.executable, __file__, f"--measure={name}", f"--cores={cores}"]
    command += [f"--photos={photos}", f"--epochs={EPOCHS.value}"]
    if name == "lightly":
        command = [LIGHTLY.value, "-c", LIGHTLY_PROGRAM % (SIZE, BATCH), photos]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    pin = lambda: os.sched_setaffinity(0, allowed)
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=pin)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return done.stdout.strip()


def print_speeds(photos: str) -> None:
    """Prints a row for each way."""
    speed = lambda name, cores: Speed(*map(float, said_by(name, cores, photos).split()))
    plain = speed("plain_decoder", 1)
    ways = {
        "Pillow alone": plain,
        "read, decoded, within the canvas": speed("canvases", 1),
        "read, decoded, cut, batched": speed("batches", 1),
        "the same, two cores": speed("batches", 2),
    }
    if LIGHTLY.value:
        ways["lightly's SimCLR transform"] = speed("lightly", 1)
    print("| one core | images/s | images/CPU s | of Pillow's |\n|---|---|---|---|")
    for name, way in ways.items():
        share = way.by_cpu / plain.by_cpu
        print(f"| {name} | {way.by_clock:.1f} | {way.by_cpu:.1f} | {share:.2f} |")


def main(argv: Sequence[str]) -> None:
    """Prints a table and a line, or measures one thing."""
    del argv
    if MEASURE.value == "listing":
        print(listing())
    elif MEASURE.value:
        print(*timed(MEASURES[MEASURE.value]))
    elif PHOTOS.value:
        print_speeds(PHOTOS.value)
    if not MEASURE.value and FILES.value:
        with tempfile.TemporaryDirectory() as top:
            for i in range(FILES.value):
                folder = Path(top, f"{i // 1000:06d}")
                if i % 1000 == 0:
                    folder.mkdir()
                (folder / f"{i % 1000:03d}.jpg").touch()
            print(said_by("listing", 1, top))


if __name__ == "__main__":
    app.run(main)
