"""Photographs from file to view against what the official code does with the decoded image.

The official views are decode -> crop -> bicubic without antialiasing -> clip (google-research/
simclr, tf2/data_util.py); JAX's resize equals TensorFlow's to 5e-4. $SIMCLR_JAX_PHOTOS may name
a folder of one's own to be compared, too.
"""

import io
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from simclr_jax.augment.policies import Policy, evaluation, finetune
from simclr_jax.core.types import Cuts
from simclr_jax.data.decode import decode
from simclr_jax.data.load import eval_batches, train_batches
from simclr_jax.data.order import random_words
from simclr_jax.data.records import Record

SIZE = 224
SHAPES = [(375, 500), (500, 375), (333, 500), (150, 200), (600, 800), (960, 1280), (3000, 4000)]
MEDIAN, WORST = 0.002, 0.01  # RMS of a view, 1.0 for white; WORST of 95 % of the views


def photograph(height: int, width: int, seed: int) -> bytes:
    """A JPEG whose amplitudes fall with frequency, as those of photographs do, down to the pixel.

    A large one repeats itself, mirrored, so that its pixels are no smoother.
    """
    rng = np.random.default_rng(seed)
    h, w = min(height, 512), min(width, 512)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(h), np.fft.fftfreq(w), indexing="ij"))
    spectrum = (
        np.fft.fft2(rng.normal(size=(3, h, w))) / np.maximum(frequency, 1 / max(h, w)) ** 1.25
    )
    planes = np.fft.ifft2(spectrum).real
    mixed = planes[0] + 0.3 * planes  # channels of photographs are alike
    pixels = np.clip(128 + 55 * mixed / mixed.std(), 0, 255).transpose(1, 2, 0)
    pixels = np.pad(pixels, [(0, height - h), (0, width - w), (0, 0)], mode="symmetric")
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


class Photographs:
    """A `records.Source` of encoded images."""

    name, class_names, fingerprint = "photographs", (), ""

    def __init__(self, files: list[bytes]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Record:
        return Record(self.files[index], -1, str(index))


def generated() -> list[bytes]:
    return [photograph(*shape, seed) for seed, shape in enumerate(SHAPES)]


def found() -> list[bytes]:
    folder = os.environ.get("SIMCLR_JAX_PHOTOS")
    if not folder:
        pytest.skip("$SIMCLR_JAX_PHOTOS names no folder of photographs")
    return [path.read_bytes() for path in sorted(Path(folder).iterdir())]


@pytest.fixture(scope="module", params=[generated, found])
def source(request) -> Photographs:
    return Photographs(request.param())


def official_view(file: bytes, box) -> np.ndarray:
    y, x, height, width = box
    pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    crop = pixels[y : y + height, x : x + width] / np.float32(255)
    return np.clip(jax.image.resize(crop, (SIZE, SIZE, 3), "cubic", antialias=False), 0, 1)


def official_center(file: bytes) -> tuple[int, int, int, int]:
    width, height = Image.open(io.BytesIO(file)).size
    side = int(np.rint(np.float32(0.875) * min(height, width)))
    return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def views_of(policy: Policy, batch) -> np.ndarray:
    arrays = {name: jnp.asarray(batch[name]) for name in ("image", "size")}
    return np.asarray(jax.jit(policy.augment)(jax.random.key(0), arrays))[:, 0]


def rms(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(np.mean((got - want) ** 2)))


def assert_official(distances: list[float]):
    assert np.median(distances) < MEDIAN, distances
    assert np.quantile(distances, 0.95) < WORST, distances


def test_evaluation_views_have_the_official_pixels(source):
    policy = evaluation(size=SIZE)
    (batch,) = eval_batches(source, policy.cuts, batch_size=len(source), canvas=8192)
    views = views_of(policy, batch)
    wanted = [official_view(file, official_center(file)) for file in source.files]
    assert_official([rms(*pair) for pair in zip(views, wanted, strict=True)])


def test_training_crops_have_the_official_pixels_of_their_box(source):
    policy = finetune(size=SIZE, flip=False)
    assert isinstance(policy.cuts, Cuts)
    (batch,) = train_batches(
        source,
        policy.cuts,
        batch_size=len(source),
        canvas=8192,
        seed=3,
        first_step=0,
        num_steps=1,
    )
    distances = []
    for row, (i, view) in enumerate(zip(batch["id"], views_of(policy, batch), strict=True)):
        width, height = Image.open(io.BytesIO(source.files[i])).size
        (box,) = policy.cuts.boxes(random_words(3, 0, row), (height, width))
        distances.append(rms(view, official_view(source.files[i], box)))
    assert_official(distances)


def test_the_bound_would_catch_photographs_that_were_scaled_first():
    policy = evaluation(size=SIZE)
    file = photograph(375, 500, 0)
    (batch,) = eval_batches(Photographs([file]), policy.cuts, batch_size=1, canvas=320)
    (view,) = views_of(policy, batch)
    assert rms(view, official_view(file, official_center(file))) > 2 * WORST


def test_the_photographs_are_rough_enough_to_tell():
    """Neighbours differ by 3 to 22 grey levels in nine of ten photographs that were at hand."""
    pixels = decode(photograph(375, 500, 0), canvas=512).pixels.astype(float)
    assert 3 < np.abs(np.diff(pixels, axis=1)).mean() < 22
