"""Two processes with four devices each do what one with eight does; what goes wrong is told."""

import json
import re
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.metrics import read_metrics
from tests.program import ROOT, Program
from tests.tiny import write_recipe

pytestmark = pytest.mark.integration


@pytest.fixture
def recipe(tiny_config, tmp_path):
    """A recipe file of 20 steps, without evaluation, which takes longer than they do."""
    tiny_config["data"]["batch_size"] = 48
    tiny_config["run"] |= {"log_every": 1, "checkpoint_every": 10, "keep_checkpoints": 9}
    tiny_config["evals"] = {}
    tiny_config["augment"] = {"name": "simclr_cifar", "size": 12}
    # Adam makes large steps of gradients that are rounding errors, such as those of a bias
    # before BatchNorm.
    tiny_config["optim"] = {"name": "lars"}
    tiny_config["schedule"]["base_lr"] = 0.3
    return write_recipe(tmp_path / "recipe.py", tiny_config)


class Processes:
    """`train` in one or more processes of this machine."""

    def __init__(self, num_devices, *commands, directories=(None, None)):
        self._processes = [
            Program("train", *command, cwd=directory or ROOT, num_devices=num_devices)
            for command, directory in zip(commands, directories, strict=False)
        ]

    def send(self, index, signum):
        self._processes[index].send(signum)

    def finish(self):
        """Waits; returns the exit codes and what stands on each stderr."""
        done = [process.finish() for process in self._processes]
        return [process.returncode for process in done], [process.stderr for process in done]


def one(recipe, workdir, *flags):
    return Processes(8, [f"--config={recipe}", f"--workdir={workdir}", *flags])


def two(recipe, workdir, *flags, odd=(), directories=(None, None)):
    """Starts two processes, each in its directory; `odd` are flags of the second one alone."""
    return several(2, recipe, workdir, *flags, odd=odd, directories=directories)


def several(count, recipe, workdir, *flags, odd=(), directories=(None,) * 4):
    """Starts processes with eight devices altogether; `odd` are flags of all but the first."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"--coordinator=localhost:{free.getsockname()[1]}"
    number = f"--num_processes={count}"
    common = [f"--config={recipe}", f"--workdir={workdir}", coordinator, number]
    commands = ([*common, f"--process_id={i}", *flags, *(odd if i else ())] for i in range(count))
    return Processes(8 // count, *commands, directories=directories)


def assert_done(processes):
    codes, errors = processes.finish()
    assert set(codes) == {0}, errors
    return errors


def final_state(workdir):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    checkpoints = Checkpoints(workdir)
    assert checkpoints.find() == 21
    stored = checkpoints.shapes(21)
    wanted = {name: stored[name] for name in ("params", "batch_stats", "opt_state")}
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
    return checkpoints.restore_variables(21, jax.tree.map(place, wanted))


def assert_same(workdir, other):
    for a, b in zip(*map(jax.tree.leaves, map(final_state, (workdir, other))), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def losses(workdir):
    rows = read_metrics(workdir)
    assert [row["step"] for row in rows] == [*range(1, 22)], "each step is written once"
    return [row["loss"] for row in rows]


def rewind(workdir, copy):
    """Copies a run as it was when it had saved step 10."""
    shutil.copytree(workdir, copy)
    for step in (20, 21):
        shutil.rmtree(copy / "checkpoints" / str(step))
    return copy


@pytest.mark.thorough
def test_two_processes_train_what_one_does_and_each_continues_what_the_other_began(
    recipe, tmp_path
):
    assert_done(one(recipe, tmp_path / "one"))
    leader, follower = assert_done(two(recipe, tmp_path / "two"))
    assert "step 21/21" in leader
    assert "step" not in follower
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    assert_same(tmp_path / "two", tmp_path / "one")

    assert_done(one(recipe, rewind(tmp_path / "two", tmp_path / "two, then one")))
    split = "--config.parallel.preset=fsdp"
    assert_done(two(recipe, rewind(tmp_path / "one", tmp_path / "one, then two"), split))
    for name in ("two, then one", "one, then two"):
        assert_same(tmp_path / name, tmp_path / "one")


def wait_for_steps(workdir, count):
    deadline = time.monotonic() + 300
    while len(read_metrics(workdir)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_sigterm_to_one_process_saves_and_stops_all_at_the_same_step(
    recipe, tmp_path, record_property
):
    workdir = tmp_path / "run"
    long = ["--config.run.epochs=5000", "--config.run.checkpoint_every=100000"]
    processes = two(recipe, workdir, *long)
    wait_for_steps(workdir, 5)
    processes.send(1, signal.SIGTERM)
    codes, errors = processes.finish()
    assert codes == [143, 143], errors
    (saved,) = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    assert read_metrics(workdir)[-1]["step"] == saved
    assert f"Stopped by SIGTERM after a checkpoint at step {saved}" in errors[0]
    happened = "all stopped after one step, with a checkpoint"
    record_property("fault", ("SIGTERM to one of 2 processes", happened, "nothing"))


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.thorough)])
def test_when_a_process_is_killed_the_other_ends_and_names_it(
    recipe, tmp_path, record_property, victim
):
    processes = two(recipe, tmp_path / "run", "--config.run.epochs=5000")
    wait_for_steps(tmp_path / "run", 5)
    processes.send(victim, signal.SIGKILL)
    killed = time.monotonic()
    codes, errors = processes.finish()
    assert time.monotonic() - killed < 60
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 75, errors
    assert re.search(rf"process {victim} \(\S+\) is lost", errors[1 - victim])
    happened = "the other named it within 60 s, exit code 75"
    record_property(
        "fault", (f"process {victim} of 2 killed", happened, "steps since a checkpoint")
    )


@pytest.mark.thorough
def test_two_then_one_then_four_processes_see_what_one_does(recipe, tmp_path, record_property):
    ledger = "--config.run.ledger=True"
    lines = lambda workdir: [
        json.loads(line) for line in (workdir / "ledger.jsonl").read_text().splitlines()
    ]
    assert_done(one(recipe, tmp_path / "one", ledger))
    workdir = tmp_path / "run"
    for count, stop_at in ((2, 5), (1, 12), (4, None)):
        processes = several(count, recipe, workdir, ledger, "--config.run.log_every=1")
        if stop_at is None:
            assert_done(processes)
        else:
            wait_for_steps(workdir, stop_at)
            processes.send(0, signal.SIGTERM)
            assert set(processes.finish()[0]) == {143}
    got, want = lines(workdir), lines(tmp_path / "one")
    for name in ("step", "ids", "key"):
        assert [row[name] for row in got] == [row[name] for row in want]
    np.testing.assert_allclose(losses(workdir), losses(tmp_path / "one"), rtol=1e-4)
    happened = "the same images and keys in each step"
    record_property("fault", ("2, then 1, then 4 processes", happened, "nothing"))


def test_processes_that_disagree_are_told_who_is_odd_and_leave_nothing(
    recipe, tmp_path, record_property
):
    processes = two(recipe, tmp_path / "run", odd=["--config.run.seed=1"])
    codes, errors = processes.finish()
    assert codes == [2, 2], errors
    for error in errors:
        assert re.search(r"config.run.seed is 1 on process 1 \(\S+\), and 0 on", error)
    assert not (tmp_path / "run").exists()
    record_property("fault", ("processes that disagree", "refused, the odd one named", "nothing"))


def test_processes_that_do_not_see_the_same_checkpoints_are_told(recipe, tmp_path):
    here, there = directories = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    assert_done(one(recipe, here / "run"))
    (there / "run").mkdir()
    shutil.copy(here / "run/config.json", there / "run")
    codes, errors = two(recipe, "run", directories=directories).finish()
    assert codes == [2, 2], errors
    for error in errors:
        assert re.search(
            r"last checkpoint in --workdir is none on process 1 \(\S+\), and step 21", error
        )


def test_all_stop_when_one_cannot_start(recipe, tmp_path):
    processes = two(recipe, tmp_path / "run", odd=["--config.data.name=tfds/mnist"])
    codes, errors = processes.finish()
    assert codes == [2, 2], errors
    for error in errors:
        assert re.search(r"1 of 2 processes cannot go on. process 1 \(\S+\): .*mnist", error)


def test_bad_images_of_all_processes_together_end_them_after_the_same_step(
    recipe, tmp_path, record_property
):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 12, 12), np.uint8)
    images = tmp_path / "images"
    images.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(images / f"{i:02d}.png")
    for i in range(6):  # of 96 are more than one in twenty, and no process reads all of them
        (images / f"{i:02d}.png").write_bytes(b"")
    data = ["--config.data.name=folder", f"--config.data.path={images}", "--config.data.split=all",
            "--config.data.test_split=None", "--config.data.fraction=1.0",
            "--config.run.checkpoint_every=1000"]  # fmt: skip
    workdir = tmp_path / "run"
    codes, errors = two(recipe, workdir, *data).finish()
    assert codes == [2, 2], errors
    for error in errors:
        assert re.search("[56] of the 96 images", error)
    (saved,) = Checkpoints(workdir).steps()
    assert read_metrics(workdir)[-1]["step"] == saved
    happened = "both stopped after one step, with a checkpoint"
    record_property("fault", ("2 processes have bad images", happened, "nothing"))


def test_a_process_that_stays_alone_gives_up(recipe, tmp_path):
    alone = ["--coordinator=localhost:1", "--num_processes=2", "--process_id=1"]
    command = [f"--config={recipe}", f"--workdir={tmp_path / 'run'}", *alone]
    codes, errors = Processes(4, [*command, "--startup_timeout=3"]).finish()
    assert codes == [75]
    assert "after 3 s not all of 2 processes have started. This is process 1" in errors[0]
    assert "localhost:1" in errors[0]
