"""Hostile and broken files in a data set: named, never decoded into memory, and never fatal."""

import io
import struct
import tarfile
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_jax.cli import app
from simclr_jax.data.load import train_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.sources import open_source
from simclr_jax.train.checkpoint import Checkpoints
from tests.faults.small_run import train

pytestmark = pytest.mark.integration
FOLDER = {"name": "folder", "split": "all", "test_split": None, "fraction": 1.0}


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_claims(width, height):
    """A PNG of one pixel, whose header says something else."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def bombs(side=60_000):
    """Files of a few hundred bytes whose headers claim gigabytes, in each format that is read."""
    small = Image.new("RGB", (4, 4))
    jpeg, gif, bmp, tiff = (bytearray(encoded(small, k)) for k in ("JPEG", "GIF", "BMP", "TIFF"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    gif[6:10] = struct.pack("<HH", side, side)
    bmp[18:26] = struct.pack("<ii", side, side)
    (table,) = struct.unpack("<I", tiff[4:8])
    for entry in range(table + 2, table + 26, 12):
        tag = struct.unpack("<H", tiff[entry : entry + 2])[0]
        if tag in (256, 257):  # width and height
            tiff[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, side)
    webp = bytearray(encoded(small, "WEBP", lossless=True))
    bits = webp.index(b"VP8L") + 9  # two times 14 bits: the largest side less one
    webp[bits : bits + 4] = struct.pack("<I", 16382 | 16382 << 14)
    made = {"png": png_that_claims(side, side), "jpg": jpeg, "gif": gif, "bmp": bmp, "tiff": tiff}
    return {
        f"bomb.{kind}": (bytes(d), "exceeds limit") for kind, d in (made | {"webp": webp}).items()
    }


RGB = Image.fromarray(noise(28, 28, 3))
JPEG = encoded(RGB, "JPEG")
# Name of the file: what it holds, and a part of the reason why it is unreadable.
BROKEN = {
    "zero_bytes.png": (b"", "empty (0 bytes)"),
    "truncated.jpg": (JPEG[:-80], "broken JPEG data"),
    "truncated.webp": (encoded(RGB, "WEBP")[:-40], "broken header"),
    "half_a_header.jpg": (JPEG[:20], "no image that Pillow reads"),
    "not_found.jpg": (b"<html>404 <script>alert(1)</script></html>", "no image that Pillow reads"),
    "header_that_lies.png": (png_that_claims(28, 28), "broken PNG data"),
    **bombs(),
    "no_pixels.png": (png_that_claims(0, 9), "no image that Pillow reads"),
    "floats.tiff": (encoded(Image.fromarray(noise(9, 9, dtype=np.float32)), "TIFF"), "value_range"),
}
ODD = {
    "cmyk.jpg": encoded(RGB.convert("CMYK"), "JPEG"),
    "sixteen_bits.png": encoded(Image.fromarray(noise(28, 28, dtype=np.uint16) * 257), "PNG"),
    "palette.gif": encoded(RGB, "GIF"),
    "one_pixel.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
    "strip.png": encoded(Image.new("L", (20_000, 1)), "PNG"),
    "name with\nnewline <script>.png": encoded(RGB, "PNG"),
    "zz": b"no image, by its name",
}


@pytest.fixture
def folder(tmp_path):
    """A folder of 160 images, of which 14 are broken."""
    for name, data in (ODD | {name: data for name, (data, _) in BROKEN.items()}).items():
        (tmp_path / name).write_bytes(data)
    for i in range(160 + 1 - len(ODD) - len(BROKEN)):
        pixels = np.random.default_rng(i).integers(0, 256, (28, 28), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"good{i:03}.png")
    return open_source("folder", split="all", path=str(tmp_path))


def test_broken_files_are_named_one_by_one_and_odd_ones_are_read(folder, tell):
    def epoch(first_step):
        noted = Quarantine()
        settings = {"batch_size": 16, "canvas": 28, "seed": 0, "first_step": first_step}
        batches = [*train_batches(folder, **settings, num_steps=10, quarantine=noted)]
        return batches, {entry.name: entry.reason for entry in noted.entries.values()}

    batches, reasons = epoch(0)
    assert {*reasons} == {*BROKEN}
    for name, (_, part) in BROKEN.items():
        assert part in reasons[name]
        tell(f"in a folder: {name}", "named with its reason; another stood in", "nothing")
    seen = {folder.name_of(i) for batch in batches for i in batch["id"].tolist()}
    odd = ODD.keys() - {"zz"}
    assert odd < seen
    assert not BROKEN.keys() & seen
    for name in odd:
        tell(f"in a folder: {name.encode('unicode_escape').decode()}", "read", "nothing")
    for got, want in zip(epoch(6)[0], batches[6:], strict=True):
        np.testing.assert_array_equal(got["id"], want["id"])
        np.testing.assert_array_equal(got["image"], want["image"])


def tar_of(data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(3):
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("source", "name", "data", "message"),
    [
        ("webdataset", "cut.tar", tar_of(JPEG)[:1700], "cut.tar is cut off"),
        ("webdataset", "empty.tar", b"", "empty.tar is no tar"),
        ("parquet", "garbage.parquet", b"PAR1" + noise(999).tobytes() + b"PAR1", "is no parquet"),
        ("parquet", "empty.parquet", b"", "is no parquet"),
        ("csv", "nul_in_a_path.csv", b"path\na\0.jpg\n", "is no path"),
        ("csv", "nuls.csv", bytes(100_000), "has no column called image"),
        ("csv", "latin_1.csv", b"path\ncaf\xe9.jpg\n", "line 2, is not UTF-8"),
        ("jsonl", "cut.jsonl", b'{"path": "a.jpg"}\n{"pa', "line 2, is no JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_a_list_that_is_broken_is_refused_before_anything_is_made(
    tmp_path, capsys, tell, source, name, data, message
):
    (tmp_path / name).write_bytes(data)
    settings = FOLDER | {"name": source, "path": str(tmp_path / name)}
    run = lambda: train(tmp_path / "run", **settings)
    assert app.run(run, ["train"], required=()) == app.USER_MISTAKE
    says = capsys.readouterr().err
    assert name in says
    assert message in says
    assert len(says) < 2000
    assert Checkpoints(tmp_path / "run").steps() == []
    tell(name, "the file named, exit code 2, nothing made", "nothing")
