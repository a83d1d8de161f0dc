"""Faults of images: others stand in, the same after a restart; too many end the run in words."""

import pytest

from simclr_jax.cli import app
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.quarantine import read_quarantine
from simclr_jax.data.subsets import LabelSubset
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.metrics import read_metrics
from tests.faults.plan import KilledError, kill
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
