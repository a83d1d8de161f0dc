"""Decoding: every kind of file comes out upright as RGB, or is refused with a reason."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from simclr_jax.core.errors import UserError
from simclr_jax.data.decode import (
    Rendering,
    UnreadableImageError,
    decode,
    fitted_size,
    image_size,
)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def gradient(height: int, width: int) -> np.ndarray:
    """Red grows to the right and green downwards, so that every turn of it is different."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // width, 255 * y // height, 0 * x], -1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_small_images_keep_every_pixel_at_the_top_left(kind):
    pixels = gradient(20, 30)
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encode(Image.fromarray(pixels), kind, **options), canvas=48).pixels
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize(
    ("height", "width", "want"),
    [
        (400, 300, (320, 240)),
        (300, 400, (240, 320)),
        (320, 320, (320, 320)),
        (321, 321, (320, 320)),
        (5, 7, (5, 7)),
        (1, 20000, (1, 320)),
        (20000, 1, (320, 1)),
    ],
)
def test_scales_down_only_and_keeps_the_aspect(height, width, want):
    assert fitted_size(height, width, 320) == want
    image = decode(encode(Image.new("L", (width, height), 200), "PNG"), canvas=320).pixels
    assert image.shape == (*want, 3)
    assert (image == 200).all()


def test_scaling_down_averages_instead_of_picking_pixels():
    checkers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    image = decode(checkers, canvas=32).pixels
    assert np.abs(image.astype(int) - 127.5).max() < 4


def test_cheap_jpeg_decoding_does_not_go_below_the_canvas():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    large = Image.fromarray(noise).resize((1024, 1024), Image.Resampling.BICUBIC)
    data = encode(large, "JPEG", quality=95)
    exact = large.resize((120, 120), Image.Resampling.HAMMING)
    image = decode(data, canvas=120).pixels
    assert image.shape == (120, 120, 3)
    # A detour below 120 pixels would lose the noise: it then differs by about 20 on average.
    assert np.abs(image.astype(int) - np.asarray(exact)).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
        (8, lambda x: np.rot90(x, 1)),
    ],
)
def test_applies_exif_orientation(kind, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = gradient(40, 64)
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encode(Image.fromarray(pixels), kind, exif=exif, **options)
    image, size = decode(data, canvas=64)
    want = turn(pixels)
    assert size == decode(data, canvas=8).size == want.shape[:2]
    np.testing.assert_allclose(image, want, rtol=0, atol=14 if kind == "JPEG" else 0)


def test_nonsense_in_exif_does_not_cost_the_image():
    data = encode(Image.fromarray(gradient(8, 8)), "JPEG", exif=b"Exif\0\0nonsense")
    assert decode(data, canvas=8).pixels.shape == (8, 8, 3)


def test_sixteen_bits_are_scaled_and_not_clipped():
    values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    image = decode(encode(Image.fromarray(values), "PNG"), canvas=5).pixels
    np.testing.assert_array_equal(image[0, :, 0], np.round(values[0] / 257))


@pytest.mark.parametrize(
    ("mode", "kind", "want"),
    [
        ("1", "PNG", (255, 255, 255)),
        ("L", "JPEG", (225, 225, 225)),  # luma of yellow: 0.299 * 250 + 0.587 * 250 + 0.114 * 30
        ("LA", "PNG", (225, 225, 225)),
        ("P", "PNG", (250, 250, 30)),
        ("RGBA", "PNG", (250, 250, 30)),
        ("CMYK", "JPEG", (250, 250, 30)),
        ("CMYK", "TIFF", (250, 250, 30)),
        ("YCbCr", "TIFF", (250, 250, 30)),
    ],
)
def test_every_mode_becomes_rgb(mode, kind, want):
    image = Image.new("RGB", (8, 8), (250, 250, 30))
    options = {"palette": Image.Palette.ADAPTIVE, "dither": Image.Dither.NONE}
    got = decode(encode(image.convert(mode, **options), kind), canvas=8).pixels
    np.testing.assert_allclose(got, np.broadcast_to(want, (8, 8, 3)), atol=3)


@pytest.mark.parametrize("ground", [255, 0, 100])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_shows_the_ground(kind, ground):
    alpha = np.array([[0, 255], [51, 128]], np.uint8)
    pixels = np.dstack([np.full((2, 2, 3), (10, 20, 200), np.uint8), alpha])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(pixels), kind, **options)
    got = decode(data, canvas=2, rendering=Rendering(ground=ground)).pixels
    share = alpha[:, :, None] / 255  # Porter and Duff 1984: over
    want = share * (10, 20, 200) + (1 - share) * ground
    np.testing.assert_allclose(got, want, atol=1)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_colour_that_is_declared_transparent_shows_the_ground(mode):
    image = Image.new("RGB", (4, 2), (10, 10, 10)).convert(mode)
    image.paste(Image.new("RGB", (2, 2), (200, 200, 200)).convert(mode), (2, 0))
    colour = image.getpixel((0, 0))
    got = decode(encode(image, "PNG", transparency=colour), canvas=4).pixels
    assert (got[:, :2] == 255).all()
    np.testing.assert_allclose(got[:, 2:], 200, atol=8)


RAMP = np.linspace(0, 4095, 256).round().astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize(
    ("value_range", "low", "high"),
    [("0:4095", 0, 4095), ("file", 0, 4095), ("1000:3000.5", 1000, 3000.5), ("type", 0, 65535)],
)
def test_the_range_of_deep_images_is_that_of_the_setting(value_range, low, high):
    data = encode(Image.fromarray(RAMP), "PNG")
    got = decode(data, canvas=16, rendering=Rendering(value_range=value_range)).pixels
    exact = (RAMP.astype(float) - low) * 255 / (high - low)
    want = np.clip(np.floor(exact + 0.5), 0, 255)
    np.testing.assert_array_equal(got, np.broadcast_to(want[:, :, None], (16, 16, 3)))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_floats_and_long_integers_are_read_once_their_range_is_said(kind):
    values = np.array([[-100, 0, 300]], kind)
    data = encode(Image.fromarray(values), "TIFF")
    with pytest.raises(
        UnreadableImageError, match=r"from -100 to 300; .*config\.data\.value_range"
    ):
        decode(data, canvas=3)
    for value_range in ("file", "-1e2:300"):
        got = decode(data, canvas=3, rendering=Rendering(value_range=value_range)).pixels
        np.testing.assert_array_equal(got[0, :, 0], [0, 64, 255])


def test_values_that_are_no_numbers_are_the_least():
    data = encode(Image.fromarray(np.array([[np.nan, 1, 3, np.inf]], np.float32)), "TIFF")
    got = decode(data, canvas=4, rendering=Rendering(value_range="file")).pixels
    np.testing.assert_array_equal(got[0, :, 0], [0, 0, 255, 255])
    nothing = encode(Image.fromarray(np.array([[np.nan, np.nan]], np.float32)), "TIFF")
    with pytest.raises(UnreadableImageError, match="none of its values is a number"):
        decode(nothing, canvas=4, rendering=Rendering(value_range="file"))


def test_a_flat_file_stretched_by_itself_is_black():
    data = encode(Image.fromarray(np.full((2, 2), 700, np.uint16)), "PNG")
    assert not decode(data, canvas=2, rendering=Rendering(value_range="file")).pixels.any()


@pytest.mark.parametrize("value_range", ["", "12 bits", "5:5", "9:1", ":", "0:inf", "1:2:3"])
def test_a_range_that_is_none_is_refused(value_range):
    with pytest.raises(ValueError, match=r"must be 'type', 'file' or LOW:HIGH"):
        Rendering(value_range=value_range)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data, canvas=4).pixels == (255, 0, 0)).all()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    data = bytearray(encode(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


JPEG = encode(Image.fromarray(gradient(64, 64)), "JPEG", quality=95)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html><body>404</body></html>", "starts with b'<html><body>'"),
        (JPEG[:200], "broken"),
        (JPEG[:-100], "truncated"),
        (encode(Image.fromarray(gradient(64, 64)), "PNG")[:100], "broken PNG data"),
        (png_header(100_000, 100_000), "exceeds limit of 178956970"),
        (png_header(0, 5), "pixels|no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image that Pillow reads"),
        (
            encode(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"),
            "float32.*with 1 NaN",
        ),
    ],
)
def test_refuses_broken_files_with_a_reason(data, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode(data, canvas=32)


def test_every_truncation_of_a_jpeg_is_noticed():
    for length in range(0, len(JPEG) - 2, 37):
        with pytest.raises(UnreadableImageError):
            decode(JPEG[:length], canvas=32)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3)])
def test_arrays_are_taken_as_they_are(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = decode(pixels, canvas=8).pixels
    rgb = np.broadcast_to(pixels.reshape(5, 6, -1), (5, 6, 3))
    np.testing.assert_array_equal(image, rgb)


@pytest.mark.parametrize("shape", [(64, 32), (64, 32, 1), (64, 32, 3)])
def test_large_arrays_are_scaled_down(shape):
    image = decode(np.full(shape, 9, np.uint8), canvas=16).pixels
    assert image.shape == (16, 8, 3)
    assert (image == 9).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.array([[0.25, np.nan]], np.float32),
            r"float32 of shape \[1, 2\] from 0.25 to 0.25, with 1 NaN",
        ),
        (np.array([[-1, 1]], np.float64), "float64 of shape .* from -1 to 1"),
        (np.array([[0, 300]], np.int64), "int64 .* from 0 to 300"),
        (np.zeros((2, 2, 4), np.uint8), r"\[h, w, 3\], got \[2, 2, 4\]"),
        (np.zeros(4, np.uint8), r"got \[4\]"),
    ],
)
def test_names_what_is_wrong_with_an_array(array, message):
    with pytest.raises(UserError, match=message):
        decode(array, canvas=8)


def test_array_without_pixels_is_unreadable():
    with pytest.raises(UnreadableImageError, match="no pixels"):
        decode(np.zeros((0, 4), np.uint8), canvas=8)


def test_image_size_needs_the_header_only():
    assert image_size(JPEG[:-100]) == (64, 64)
    assert image_size(np.zeros((3, 5), np.uint8)) == (3, 5)
