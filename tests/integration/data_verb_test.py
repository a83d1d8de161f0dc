"""`data audit` and `data convert` as commands: what they print, write, refuse, and survive."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from simclr_jax.data.dataset import Dataset
from simclr_jax.data.shards import Split, convert
from tests.program import run

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "simclr_jax", "data"]


def data(*arguments):
    return run("data", *arguments)


@pytest.fixture
def photos(tmp_path):
    """Training and test images of two classes; one is in both, and one has a hostile name."""
    for split, seeds in (("train", range(6)), ("test", (5, 6))):
        for i in seeds:
            place = tmp_path / "photos" / split / ("cat" if i % 2 else "dog")
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png")
    (tmp_path / "photos/train/dog/<b>\x1b[2J.png").write_bytes(b"")
    return tmp_path / "photos"


def test_audit_prints_tables_and_writes_json_a_page_and_a_sheet(photos, tmp_path):
    out = tmp_path / "audit"
    done = data("audit", photos, f"--output={out}")
    assert done.returncode == 0, done.stderr
    assert "PNG, 3 channels, 8 bits" in done.stdout
    assert "1 of the 7 images of" in done.stdout, "training comes after test"
    assert "\x1b" not in done.stdout
    said = json.loads((out / "audit.json").read_text())
    assert [part["images"] for part in said["parts"]] == [2, 7]
    assert [one["name"] for one in said["leaks"][0]] == ["test/cat/5.png", "train/cat/5.png"]
    page = (out / "audit.html").read_text()
    assert "<script" not in page
    assert "<b>\x1b" not in page
    assert "&lt;b&gt;" in page
    assert page.count("test/cat/5.png (test)") >= 2
    with Image.open(out / "contact_sheet.jpg") as sheet:
        assert sheet.size == (12 * 96, 96)

    again = data("audit", photos / "test", photos / "train", "--json")
    assert json.loads(again.stdout)["leaks"][0][1]["part"] == 1


def test_mistakes_end_in_words(photos, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds/a.wav").write_text("x")
    for arguments, message in (
        (("adit", photos), "Did you mean 'audit'?"),
        (("audit", photos, f"--output={tmp_path}/file/x"), "cannot be made"),
        (("audit", photos, "--config.data.value_range=dark"), "value_range='dark' must be"),
        (("convert", tmp_path / "sounds", f"--output={tmp_path}/s"), "`data` is for images"),
        (("convert", photos, "--output=gs://bucket/x"), "shards are written to a disk"),
        (("audit", photos, "--config.data.batch_size=4"), "says nothing to `data`"),
        (
            ("convert", photos, f"--output={tmp_path}/s", "--canvas=8", "--config.data.channels=4"),
            "without it they are stored as they are",
        ),
    ):
        refused = data(*arguments)
        assert refused.returncode == 2, refused.stderr
        assert message in refused.stderr


def test_what_a_message_about_reading_advises_is_taken(tmp_path):
    """A table whose image column has a name of its own, and a file that storage does not give."""
    (tmp_path / "gone.png").symlink_to("/proc/self/mem")  # reading it is an input/output error
    Image.new("RGB", (9, 9)).save(tmp_path / "there.png")
    (tmp_path / "t.csv").write_text("photo\nthere.png\ngone.png\n")
    table = ("--data=csv", tmp_path / "t.csv", f"--output={tmp_path / 'shards'}")
    unnamed = data("convert", *table)
    assert unnamed.returncode == 2
    assert "--config.data.image_column=NAME" in unnamed.stderr
    column = "--config.data.image_column=photo"
    start = time.monotonic()
    gone = data("convert", *table, column, "--config.data.outage_seconds=0.1")
    assert gone.returncode == 75, gone.stderr
    assert "--config.data.outage_seconds waits for it" in gone.stderr
    assert time.monotonic() - start < 60, "it would be 600"
    (tmp_path / "gone.png").unlink()
    Image.new("RGB", (9, 9)).save(tmp_path / "gone.png")
    assert data("convert", *table, column).returncode == 0


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_killed_conversion_goes_on_bit_equal(tmp_path):
    dataset = Dataset("digits", 1, 28, "train")
    (tmp_path / "whole").mkdir()
    split = Split("train", dataset, dataset.open("train"))
    convert([split], epath.Path(tmp_path / "whole"), canvas=None, images_per_shard=40)
    out = tmp_path / "killed"
    arguments = ["convert", "--data=digits", "--split=train", "--images_per_shard=40"]
    killed = subprocess.Popen(
        [*COMMAND, *arguments, f"--output={out}"], cwd=ROOT, stderr=subprocess.PIPE
    )
    while len(list(out.glob("*.jsonl"))) < 3:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (out / "dataset_info.json").exists()
    done = data(*arguments, f"--output={out}")
    assert done.returncode == 0, done.stderr
    assert "4,000 images in 100 shards" in done.stdout
    assert "--config.data.name=array_record" in done.stdout
    assert contents(out) == contents(tmp_path / "whole")
