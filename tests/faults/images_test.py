"""Faults of images: others stand in, the same after a restart; too many end the run in words."""

import errno
import gzip
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image

from simclr_jax.build import announce
from simclr_jax.cli import app
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.order import Order
from simclr_jax.data.quarantine import read_quarantine
from simclr_jax.data.subsets import LabelSubset
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.metrics import read_metrics
from tests.faults.plan import KilledError, kill, send
from tests.faults.small_run import STEPS, assert_nothing_lost, train

pytestmark = pytest.mark.integration


@pytest.fixture
def spoil(monkeypatch):
    """Returns what makes images of the small run unreadable, by their index of 160."""
    read = LabelSubset.__getitem__

    def make(broken):
        def reading(source, index, /):
            if index in broken:
                raise UnreadableImageError("spoilt", f"image {index}")
            return read(source, index)

        monkeypatch.setattr(LabelSubset, "__getitem__", reading)

    return make


def test_unreadable_images_are_named_and_a_restart_sees_the_same_stand_ins(
    tmp_path, plan, spoil, caplog, tell
):
    spoil(range(8))  # 5 % of the run's, at the head of its list
    want = train(tmp_path / "straight")
    plan.at_step(6, kill)
    with pytest.raises(KilledError):
        train(tmp_path / "run", plan)
    assert_nothing_lost(tmp_path / "run", train(tmp_path / "run"), want)
    assert {entry.name for entry in read_quarantine(tmp_path / "run")} == {
        f"image {i}" for i in range(8)
    }
    assert read_metrics(tmp_path / "run")[-1]["unreadable_images"] == 8
    assert "8 of 160 images cannot be read" in caplog.text
    tell("5 % of the images unreadable", "named; others stood in, after a restart too", "nothing")


def test_too_many_unreadable_images_end_a_run_after_a_checkpoint(tmp_path, spoil, capsys, tell):
    spoil(range(30, 50))
    run = lambda **data: app.run(lambda: train(tmp_path, **data), ["train"], required=())
    assert run() == app.USER_MISTAKE
    says = capsys.readouterr().err
    assert "9 of the 160 images" in says
    assert "--config.data.max_unreadable=1" in says
    (step,) = Checkpoints(tmp_path).steps()
    assert step == read_metrics(tmp_path)[-1]["step"] < STEPS
    assert run(max_unreadable=1.0) == app.DONE
    assert len(read_quarantine(tmp_path)) == 20
    tell("12 % of the images unreadable", "checkpoint, exit code 2, in words", "nothing")


@pytest.fixture
def storage(monkeypatch):
    """Returns what does something before each read of an image of step 7, given its index."""
    read = LabelSubset.__getitem__
    # It would read images before the first step.
    monkeypatch.setattr(announce, "look", lambda *args, **kwargs: [])
    late = set(Order(160, 16, 0).ids(7).tolist())

    def make(before):
        def reading(source, index, /):
            if index in late:
                before(index)
            return read(source, index)

        monkeypatch.setattr(LabelSubset, "__getitem__", reading)

    return make


def test_read_errors_that_pass_cost_nothing(straight, tmp_path, storage, tell):
    failed = set()

    def fail_once(index):
        if index not in failed:
            failed.add(index)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    storage(fail_once)
    assert_nothing_lost(tmp_path, train(tmp_path), straight[1])
    assert len(failed) >= 16
    assert read_quarantine(tmp_path) == []
    tell("reads that fail once", "tried again; nobody unreadable", "nothing")


def test_an_outage_of_storage_ends_a_run_after_a_checkpoint(
    straight, tmp_path, storage, capsys, tell
):
    away = [True]

    def fail(index):
        if away:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    storage(fail)
    run = lambda: app.run(lambda: train(tmp_path, outage_seconds=0.2), ["train"], required=())
    assert run() == app.TRY_AGAIN
    assert "could not be read for" in (says := capsys.readouterr().err)
    assert os.strerror(errno.ENOTCONN) in says
    (*_, step) = Checkpoints(tmp_path).steps()
    assert 0 < step == read_metrics(tmp_path)[-1]["step"] <= 7
    assert read_quarantine(tmp_path) == []
    away.clear()
    assert_nothing_lost(tmp_path, train(tmp_path), straight[1])
    tell("storage away for too long", "checkpoint, exit code 75, in words", "nothing")


def test_a_signal_is_answered_while_a_read_hangs(straight, tmp_path, storage, capsys, tell):
    release = threading.Event()

    def hang(index):
        if not release.is_set():
            threading.Timer(1, send(signal.SIGINT)).start()
            release.wait(60)

    storage(hang)
    begin = time.monotonic()
    # One thread, or each would send a signal of its own, and a second Ctrl-C ends the process.
    run = lambda: train(tmp_path, num_threads=1)
    assert app.run(run, ["train"], required=()) == 130
    assert time.monotonic() - begin < 50
    assert "Stopped by SIGINT after a checkpoint at step" in capsys.readouterr().err
    release.set()
    assert_nothing_lost(tmp_path, train(tmp_path), straight[1])
    tell("Ctrl-C while a read hangs", "answered at once: checkpoint, exit code 130", "nothing")


def test_files_that_were_exchanged_are_named_until_they_are_accepted(tmp_path, capsys, tell):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(32):
        pixels = np.random.default_rng(i).integers(0, 256, (28, 28), np.uint8)
        Image.fromarray(pixels).save(images / f"{i:02d}.png")
    data = {"name": "folder", "path": str(images), "split": "all", "test_split": None}

    def run(**more):
        settings = data | {"fraction": 1.0} | more
        return app.run(lambda: train(tmp_path / "run", **settings), ["train"], required=())

    assert run() == app.DONE
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(images / "05.png")
    assert run() == app.USER_MISTAKE
    says = capsys.readouterr().err
    assert "1 file is of other contents: 05.png (" in says
    digest = says.rpartition("accept_images=")[2][:8]
    assert run(accept_images=digest) == app.DONE
    assert run(accept_images=digest) == app.DONE
    kept = gzip.decompress((tmp_path / "run" / "images.jsonl.gz").read_bytes()).splitlines()[0]
    assert [row[0] for row in json.loads(kept)["accepted"]] == [3]
    tell("files exchanged under the same names", "named, refused with exit code 2", "nothing")
