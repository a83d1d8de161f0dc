"""A bucket that push and watch mount on each worker."""

import os
import shlex
import shutil
import tarfile

import pytest

from launch.tpu import push
from launch.tpu.gcloud import Gcloud, Slice

PLACE = ("slice1", "--zone=us-west4-a", "--project=my-project")
CONFIG = "--config=configs/simclr_imagenet.py:v2_r50_1x"
TRAIN = ("--", "train", CONFIG, "--config.data.path=/mnt/data-1/tfds", "--workdir=gs://b/run")
WATCH = ("watch", *PLACE, "--type=v5litepod-8", "--spot", "--mount=data-1", *TRAIN)
FAKES = {
    "sudo": """
        [ "$1" = -n ] && shift
        echo "$*" >>"$HOME/log"
        case "$1" in
            env) exec "$@" ;;
            tee) cat >"$HOME/$(basename "$2")" ;;
        esac""",
    "apt-get": """
        case "${!#}" in
            gcsfuse) cp "$HOME/gcsfuse" "$HOME/bin" ;;
            update) ! rm "$HOME/locked" 2>/dev/null || exit 100 ;;
        esac""",
    "curl": 'echo "key from ${!#}"',
    "lsb_release": "echo jammy",
    "sleep": 'echo "sleep $*" >>"$HOME/log"',
    "mountpoint": '[ "$*" = "--quiet /mnt/data-1" ] && [ -e "$HOME/mounted" ]',
    "../gcsfuse": 'echo "gcsfuse $*" >>"$HOME/log"; touch "$HOME/mounted"',
}
DIRECTORY = [
    "umount --lazy /mnt/data-1",
    "mkdir -p /mnt/data-1",
    f"chown {os.getuid()}:{os.getgid()} /mnt/data-1",
]
MOUNT = [*DIRECTORY, "gcsfuse --implicit-dirs -o ro data-1 /mnt/data-1"]
APT = "env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600"
LIST = "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt"


def write(path, text):
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def worker(cloud, home, monkeypatch):
    """A worker's home with code to install, and an image without gcsfuse."""
    monkeypatch.setenv("PATH", f"{home}/bin{os.pathsep}{os.environ['PATH']}")
    shutil.copy(home / "bin/python", home / "bin/python3.13")  # else uv would fetch one
    with tarfile.open(home / "simclr_jax_code.tar", "w") as tar:
        tar.add(home / "simclr_jax/code/launch/env.sh", arcname="launch/env.sh")
    for name, text in FAKES.items():
        write(home / "bin" / name, text)
    cloud.answer(home=str(home))
    return home


def log(worker):
    """What was done since the last look."""
    lines = (worker / "log").read_text().splitlines() if (worker / "log").exists() else []
    (worker / "log").write_text("")
    return lines


def state():
    return Gcloud().worker_state(Slice("slice1", "us-west4-a", "my-project"))[0]


def wait_for_end(worker):
    lock = worker / "simclr_jax/lock"
    assert os.system(shlex.join(["flock", "--timeout", "20", str(lock), "true"])) == 0


def test_push_installs_gcsfuse_and_mounts_what_is_not_mounted(cloud, worker):
    (worker / "locked").touch()  # the VM's own update is under way
    assert cloud.main("push", *PLACE, "--mount=gs://data-1") == 0
    assert log(worker) == [
        "tee /usr/share/keyrings/cloud.google.asc",
        "tee /etc/apt/sources.list.d/gcsfuse.list",
        f"{APT} update",
        "sleep 15",
        f"{APT} update",
        f"{APT} install --yes gcsfuse",
        *MOUNT,
    ]
    key = (worker / "cloud.google.asc").read_text()
    assert key == "key from https://packages.cloud.google.com/apt/doc/apt-key.gpg\n"
    assert (worker / "gcsfuse.list").read_text() == f"{LIST} gcsfuse-jammy main\n"
    assert state() == "installed"
    assert cloud.main("push", *PLACE, "--mount=data-1") == 0
    assert log(worker) == []
    (worker / "mounted").unlink()
    assert cloud.main("push", *PLACE, "--mount=data-1") == 0
    assert log(worker) == MOUNT


def test_run_mounts_again_what_a_reboot_has_lost(cloud, worker):
    assert cloud.main("push", *PLACE, "--mount=data-1") == 0
    (worker / "mounted").unlink()
    log(worker)
    assert cloud.main("run", *PLACE, *TRAIN) == 0
    assert log(worker) == MOUNT
    wait_for_end(worker)
    assert cloud.main("push", *PLACE) == 0
    (worker / "mounted").unlink()
    assert cloud.main("run", *PLACE, *TRAIN) == 0
    assert log(worker) == []
    wait_for_end(worker)


def test_gcsfuse_lives_on_without_the_lock_and_the_session(cloud, worker):
    os.mkfifo(worker / "gate")
    write(worker / "gcsfuse", 'read <"$HOME/gate" &')
    install = Slice("slice1", "us-west4-a", "my-project").on_workers("all", "install", "data-1")
    try:
        assert "gs://data-1 is mounted" in Gcloud().ask(install, timeout_seconds=20)
        assert state() == "installed"  # not "running"
    finally:
        os.close(os.open(worker / "gate", os.O_RDWR | os.O_NONBLOCK))


def test_a_push_that_cannot_mount_fails_and_leaves_nothing_to_start(cloud, worker, capfd):
    write(worker / "gcsfuse", "echo bucket does not exist; exit 3")
    assert cloud.main("push", *PLACE, "--mount=data-1") == 1
    error = capfd.readouterr().err
    assert "bucket does not exist" in error
    assert "gs://data-1 could not be mounted at /mnt/data-1" in error
    assert state() == "absent"


def test_a_push_that_cannot_update_gives_up(cloud, worker):
    write(worker / "bin/apt-get", "exit 100")
    assert cloud.main("push", *PLACE, "--mount=data-1") == 1
    assert log(worker)[2:] == [f"{APT} update", "sleep 15"] * 9 + [f"{APT} update"]
    assert state() == "absent"


@pytest.mark.parametrize(
    ("bucket", "message"),
    [
        ("gs://data-1/tfds", "--mount=data-1; it is mounted as a whole"),
        ("data-1/tfds", "the directory is then /mnt/data-1/tfds"),
        ("../etc", "cannot name a bucket"),
        ("", "cannot name a bucket"),
        ("ab", "cannot name a bucket"),
        ("a" * 64, "cannot name a bucket"),
        ("Data", "cannot name a bucket"),
        ("-data", "cannot name a bucket"),
        ("data.", "cannot name a bucket"),
        ("data\n", "cannot name a bucket"),
        ("gs://", "'' cannot name a bucket"),
        ("s3://data", "cannot name a bucket"),
        ("data; rm -rf ~", "cannot name a bucket"),
        ("$(touch injected)", "cannot name a bucket"),
    ],
)
@pytest.mark.parametrize("words", [("push", *PLACE), WATCH], ids=["push", "watch"])
def test_refuses_what_is_no_bucket_before_anything_is_called(cloud, capsys, words, bucket, message):
    cut = words.index("--") if "--" in words else len(words)
    assert cloud.main(*words[:cut], f"--mount={bucket}", *words[cut:]) == 2
    assert message in capsys.readouterr().err
    assert cloud.calls == []


def test_refuses_data_that_only_a_mount_can_open(cloud, capsys):
    words = ("run", *PLACE, *TRAIN, "--config.data.path=gs://data-1/tfds")
    assert cloud.main(*words) == 2
    error = capsys.readouterr().err
    assert "--mount=data-1" in error
    assert "--config.data.path=/mnt/data-1/tfds" in error
    assert cloud.calls == []


@pytest.mark.parametrize("bucket", ["data-1", "gs://data-1", "gs://data-1/", "a_b.c", "0" * 63])
def test_dry_run_shows_the_mount(cloud, capsys, bucket):
    assert cloud.main("push", *PLACE, f"--mount={bucket}", "--dry-run") == 0
    name = bucket.removeprefix("gs://").rstrip("/")
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])[-1]
    assert command == f"--command=bash simclr_jax_worker.sh install {name}"
    assert cloud.calls == []


def test_watch_mounts_on_each_slice_that_it_gets(cloud, capsys):
    cut = WATCH.index("--")
    assert cloud.main(*WATCH[:cut], "--dry-run", *WATCH[cut:]) == 0
    install = "bash simclr_jax_worker.sh install data-1"
    assert install in capsys.readouterr().out
    identity = push.identity(b"code", TRAIN[1:])
    cloud.answer(
        queue=["ACTIVE"],
        node=["READY", "READY", "PREEMPTED", "READY"],
        state=[
            *([127, "no such file"], f"simclr_jax state: running {identity}"),
            *([127, "no such file"], f"simclr_jax state: exited 0 {identity}"),
        ],
    )
    assert cloud.main(*WATCH) == 0
    installs = [call["command"] for call in cloud.calls if call["kind"] == "install"]
    assert installs == [install] * 2
