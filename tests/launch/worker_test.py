"""The script on the workers, in a home directory, by the bash that is here."""

import os
import shlex
import shutil
import subprocess
import tarfile
import time

import pytest

from launch.tpu import push
from launch.tpu.gcloud import Gcloud, GcloudError, Slice

PLACE = ("slice1", "--zone=us-west4-a", "--project=my-project")
TRAIN = ("--", "train", "--config=configs/simclr_digits.py", "--workdir=runs/a")
HOSTILE = (
    "a; rm -rf $HOME",
    "$(touch injected)",
    "`touch injected`",
    'it\'s "two"  spaces',
    "-x\ny*",
)


@pytest.mark.parametrize("workdir", HOSTILE)
def test_hostile_arguments_reach_the_program_as_they_are(cloud, home, workdir):
    cloud.answer(home=str(home))
    assert cloud.main("run", *PLACE, *TRAIN, f"--workdir={workdir}") == 0
    wait_for_end(home)
    arguments = (home / "arguments").read_text().split("\0")[:-1]
    assert arguments == ["-m", "simclr_jax", *TRAIN[1:], f"--workdir={workdir}"]
    assert not list(home.rglob("injected"))


def wait_for_end(home):
    lock = home / "simclr_jax/lock"
    assert os.system(shlex.join(["flock", "--timeout", "20", str(lock), "true"])) == 0


def remote_state(cloud):
    return Gcloud().worker_state(Slice("slice1", "us-west4-a", "my-project"))[0]


def test_a_run_outlives_the_session_and_leaves_its_exit_code(cloud, home):
    cloud.answer(home=str(home))
    (home / "bin/python").write_text("#!/usr/bin/env bash\necho out\nread < $HOME/gate\nexit 7\n")
    os.mkfifo(home / "gate")
    assert remote_state(cloud) == "installed"
    assert cloud.main("run", *PLACE, *TRAIN) == 0  # has returned, the run waits
    assert remote_state(cloud) == "running"
    assert cloud.main("run", *PLACE, *TRAIN) == 1
    assert cloud.main("push", *PLACE) == 1  # new code under a run is refused, too
    with open(home / "gate", "w") as gate:
        gate.write("go\n")
    wait_for_end(home)
    assert remote_state(cloud) == "exited 7"
    assert (home / "simclr_jax/run.log").read_text() == "out\n"


def test_stop_asks_the_run_to_end_and_keeps_its_exit_code(cloud, home):
    cloud.answer(home=str(home))
    os.mkfifo(home / "up")
    (home / "bin/python").write_text(
        "#!/usr/bin/env bash\ntrap 'exit 143' TERM\nsleep 60 &\necho up > $HOME/up\nwait\n"
    )
    assert cloud.main("run", *PLACE, *TRAIN) == 0
    assert (home / "up").read_text() == "up\n"
    assert os.system(f"cd {home} && HOME={home} bash simclr_jax_worker.sh stop") == 0
    assert remote_state(cloud) == "exited 143"


def test_install_replaces_the_code_and_keeps_the_environment(cloud, home, monkeypatch):
    monkeypatch.setenv("PATH", f"{home}/bin{os.pathsep}{os.environ['PATH']}")
    shutil.copy(home / "bin/python", home / "bin/python3.13")  # else uv would fetch one
    code = home / "simclr_jax/code"
    with tarfile.open(home / "simclr_jax_code.tar", "w") as tar:
        tar.add(code / "launch/env.sh", arcname="launch/env.sh")
    (code / ".venv").mkdir()
    (code / "stale.py").touch()
    (home / "simclr_jax/exit_code").write_text("0\n")
    (home / "simclr_jax/installed").unlink()
    cloud.answer(home=str(home))
    assert remote_state(cloud) == "absent"
    assert cloud.main("push", *PLACE) == 0
    assert sorted(path.name for path in code.iterdir()) == [".venv", "launch"]
    assert (home / "arguments").read_text().split("\0")[-2] == "jax[tpu]"
    assert remote_state(cloud) == "installed"


def test_a_run_that_left_no_exit_code_is_dead(cloud, home):
    cloud.answer(home=str(home))
    (home / "simclr_jax/pid").write_text("12345\n")
    assert remote_state(cloud) == "dead"


def worker(home, *words, path=os.environ["PATH"]):
    """Calls the script as ssh does; returns the process."""
    return subprocess.Popen(
        ["bash", "simclr_jax_worker.sh", *words],
        cwd=home,
        env={**os.environ, "HOME": str(home), "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_look_at_the_state_does_not_keep_a_run_from_starting(home):
    lock = str(home / "simclr_jax/lock")
    with subprocess.Popen(["flock", "--shared", lock, "cat"], stdin=subprocess.PIPE) as look:
        while not os.path.exists(lock) or os.system(f"flock --nonblock {lock} true") == 0:
            time.sleep(0.01)  # until the look has begun
        assert worker(home, "state").communicate()[0] == "simclr_jax state: installed \n"
        started = worker(home, "start", "train")
        with pytest.raises(subprocess.TimeoutExpired):
            started.communicate(timeout=0.5)
        look.communicate()
    assert "started" in started.communicate()[0]
    assert started.returncode == 0
    wait_for_end(home)


def test_a_run_that_has_ended_leaves_no_number_of_a_process_to_stop(home):
    assert "started" in worker(home, "start", "train").communicate()[0]
    wait_for_end(home)
    assert not (home / "simclr_jax/pid").exists()
    assert worker(home, "stop").communicate()[1] == ""


def test_an_environment_that_is_broken_is_a_failure_of_the_run(cloud, home):
    cloud.answer(home=str(home))
    (home / "simclr_jax/code/launch/env.sh").write_text("return 1\n")
    assert cloud.main("run", *PLACE, *TRAIN) == 0
    wait_for_end(home)
    assert remote_state(cloud) == "exited 1"


def test_a_worker_knows_a_run_by_its_code_and_arguments(cloud, home, monkeypatch):
    monkeypatch.setenv("PATH", f"{home}/bin{os.pathsep}{os.environ['PATH']}")
    shutil.copy(home / "bin/python", home / "bin/python3.13")  # else uv would fetch one
    cloud.answer(home=str(home))
    with tarfile.open(home / "simclr_jax_code.tar", "w") as tar:
        tar.add(home / "simclr_jax/code/launch/env.sh", arcname="launch/env.sh")
    arguments = ["train", "--workdir=a  'b'\n", ""]
    expected = push.identity((home / "simclr_jax_code.tar").read_bytes(), arguments)
    place = Slice("slice1", "us-west4-a", "my-project")
    assert "installed" in worker(home, "install").communicate()[0]
    assert Gcloud().worker_state(place) == ("installed", "")
    assert "started" in worker(home, "start", *arguments).communicate()[0]
    wait_for_end(home)
    assert Gcloud().worker_state(place) == ("exited 0", expected)


@pytest.mark.parametrize("marks", ["exited ", "exited", "exited x", "exit", ""])
def test_marks_that_say_nothing_are_an_error_of_the_look(cloud, marks):
    cloud.answer(state=[f"simclr_jax state: {marks}"])
    with pytest.raises(GcloudError, match="no state in"):
        remote_state(cloud)


def test_a_run_that_cannot_start_does_not_end_like_the_one_before(home):
    (home / "simclr_jax/exit_code").write_text("0\n")
    (home / "simclr_jax/bucket").write_text("data-1\n")
    (home / "bin/mountpoint").write_text("#!/bin/sh\nexit 1\n")
    (home / "bin/mountpoint").chmod(0o755)
    for name in ("gcsfuse", "sudo"):
        shutil.copy(home / "bin/mountpoint", home / "bin" / name)
    started = worker(home, "start", "train", path=f"{home}/bin{os.pathsep}{os.environ['PATH']}")
    started.communicate()
    assert started.returncode == 1
    assert worker(home, "state").communicate()[0].startswith("simclr_jax state: installed")
