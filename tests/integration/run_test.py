"""Whole runs: stop and go on, SIGTERM, numbers that are not finite, mistakes of the user."""

import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax import run as runs
from simclr_jax.build import announce
from simclr_jax.build.experiment import build_experiment
from simclr_jax.cli import app
from simclr_jax.core.errors import UserError
from simclr_jax.data import sources
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.health import NonFiniteError
from simclr_jax.train.hooks import Terminated
from simclr_jax.train.loop import fit
from simclr_jax.train.metrics import read_metrics
from tests.tiny import runs_on, tiny_is_known, tiny_settings

pytestmark = pytest.mark.integration


class KilledError(Exception):
    """Stands for a process that dies between two steps."""


def train(config, workdir, *, kill_at=None, terminate_at=None, num_devices=1):
    def harm(step, state, metrics):
        if step == kill_at:
            raise KilledError
        if step == terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with runs_on(num_devices), runs.open_run(config, str(workdir)) as run:
        hooks = [harm, *run.hooks]
        state = fit(run.state, run.step, run.batches, num_steps=run.num_steps, hooks=hooks)
        return jax.device_get(state)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run without a stop: its workdir, which is only read, and its last state."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    with tiny_is_known():
        return workdir, train(tiny_settings(), workdir)


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def assert_bit_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_run_that_was_killed_ends_bit_equal_to_one_that_was_not(tiny_config, straight, tmp_path):
    with pytest.raises(KilledError):
        train(tiny_config, tmp_path, kill_at=33)  # 13 steps behind a checkpoint
    resumed = train(tiny_config, tmp_path)
    assert int(resumed.step) == 63
    assert_bit_equal(resumed, straight[1])
    rows = [read_metrics(str(workdir)) for workdir in (straight[0], tmp_path)]
    key = lambda row: (row["step"], row["loss"], row.get("knn_top1"))
    by_step = {row["step"]: key(row) for row in rows[1]}
    assert len(by_step) == len(rows[1]), "a step is logged twice"
    assert all(by_step[row["step"]] == key(row) for row in rows[0])


def test_a_finished_run_does_nothing_more(tiny_config, straight, tmp_path):
    workdir, first = straight
    again = train(tiny_config, shutil.copytree(workdir, tmp_path / "run"))
    assert_bit_equal(again, first)


def test_a_bank_of_the_images_goes_on_where_it_was(tiny_config, tmp_path):
    """Half of the images are in no batch before the run is stopped: rows are found by image."""
    config = tiny_config | {
        "method": {"name": "instdisc", "temperature": 0.5},
        "augment": {"name": "single", "size": 12, "blur": False},
        "evals": {},
    }
    straight = train(config, tmp_path / "straight")
    with pytest.raises(Terminated, match="step 33"):
        train(config, tmp_path / "stopped", terminate_at=33)
    resumed = train(config, tmp_path / "stopped")
    assert_bit_equal(resumed, straight)
    assert len(resumed.method_state["bank"]) % config["data"]["batch_size"] == 0


def test_sigterm_saves_the_step_it_came_in_and_the_run_goes_on_later(
    tiny_config, straight, tmp_path
):
    config = tiny_config | {"evals": {}}
    with pytest.raises(Terminated, match="step 17"):
        train(config, tmp_path, terminate_at=17)
    assert saved_steps(tmp_path) == [17]
    assert_bit_equal(train(config, tmp_path), straight[1])


def test_eight_devices_see_the_batches_and_take_the_steps_of_one(tiny_config, tmp_path):
    """On views with colours: without, Adam makes larger steps of what is rounding alone."""
    augment = {"name": "simclr_cifar", "size": 12}
    config = tiny_config | {"augment": augment, "evals": {}}
    eight = train(config, tmp_path / "eight", num_devices=8)
    train(config, tmp_path / "one")
    rows = [read_metrics(str(tmp_path / name)) for name in ("eight", "one")]
    for row, other in zip(*rows, strict=True):
        np.testing.assert_allclose(row["loss"], other["loss"], rtol=1e-3)
    assert int(eight.step) == 63


def test_a_diverging_run_stops_and_leaves_the_last_good_checkpoint(tiny_config, tmp_path):
    tiny_config["run"]["checkpoint_every"] = 1
    tiny_config["optim"] = {"name": "sgd"}
    tiny_config["schedule"] = {"base_lr": 1e25, "scaling": "none", "warmup_epochs": 0.0}
    with pytest.raises(
        NonFiniteError, match=r"not finite at step \d+ .*lower schedule.base_lr"
    ) as e:
        train(tiny_config, tmp_path)
    failed = int(re.findall(r"at step (\d+)", str(e.value))[0])
    assert saved_steps(tmp_path)[-1] == failed - 1
    abstract = build_experiment(tiny_config).abstract_state
    checkpoints = Checkpoints(tmp_path)
    params = checkpoints.restore_variables(checkpoints.find(), {"params": abstract.params})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("method", "temperature", 0.0, r"config.method.temperature=0.0 must be above 0"),
        ("method", "temprature", 0.1, r"config.method.temprature .*Did you mean 'temperature'\?"),
        ("run", "epochs", 0, r"config.run.epochs=0 must be at least 1"),
        ("run", "epochs", "many", r"config.run.epochs='many' is of type str; it must be int"),
        ("data", "batch_size", 20, r"config.data: batch_size=20 .* 8 devices.* use 16 or 24"),
        ("data", "batch_size", 2000, r"batch_size=2000 is more than the 1000 images"),
        ("data", "name", "digit", r"digits"),
        ("augment", "size", 0, r"config.augment: size=0"),
        ("encoder", "name", "resnt", r"config.encoder.name='resnt'.*Did you mean 'resnet'\?"),
        ("optim", "name", "adam", r"config.optim.name='adam'.*Did you mean 'adamw'\?"),
        ("evals", "kn", {}, r"config.evals.kn does not exist.*Did you mean 'knn'\?"),
        ("heads", "projector", {"layers": 2}, r"config.heads.projector.layers does not exist"),
        (
            "run",
            "accumulate_grad_batches",
            4,
            "config.run.accumulate_grad_batches .*method.grad_cache_chunks=8 puts",
        ),
        (
            "method",
            "grad_cache_chunks",
            3,
            r"chunks=3 does not divide the 2 images of a device.* \[1, 2\]",
        ),
        (
            "heads",
            "classifier",
            {"num_classes": 10},
            "simclr needs heads with a projector, and no others; config.heads has projector, class",
        ),
        ("evals", "knn", {"every_epochs": 1.0, "k": 5000}, r"k=5000; it must be from 1 to 1000"),
    ],
)
def test_a_mistake_in_the_config_is_named_and_leaves_nothing(
    tiny_config, tmp_path, section, key, value, message
):
    tiny_config[section][key] = value
    with pytest.raises(UserError, match=message):
        train(tiny_config, tmp_path / "run", num_devices=8)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "BatchNorm normalises each part with its own statistics"),
        (
            {
                "method": {"name": "supervised", "train_from": "classifier"},
                "heads": {"classifier": {"num_classes": None}},
            },
            "The gradient is that of the whole batch",
        ),
    ],
)
def test_the_log_says_whether_the_gradient_cache_is_exact(
    tiny_config, tmp_path, monkeypatch, changes, says
):
    said = []
    monkeypatch.setattr(announce.log, "info", lambda text, *values: said.append(text % values))
    config = tiny_config | changes
    config["method"]["grad_cache_chunks"] = 2
    with runs.open_run(config, str(tmp_path)):
        pass
    (cache,) = [line for line in said if line.startswith("Gradient cache")]
    assert "2 parts of 8 images, the loss all 16." in cache
    assert says in cache


def test_an_image_that_the_stem_cannot_take_is_named(tiny_config, tmp_path):
    tiny_config["encoder"] = {"name": "resnet", "depth": 18}
    with pytest.raises(UserError, match=r"config.augment.size and config.encoder: .*12x12"):
        train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["supcon", "hybrid"])
def test_images_whose_labels_are_all_unknown_are_refused_where_labels_teach(
    tiny_config, tmp_path, monkeypatch, name
):
    unlabelled = np.zeros((5000, 28, 28), np.uint8), np.full(5000, -1)
    monkeypatch.setattr(sources, "_mnist_5k", lambda: unlabelled)
    del tiny_config["data"]["fraction"]
    tiny_config.update(method={"name": name}, evals={})
    with pytest.raises(UserError, match=r"method.name='.*none of the 4000 images of digits/train"):
        train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_run_is_refused(tiny_config, straight, tmp_path):
    workdir = shutil.copytree(straight[0], tmp_path / "run")
    tiny_config["method"]["temperature"] = 0.2
    with pytest.raises(UserError, match=r"method.temperature: 0.5 there, 0.2 here"):
        train(tiny_config, workdir)


def test_other_images_than_those_of_the_checkpoint_are_refused(straight):
    with pytest.raises(UserError, match="another list of images"):
        Checkpoints(straight[0]).require_listing(63, "other", "images")


@pytest.fixture
def folder_config(tiny_config, tmp_path):
    """The tiny run on 32 pictures in a folder."""
    rng = np.random.default_rng(0)
    for i in range(32):
        path = tmp_path / "images" / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    data = {"name": "folder", "split": "all", "path": str(tmp_path / "images")}
    data |= {"batch_size": 16, "canvas": 20}
    schedule = {"base_lr": 0.01, "scaling": "none", "warmup_epochs": 0.0}
    return {**tiny_config, "data": data, "schedule": schedule, "evals": {}}


def test_a_finished_run_goes_on_when_it_is_given_more_epochs(folder_config, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(workdirs.log, "info", lambda text, *values: said.append(text % values))
    workdir = tmp_path / "run"
    first = train(folder_config, workdir)
    folder_config["run"] |= {"epochs": 4, "log_every": 1}
    longer = train(folder_config, workdir)
    assert (int(first.step), int(longer.step)) == (3, 9)
    assert said == [
        "The run is made 3 epochs longer. From step 3 on, the learning rate is that of a run that "
        "has had 4 epochs from its start."
    ]
    config = json.loads((workdir / "config.json").read_text())
    assert (config["run"]["epochs"], config["run"]["extended"]) == (4, [[3, 1]])
    # Half a cosine from 0.01 to 0 over 9 steps, without a warm-up.
    rates = [row["lr"] for row in read_metrics(str(workdir)) if row["step"] > 3]
    want = [0.005 * (1 + np.cos(np.pi * step / 9)) for step in range(3, 9)]
    np.testing.assert_allclose(rates, want, rtol=1e-5)
    folder_config["run"]["epochs"] = 1
    with pytest.raises(UserError, match=r"run.epochs: 4 there, 1 here"):
        train(folder_config, workdir)


def test_the_same_images_at_another_path_go_on_and_others_leave_the_run_as_it_was(
    folder_config, tmp_path
):
    train(folder_config, tmp_path / "run")
    (tmp_path / "images").rename(tmp_path / "moved")
    folder_config["data"]["path"] = str(tmp_path / "moved")
    assert int(train(folder_config, tmp_path / "run").step) == 3
    stored = lambda: json.loads((tmp_path / "run/config.json").read_text())["data"]["path"]
    assert stored() == str(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "again")
    (tmp_path / "again/31.png").unlink()
    folder_config["data"]["path"] = str(tmp_path / "again")
    with pytest.raises(UserError, match=r"1 file is gone: 31\.png"):
        train(folder_config, tmp_path / "run")
    assert stored() == str(tmp_path / "moved")


def test_a_relative_path_is_stored_as_what_it_means_here(folder_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_config["data"]["path"] = "images"
    assert build_experiment(folder_config).config["data"]["path"] == str(tmp_path / "images")


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_test_images_that_are_trained_on_are_refused(tiny_config, tmp_path, fraction):
    tiny_config["data"] |= {"split": "test", "fraction": fraction}
    with pytest.raises(UserError, match=r"of the 1000 test images \(digits/test\) are training"):
        train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_exit_code_tells_a_mistake_from_a_failure(capsys):
    def mistake():
        raise UserError("config.x is wrong")

    def failure():
        raise NonFiniteError("step 3")

    def stopped():
        raise Terminated(5)

    outcomes = [app.run(fn, ["verb"], required=()) for fn in (mistake, failure, stopped)]
    assert outcomes == [2, 1, 143]
    assert "error: config.x is wrong" in capsys.readouterr().err


def test_metrics_hold_what_a_reader_needs(straight):
    workdir, _ = straight
    rows = read_metrics(str(workdir))
    wanted = {"step", "epoch", "loss", "loss_chance", "contrastive_accuracy", "lr", "seconds"}
    assert all(wanted <= row.keys() for row in rows)
    assert rows[0]["lr"] == 0.0
    np.testing.assert_allclose(rows[0]["loss_chance"], np.log(31), rtol=1e-6)
    assert all(row["pairs_per_second"] > 0 for row in rows[1:])
    assert all(0 < row["wait_share"] < 1 for row in rows[1:])
    judged = [row["step"] for row in rows if "knn_top1" in row]
    assert judged == [32, 63]
    assert json.loads((workdir / "config.json").read_text())["method"]["temperature"] == 0.5
