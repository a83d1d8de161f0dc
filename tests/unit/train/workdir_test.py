"""One directory is one run."""

import json

import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.train.workdir import claim, load_config

CONFIG = {"run": {"epochs": 2, "log_every": 5}, "data": {"sizes": (1, 2), "path": None}}


def test_config_is_written_and_read_back(tmp_path):
    claim(str(tmp_path / "a/b"), CONFIG)
    assert load_config(str(tmp_path / "a/b"))["data"] == {"sizes": [1, 2], "path": None}


def test_the_same_run_may_come_back_and_log_more_often(tmp_path):
    claim(str(tmp_path), CONFIG)
    claim(str(tmp_path), {**CONFIG, "run": {"epochs": 2, "log_every": 1}}, step=5)
    assert load_config(str(tmp_path))["run"]["log_every"] == 1


def test_another_run_is_refused_with_a_readable_difference(tmp_path):
    claim(str(tmp_path), CONFIG)
    with pytest.raises(UserError) as error:
        claim(str(tmp_path), {"run": {"epochs": 1, "log_every": 5}, "data": {"path": "x"}}, step=5)
    assert "run.epochs: 2 there, 1 here" in str(error.value)
    assert "data.path" not in str(error.value), "where the same images lie does not matter"
    assert "data.sizes: [1, 2] there, '(absent)' here" in str(error.value)
    assert "log_every" not in str(error.value)
    assert json.loads((tmp_path / "config.json").read_text())["run"]["epochs"] == 2


def test_a_run_without_a_checkpoint_is_none_and_takes_another_config(tmp_path):
    claim(str(tmp_path), CONFIG)
    (tmp_path / "quarantine.jsonl").write_text('{"id": 1, "name": "a", "reason": "b"}\n')
    (tmp_path / "quarantine.1.jsonl").touch()
    (tmp_path / "metrics.jsonl").touch()
    claim(str(tmp_path), {"run": {"epochs": 3}})
    assert load_config(str(tmp_path)) == {"run": {"epochs": 3}}
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "metrics.jsonl"}
    (tmp_path / "config.json").write_text("cut")
    claim(str(tmp_path), {"run": {"epochs": 4}})
    assert load_config(str(tmp_path)) == {"run": {"epochs": 4}}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "it is empty"),
        (b'{"run": {"epo', "Unterminated string"),
        (b"\0" * 100, "Expecting value"),
        (b'{"\xff": 1}', "decode"),
        (b"[" * 1_000_000, "recursion"),
        (b'{"run": 1}', "it holds no sections"),
        (b"[1]", "it holds no sections"),
        (b'{"run": {}}', "it has no section 'encoder'"),
        (b'"' + b"x" * (17 << 20) + b'"', "more than 16 MiB"),
    ],
    ids=["empty", "cut", "zeros", "binary", "deep", "flat", "list", "no section", "large"],
)
def test_a_config_that_no_run_wrote_is_named_with_a_cure(tmp_path, data, what):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(UserError, match=rf"config.json is damaged: .*{what}.*move it away"):
        load_config(str(tmp_path), ("encoder",))


def test_a_workdir_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write to --workdir=.*file/run"):
        claim(str(tmp_path / "file/run"), CONFIG)


def test_a_directory_without_a_run_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"holds no run.*simclr_jax train"):
        load_config(str(tmp_path))


def test_a_process_that_follows_must_see_what_the_first_one_wrote(tmp_path):
    with pytest.raises(UserError, match="not the directory that process 0 writes to"):
        claim(str(tmp_path / "run"), CONFIG, is_primary=False)
    assert not (tmp_path / "run").exists()
    claim(str(tmp_path / "run"), CONFIG)
    written = (tmp_path / "run/config.json").stat().st_mtime_ns
    claim(str(tmp_path / "run"), CONFIG, is_primary=False)
    assert (tmp_path / "run/config.json").stat().st_mtime_ns == written


def test_how_a_run_is_spread_over_devices_may_change(tmp_path):
    claim(str(tmp_path), {**CONFIG, "encoder": {"depth": 18}})
    changed = {"encoder": {"depth": 18, "remat": "blocks"}, "parallel": {"preset": "fsdp"}}
    claim(str(tmp_path), CONFIG | changed, step=5)
    assert load_config(str(tmp_path))["parallel"] == {"preset": "fsdp"}
    deeper = {"encoder": {"depth": 50, "remat": "blocks"}}
    with pytest.raises(UserError, match=r"encoder.depth: 18 there, 50 here"):
        claim(str(tmp_path), CONFIG | changed | deeper, step=5)


def test_a_run_may_be_made_longer_and_its_config_says_when(tmp_path):
    longer = lambda epochs: {**CONFIG, "run": {**CONFIG["run"], "epochs": epochs}}
    claim(str(tmp_path), CONFIG)
    claim(str(tmp_path), longer(3))  # before the first checkpoint: as if it had been asked at once
    assert load_config(str(tmp_path))["run"] == {"epochs": 3, "log_every": 5}
    claim(str(tmp_path), longer(5), step=30)
    claim(str(tmp_path), longer(5), step=40)
    claim(str(tmp_path), longer(6), step=50)
    claim(str(tmp_path), longer(6), step=50, is_primary=False)
    assert load_config(str(tmp_path))["run"]["epochs"] == 6
    assert load_config(str(tmp_path))["run"]["extended"] == [[30, 3], [50, 5]]
    with pytest.raises(UserError, match=r"run.epochs: 6 there, 5 here\n.*may be raised"):
        claim(str(tmp_path), longer(5), step=50)


def test_a_run_from_before_class_names_were_stored_goes_on_and_stores_them(tmp_path):
    named = lambda names: {"data": {"name": "digits", "class_names": names}}
    claim(str(tmp_path), named(None))
    claim(str(tmp_path), named(["0", "1"]), step=5)
    assert load_config(str(tmp_path))["data"]["class_names"] == ["0", "1"]
    with pytest.raises(UserError, match="class_names"):
        claim(str(tmp_path), named(["0", "2"]), step=5)
