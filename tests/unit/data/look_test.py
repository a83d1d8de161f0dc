"""The look before a run: what is odd about images is said, with a setting that mends it."""

import numpy as np
import pytest
from numpy.typing import DTypeLike
from PIL import Image

from simclr_jax.data.dataset import Dataset
from simclr_jax.data.look import look

VIEW = 32


def noise(i, height=48, width=48, high=256, kind: DTypeLike = np.uint8):
    return np.random.default_rng(i).integers(0, high, (height, width)).astype(kind)


def write(root, arrays, ending="png"):
    for i, pixels in enumerate(arrays):
        Image.fromarray(pixels).save(root / f"{i:03d}.{ending}")


def seen(root, **settings):
    dataset = Dataset(
        **{"name": "folder", "batch_size": 2, "canvas": 64, "split": "all", "path": str(root)},
        **settings,
    )
    return "\n".join(look(dataset, dataset.open_train(), view_size=VIEW))


def test_ordinary_images_are_passed_in_silence(tmp_path):
    write(tmp_path, [noise(i, 40 + i, 70) for i in range(70)])
    assert seen(tmp_path) == ""


def test_the_digits_are_passed_in_silence():
    dataset = Dataset("digits", 2, 28, "train")
    assert look(dataset, dataset.open_train(), view_size=28) == []


def test_kinds_that_are_left_out_are_counted(tmp_path):
    write(tmp_path, [noise(i) for i in range(3)])
    for i in range(5):
        (tmp_path / f"IMG_{i}.HEIC").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    says = seen(tmp_path, keep_unlabelled=False)
    assert (
        "6 files beside the 3 images are left out, by their names no images: 5 .heic, 1 .txt."
        in says
    )


def test_unreadable_images_are_counted_and_one_is_named(tmp_path):
    write(tmp_path, [noise(i) for i in range(9)])
    (tmp_path / "005.png").write_bytes(b"")
    assert "1 of 9 images looked at cannot be read; the first, 005.png: empty" in seen(tmp_path)


@pytest.mark.parametrize("value_range", ["0:4095", "file"])
def test_twelve_bits_in_sixteen_are_told_with_the_range_that_mends_them(tmp_path, value_range):
    write(tmp_path, [noise(i, high=4096, kind=np.uint16) for i in range(4)])
    says = seen(tmp_path)
    assert "values up to 409" in says
    assert "of 65535" in says
    assert "--config.data.value_range=0:4095" in says
    assert "4 of 4 images looked at are nearly black" in says
    assert seen(tmp_path, value_range=value_range) == ""


def test_drawings_on_nothing_are_told_with_the_ground_that_shows_them(tmp_path):
    drawings = np.full((4, 48, 48, 4), 255, np.uint8)
    drawings[..., 3] = [noise(i) for i in range(4)]
    write(tmp_path, drawings)
    says = seen(tmp_path)
    assert "4 of 4 images looked at are of one colour, such as 000.png" in says
    assert "--config.data.ground=0" in says
    assert seen(tmp_path, ground=0) == ""


def test_copies_are_told(tmp_path):
    write(tmp_path, [noise(i // 2) for i in range(4)] + [noise(9)])
    assert "4 of 5 images looked at are the same as another, such as 000.png" in seen(tmp_path)


def test_a_few_odd_ones_are_not_worth_a_word(tmp_path):
    write(tmp_path, [noise(i) // (20 if i == 3 else 1) for i in range(20)])
    assert seen(tmp_path) == ""


def test_strips_are_told_with_the_canvas_that_keeps_their_pixels(tmp_path):
    write(tmp_path, [noise(i, 60, 600) for i in range(4)])
    says = seen(tmp_path)
    assert "4 of 4 images looked at are narrower than a view of 32 px" in says
    assert "--config.data.canvas=320" in says
    dataset = Dataset("folder", 2, 320, "all", path=str(tmp_path))
    assert look(dataset, dataset.open_train(), view_size=VIEW) == []
