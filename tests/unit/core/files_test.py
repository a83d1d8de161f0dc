"""What a run writes beside its checkpoints, on a stand-in for a bucket."""

import fsspec
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from simclr_jax.core.errors import StorageError, UserError
from simclr_jax.core.files import (
    append_lines,
    atomic_write,
    expand,
    expand_workdir,
    in_a_bucket,
    require_writable,
    write_text,
)
from simclr_jax.data.quarantine import Quarantine, Unreadable
from simclr_jax.data.sources import open_source
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.metrics import MetricsWriter, read_metrics
from simclr_jax.train.workdir import claim, load_config


class Bucket(MemoryFileSystem):
    """Objects that can be written and read as a whole, and not added to."""

    protocol = ("gs", "gcs")
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("gs://", "memory://"))

    def _open(self, path, mode="rb", *arguments, **settings):
        if "a" in mode:
            raise NotImplementedError("Cloud Storage cannot add to an object.")
        return super()._open(path, mode, *arguments, **settings)


@pytest.fixture
def workdir(monkeypatch):
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **settings: Bucket())
    backend.fsspec_backend._get_filesystem.cache_clear()
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    yield "gs://bucket/runs/one"
    backend.fsspec_backend._get_filesystem.cache_clear()


def test_a_bucket_is_told_from_a_directory():
    assert in_a_bucket("gs://bucket/run")
    assert in_a_bucket(epath.Path("gs://bucket/run"))
    assert not in_a_bucket("/gs/run")


def test_lines_are_added_in_a_bucket_as_on_a_disk(workdir, tmp_path):
    for path in (epath.Path(workdir) / "lines", epath.Path(tmp_path) / "lines"):
        append_lines(path, ["one"])
        append_lines(path, ["two", "three"])
        assert path.read_text() == "one\ntwo\nthree\n"


def test_lines_are_added_whole_or_not_at_all(tmp_path, full_disk):
    path = epath.Path(tmp_path) / "lines"
    append_lines(path, ["one"])
    with full_disk(6), pytest.raises(OSError, match="too large"):
        append_lines(path, ["two", "three"])
    assert path.read_text() == "one\n"


def write_half(path, error):
    with atomic_write(path) as unfinished:
        unfinished.write_text("half")
        raise error


def test_a_file_or_a_directory_appears_whole_or_not_at_all(workdir, tmp_path):
    for top in (epath.Path(workdir), epath.Path(tmp_path)):
        for text in ("old", "new"):
            write_text(top / "file", text)
            assert (top / "file").read_text() == text
        with pytest.raises(KeyError):
            write_half(top / "file", KeyError())
        with pytest.raises(StorageError, match=r"Cannot write \S+/file: disk gone\."):
            write_half(top / "file", OSError("disk gone"))
        assert (top / "file").read_text() == "new"
        with atomic_write(top / "directory") as unfinished:
            (unfinished / "inside").mkdir(parents=True)
            (unfinished / "inside" / "file").write_text("whole")
        assert (top / "directory" / "inside" / "file").read_text() == "whole"
        assert {path.name for path in top.iterdir()} == {"file", "directory"}


def test_a_directory_takes_the_place_of_an_empty_one_only(tmp_path):
    (tmp_path / "there").mkdir()
    with atomic_write(tmp_path / "there") as unfinished:
        unfinished.mkdir()
        (unfinished / "file").touch()
    with pytest.raises(StorageError, match="not empty"), atomic_write(tmp_path / "there") as other:
        other.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "file"]


def test_an_output_is_refused_before_the_work_and_leaves_nothing(tmp_path, full_disk):
    require_writable(tmp_path / "out.npz", "--output")
    with pytest.raises(UserError, match=r"--output: \S+ cannot be written: .*does not exist"):
        require_writable(tmp_path / "absent" / "out.npz", "--output")
    with full_disk(100), pytest.raises(UserError, match=r"--output: .*: File too large"):
        require_writable(tmp_path / "out.npz", "--output")
    assert not list(tmp_path.iterdir())


def test_the_home_directory_stands_for_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/runs") == f"{tmp_path}/runs"
    assert expand_workdir("~/runs") == f"{tmp_path}/runs"
    assert expand_workdir("gs://bucket/~x") == "gs://bucket/~x"
    with pytest.raises(ValueError, match=r"there is no such home directory"):
        expand("~nobody-here/x")


@pytest.mark.parametrize("name", ["runs/x[1]", "runs/*", "what?", "a\\b", "gs://bucket/[1]"])
def test_a_workdir_that_could_not_be_read_back_is_refused(name):
    with pytest.raises(ValueError, match=r"takes for a pattern"):
        expand_workdir(name)


def test_a_workdir_below_a_directory_with_such_a_name_is_refused(monkeypatch, tmp_path):
    (tmp_path / "[1]").mkdir()
    monkeypatch.chdir(tmp_path / "[1]")
    with pytest.raises(ValueError, match=r"the path \S+\[1\]/runs has \[ \]"):
        expand_workdir("runs")


def test_a_name_that_is_not_utf8_is_refused_in_words_that_can_be_printed():
    with pytest.raises(ValueError, match="not UTF-8") as error:
        expand_workdir("caf\udce9")
    assert str(error.value).encode()


def test_a_run_keeps_config_metrics_and_quarantine_in_a_bucket(workdir):
    claim(workdir, {"run": {"epochs": 1}})
    claim(workdir, {"run": {"epochs": 1}})
    with pytest.raises(UserError, match=r"run.seed: '\(absent\)' there, 2 here"):
        claim(workdir, {"run": {"epochs": 1, "seed": 2}}, step=3)
    assert load_config(workdir) == {"run": {"epochs": 1}}
    for first in (0, 1):  # started, and resumed after step 1
        writer = MetricsWriter(workdir)
        writer.open(first_step=first)
        for step in (first + 1, first + 2):
            writer.write(step, {"loss": 1.0 / step})
        writer.close()
    assert [row["step"] for row in read_metrics(workdir)] == [1, 2, 3]
    quarantine = Quarantine(epath.Path(workdir) / "quarantine.jsonl")
    quarantine.add(Unreadable(3, "cat.jpg", "empty"))
    assert Quarantine(epath.Path(workdir) / "quarantine.jsonl").count == 1
    assert {path.name for path in epath.Path(workdir).iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "quarantine.jsonl",
    }


def test_checkpoints_go_to_the_bucket_and_not_below_this_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for workdir, directory in (("gs://bucket/run", "gs://bucket/run"), ("run", f"{tmp_path}/run")):
        assert str(Checkpoints(workdir).directory) == f"{directory}/checkpoints"


def test_images_in_a_bucket_are_to_be_mounted():
    with pytest.raises(UserError, match=r"gcsfuse --implicit-dirs b /mnt/b.*path=/mnt/b/tfds"):
        open_source("tfds/imagenet2012", split="train", path="gs://b/tfds")
