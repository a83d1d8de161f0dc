"""Faults of storage: nothing is lost but what is said to be."""

import errno
import shutil
import subprocess

import jax.numpy as jnp
import pytest

from simclr_jax.cli import app
from simclr_jax.core.state import TrainState
from simclr_jax.train import saving
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from tests.faults.plan import KilledError, cut, empty, fail, flip, kill, lose
from tests.faults.small_run import assert_nothing_lost, train

pytestmark = pytest.mark.integration

CALLS = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir")


@pytest.mark.parametrize(
    ("harm", "pattern"),
    [
        (flip, "state/d/*"),
        (cut, "state/manifest.ocdbt"),
        (empty, "data/metadata"),
        (lose, "state/manifest.ocdbt"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_its_steps_are_trained_again(
    straight, tmp_path, caplog, tell, harm, pattern
):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    (path, *_) = sorted((tmp_path / "checkpoints" / "11").glob(pattern))
    harm(path)
    assert_nothing_lost(tmp_path, train(tmp_path), straight[1])
    assert str(path.relative_to(tmp_path / "checkpoints" / "11")) in caplog.text
    assert (tmp_path / "damaged" / "11").is_dir()
    tell(f"{harm.__name__} {pattern}", "named; went on from the one before", "nothing")


def test_a_step_folder_without_files_is_set_aside(straight, tmp_path, caplog, tell):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "11")
    (tmp_path / "checkpoints" / "11").mkdir()
    assert_nothing_lost(tmp_path, train(tmp_path), straight[1])
    assert "it holds no files" in caplog.text
    tell("empty step folder", "named; went on from the one before", "nothing")


def test_no_run_starts_from_checkpoints_of_which_none_is_whole(straight, tmp_path, capsys, tell):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "checkpoints").glob("*/state/manifest.ocdbt"):
        flip(path)
    before = sorted((tmp_path / "checkpoints").iterdir())
    assert app.run(lambda: train(tmp_path), ["train"], required=()) == app.USER_MISTAKE
    assert "None is whole" in capsys.readouterr().err
    assert sorted((tmp_path / "checkpoints").iterdir()) == before
    tell("every checkpoint damaged", "refused with exit code 2, files named", "nothing more")


def test_a_killed_run_goes_on_from_its_last_checkpoint(straight, tmp_path, plan, tell):
    plan.at_step(10, kill)
    with pytest.raises(KilledError):
        train(tmp_path, plan)
    assert_nothing_lost(tmp_path, train(tmp_path), straight[1])
    tell("killed at step 10", "went on from step 8", "nothing; 2 steps done twice")


def small(step):
    values = jnp.arange(64.0).reshape(8, 8) + step
    return TrainState(
        step=jnp.asarray(step),
        params={"encoder": {"kernel": values}},
        batch_stats={"encoder": jnp.zeros(3)},
        opt_state=(),
    )


def save(writer, step):
    writer.save(step, small(step), {"listing": ""})
    writer.finish()


def test_whatever_call_a_save_dies_at_one_checkpoint_is_whole(tmp_path, plan, tell):
    workdir, copies = tmp_path / "run", []

    def copy():
        copies.append(tmp_path / f"copy{len(copies)}")
        # In a process of its own, whose calls are not counted; other threads go on writing.
        subprocess.run(["cp", "-r", workdir, copies[-1]], check=False, capture_output=True)

    with CheckpointWriter(str(workdir), keep=1) as writer:
        save(writer, 1)
        for name in CALLS:
            plan.at_call(name, copy)
        writer.save(2, small(2), {"listing": ""})
    plan.undo()
    found = [Checkpoints(path).find() for path in copies]
    assert len(found) > 30
    assert set(found) == {1, 2}
    assert found == sorted(found), "the newer one is there from its commit on"
    with CheckpointWriter(str(copies[0]), keep=1) as writer:  # what is half written goes
        writer.save(2, small(2), {"listing": ""})
    assert [path.name for path in (copies[0] / "checkpoints").iterdir()] == ["2"]
    tell("killed at each file system call of a save", "one checkpoint whole each time", "nothing")


@pytest.mark.parametrize(("name", "number"), [("mkdir", 1), ("rename", 1)])
def test_a_checkpoint_that_finds_no_room_is_tried_again(
    straight, tmp_path, plan, caplog, tell, name, number
):
    plan.at_step(4, lambda: plan.at_call(name, fail(errno.ENOSPC), number=number))
    assert_nothing_lost(tmp_path, train(tmp_path, plan), straight[1])
    assert "The checkpoint of step 4 could not be written" in caplog.text
    assert "No space left on device" in caplog.text
    tell(f"no room at {name} {number} of a checkpoint", "said; saved at a later step", "nothing")


def test_a_run_that_cannot_save_its_last_step_fails_in_words(
    straight, tmp_path, plan, monkeypatch, capsys, tell
):
    monkeypatch.setattr(saving, "PAUSES_SECONDS", (0, 0))
    plan.at_step(10, lambda: plan.at_call("mkdir", fail(errno.ENOSPC)))
    assert app.run(lambda: train(tmp_path, plan), ["train"], required=()) == app.FAILED
    says = capsys.readouterr().err
    assert "checkpoint of step 11 could not be written" in says
    assert "Older ones are as they were: step 4, 8." in says
    plan.undo()
    assert_nothing_lost(tmp_path, train(tmp_path), straight[1])
    tell("no room for the last checkpoint", "exit code 1, in words; older ones whole", "nothing")
