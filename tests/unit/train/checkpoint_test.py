"""Checkpoints are what was written, or are named and left alone; saves that fail cost nothing."""

import hashlib
import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import StorageError, UserError
from simclr_jax.core.state import TrainState
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from simclr_jax.train.integrity import SUMS

# After a failure, threads of the checkpoint library report to an event loop that is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state(step, value=0.0):
    return TrainState(
        step=jnp.asarray(step),
        params={"encoder": {"kernel": jnp.arange(4096.0).reshape(64, 64) + value}},
        batch_stats={"encoder": jnp.zeros(3)},
        opt_state=(),
        method_state=(),
    )


def abstract():
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return jax.tree.map(place, state(0))


def write(workdir, *steps, **settings):
    with CheckpointWriter(str(workdir), keep=9, **settings) as writer:
        for step in steps:
            writer.save(step, state(step, step), {"listing": "images"})
    return Checkpoints(workdir)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original")
    write(path, 1, 2)
    return path


@pytest.fixture
def workdir(original, tmp_path):
    subprocess.run(["cp", "-r", f"{original}/checkpoints", tmp_path], check=True)
    return tmp_path


def data_files(directory):
    """The files that hold or describe the arrays, relative to the checkpoint."""
    files = (path for path in directory.rglob("*") if path.is_file())
    names = sorted(str(path.relative_to(directory)) for path in files)
    return [n for n in names if n not in ("_CHECKPOINT_METADATA", "commit_success.txt", SUMS)]


def test_the_sums_are_those_of_sha256sum(workdir):
    directory = workdir / "checkpoints" / "2"
    lines = (directory / SUMS).read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert sorted(sums) == data_files(directory)
    for name, digest in sums.items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose(path):
    path.unlink()


@pytest.mark.parametrize("harm", [flip, cut, lose])
def test_harm_to_any_file_is_found_and_named_and_the_older_checkpoint_is_read(
    workdir, harm, caplog
):
    newest = workdir / "checkpoints" / "2"
    checkpoints = Checkpoints(workdir)
    assert checkpoints.find() == 2
    for name in [*data_files(newest), SUMS]:
        before = (newest / name).read_bytes()
        harm(newest / name)
        caplog.clear()
        assert checkpoints.find() == 1, name
        if name != SUMS:
            assert f"{newest} is damaged: {name}" in caplog.text
        with pytest.raises(UserError, match=r"2 is damaged.*Without --step the newest whole"):
            checkpoints.find(2)
        (newest / name).write_bytes(before)
    assert checkpoints.find() == 2
    np.testing.assert_array_equal(
        checkpoints.restore(2, abstract()).params["encoder"]["kernel"],
        state(2, 2).params["encoder"]["kernel"],
    )


def test_a_folder_without_files_is_no_checkpoint(workdir, caplog):
    (workdir / "checkpoints" / "7").mkdir()
    assert Checkpoints(workdir).find() == 2
    assert "7 is damaged: it holds no files" in caplog.text


def test_what_is_damaged_is_set_aside_and_its_step_can_be_written_again(workdir):
    checkpoints = Checkpoints(workdir)
    for step in ("1", "2", "again"):
        if step == "again":
            write(workdir, 3)
        flip(next((workdir / "checkpoints").glob("[23]/state/manifest.ocdbt")))
        checkpoints.set_aside_after(checkpoints.last())
        assert checkpoints.steps() == [1]
        if step == "1":
            write(workdir, 2)
    names = sorted(path.name for path in (workdir / "damaged").iterdir())
    assert names == ["2", "2.again", "3"]


def test_nothing_is_made_of_checkpoints_of_which_none_is_whole(workdir):
    for step in "12":
        lose(workdir / "checkpoints" / step / "state" / "manifest.ocdbt")
    with pytest.raises(UserError) as error:
        Checkpoints(workdir).last()
    for step in "12":
        assert f"{step} is damaged: state/manifest.ocdbt is missing" in str(error.value)
    assert Checkpoints(workdir).steps() == [1, 2]


def test_a_checkpoint_of_an_older_version_is_read_and_said_to_be_unknown(workdir, caplog):
    newest = workdir / "checkpoints" / "2"
    (newest / SUMS).unlink()
    (newest / "data" / "metadata").write_text(json.dumps({"listing": "images"}))
    assert Checkpoints(workdir).find() == 2
    assert "older than the check" in caplog.text
    (newest / "state" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(StorageError, match=r"checkpoints/2 cannot be restored"):
        Checkpoints(workdir).restore(2, abstract())


def test_a_step_that_is_not_there_is_told_with_those_that_are(workdir):
    with pytest.raises(UserError, match=r"no checkpoint of step 3, but of 1, 2"):
        Checkpoints(workdir).find(3)


def save(writer, step):
    writer.save(step, state(step), {"listing": "images"})
    writer.finish()


@pytest.mark.parametrize("num_bytes", [5000, 80, 0])  # data, metadata or nothing has room
def test_a_save_that_fails_leaves_older_checkpoints_and_the_next_one_succeeds(
    tmp_path, full_disk, num_bytes
):
    with CheckpointWriter(str(tmp_path), keep=2) as writer:
        for step in (1, 2):
            save(writer, step)
        for step in (3, 4):
            says = rf"step {step} .*too large.*step 1, 2\."
            with full_disk(num_bytes), pytest.raises(StorageError, match=says):
                save(writer, step)
            assert writer.latest_step() == 2
            assert Checkpoints(tmp_path).steps() == [1, 2]
        writer.save(4, state(4), {"listing": "images"})
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "4"}
    assert not any(stored.condition.damage for stored in Checkpoints(tmp_path).survey())


@pytest.mark.parametrize(
    ("name", "values", "kept"),
    [
        ("knn_top1", [0.2, 0.7, 0.5, 0.6], [2, 4]),
        ("loss", [3.0, 1.0, 2.0, 4.0], [2, 4]),
        ("knn_top1", [0.2, 0.3, 0.5, 0.6], [4]),
        ("", [0.2, 0.7, 0.5, 0.6], [4]),
    ],
)
def test_the_best_checkpoint_stays_beside_the_newest(tmp_path, name, values, kept):
    for first in (1, 3):  # in two runs: the second one knows what the first one noted
        with CheckpointWriter(str(tmp_path), keep=1, keep_best=name) as writer:
            for step in (first, first + 1):
                metrics = {name: values[step - 1]} if name else {}
                writer.save(step, state(step), {"listing": "images"}, metrics)
    assert Checkpoints(tmp_path).steps() == kept
