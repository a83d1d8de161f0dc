"""Images that are handed over: opened by Pillow, they are what their file is."""

import io

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data.decode import UnreadableImageError, decode, opened_pixels
from simclr_jax.data.given import Given


def encoded(mode, kind, **options):
    tiles = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(tiles).convert(mode).save(file, kind, **options)
    return file.getvalue()


def turned_by_a_camera():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("RGB", "JPEG", exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        encoded("RGB", "PNG"),
        encoded("L", "PNG"),
        encoded("P", "GIF"),
        encoded("RGBA", "PNG"),
        encoded("CMYK", "JPEG"),
        turned_by_a_camera(),
    ],
    ids=["rgb", "grey", "palette", "alpha", "cmyk", "turned"],
)
def test_an_opened_image_has_the_pixels_of_its_file(data):
    image = Image.open(io.BytesIO(data))
    want = decode(data, canvas=100).pixels
    np.testing.assert_array_equal(opened_pixels(image), want)
    np.testing.assert_array_equal(Given([image])[0].image, want)
    assert image.size == Image.open(io.BytesIO(data)).size, "the caller's image was changed"


def test_a_truncated_file_is_unreadable():
    image = Image.open(io.BytesIO(encoded("RGB", "PNG")[:-30]))
    with pytest.raises(UnreadableImageError, match="broken data"):
        opened_pixels(image)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"image 0 \(.*none.jpg\): cannot be read: No"):
        Given([tmp_path / "none.jpg"])[0]
