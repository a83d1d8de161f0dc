import functools
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile

import pytest

from launch import tpu_vm
from launch.tpu import catalog, push
from launch.tpu.gcloud import Gcloud, GcloudError, Slice
from simclr_jax.core.errors import UserError

PLACE = ("slice1", "--zone=us-west4-a", "--project=my-project")
OFFER = ("--type=v5litepod-8", "--spot")
TRAIN = ("--", "train", "--config=configs/simclr_imagenet.py:v2_r50_1x", "--workdir=gs://b/run")
EVALUATE = ("--", "evaluate", "--workdir=gs://b/run")
WATCH = ("watch", *PLACE, *OFFER, *TRAIN)
ACTIVE = {"queue": ["ACTIVE"], "node": ["READY"]}
NOT_FOUND = [1, "ERROR: (gcloud.describe) NOT_FOUND: Resource 'slice1' was not found"]
QUOTA = [1, "RESOURCE_EXHAUSTED: Quota limit TPUV5sPreemptible has been exceeded. Limit: 8"]
SSH_DOWN = [255, "ssh: connect to host 34.1.2.3 port 22: Connection refused"]


def state(name):
    """What the worker says of the run that TRAIN starts."""
    return f"simclr_jax state: {name} {push.identity(b'code', TRAIN[1:])}"


def test_create_asks_for_a_spot_slice_with_the_runtime_of_its_type(cloud):
    assert cloud.main("create", *PLACE, *OFFER) == 0
    (call,) = cloud.calls
    assert call["arguments"] == [
        *("compute", "tpus", "queued-resources", "create", "slice1", "--zone=us-west4-a"),
        *("--project=my-project", "--node-id=slice1", "--accelerator-type=v5litepod-8"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--labels=launched_by=simclr_jax", "--spot"),
    ]


@pytest.mark.parametrize(
    ("flags", "expected"), [([], []), (["--on-demand"], []), (["--reserved"], ["--reserved"])]
)
def test_create_asks_on_demand_unless_told_otherwise(cloud, flags, expected):
    assert cloud.main("create", *PLACE, "--type=v5litepod-8", *flags) == 0
    assert cloud.calls[0]["arguments"][11:] == expected


def test_create_shows_why_it_was_refused(cloud, capfd):
    cloud.answer(create=[QUOTA])
    assert cloud.main("create", *PLACE, *OFFER) == 1
    assert "Quota limit" in capfd.readouterr().err


def test_a_refusal_is_shown_while_the_command_runs_and_known_afterwards(cloud, capfd):
    denied = "PERMISSION_DENIED: Permission 'tpu.nodes.get' denied"
    cloud.answer(scp=[[1, denied]])
    with pytest.raises(GcloudError, match="exit code 1") as caught:
        Gcloud().do(Slice("slice1", "us-west4-a", "my-project").copy("file"))
    assert caught.value.permanent
    assert capfd.readouterr().err == f"{denied}\n"


@pytest.fixture
def agent(cloud, monkeypatch):
    """An ssh agent that holds the keys in the file that is returned."""
    keys = cloud.directory / "keys"
    keys.write_text("ssh-ed25519 AAAAother me@here\n")
    (cloud.directory / "bin/ssh-add").write_text(f"#!/bin/sh\ncat {shlex.quote(str(keys))}\n")
    (cloud.directory / "bin/ssh-add").chmod(0o755)
    monkeypatch.setenv("HOME", str(cloud.directory))
    monkeypatch.setenv("SSH_AUTH_SOCK", "socket")
    return keys


def test_several_hosts_need_an_ssh_key_that_asks_for_nothing(cloud, agent, capsys, monkeypatch):
    create = ("create", *PLACE, "--type=v5litepod-16")
    assert cloud.main(*create) == 2
    assert 'ssh-keygen -t rsa -f ~/.ssh/google_compute_engine -N ""' in capsys.readouterr().err
    (cloud.directory / ".ssh").mkdir()
    (cloud.directory / ".ssh/google_compute_engine").touch()
    (cloud.directory / ".ssh/google_compute_engine.pub").write_text("ssh-rsa AAAAmine me@here\n")
    assert cloud.main(*create) == 2
    assert "`ssh-add ~/.ssh/google_compute_engine`" in capsys.readouterr().err
    assert cloud.calls == []
    agent.write_text("ssh-rsa AAAAmine ~/.ssh/google_compute_engine\n")
    assert cloud.main(*create) == 0
    agent.write_text("")
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert cloud.main(*create) == 0


def test_one_host_needs_no_ssh_key_beforehand(cloud, agent):
    assert cloud.main("create", *PLACE, "--type=v5litepod-8") == 0
    assert cloud.main("create", *PLACE, "--type=v5litepod-16", "--dry-run") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create", "Slice_1", *PLACE[1:], *OFFER], "such as 'slice-1'"),
        (["create", "--zone=us-west4-a", "-x", *OFFER], None),
        (["create", "a; rm -rf ~", *PLACE[1:], *OFFER], "cannot name a slice"),
        (["create", "slice1", "--zone=us-west4-q", *OFFER], "Did you mean 'us-west4-a'"),
        (["status", "slice1", "--zone=moon"], "No TPU zone 'moon'"),
        (["create", *PLACE, "--type=v5litepod-12"], "v5litepod has v5litepod-1, v5litepod-4"),
        (["create", *PLACE, "--type=v5e-16"], "Did you mean 'v5litepod-16'"),
        (["create", *PLACE, "--type=h100-8"], "Kinds are v2, v3, v4, v5litepod, v5p, v6e"),
        (["create", *PLACE, "--type=v4-8"], "v4-8 is in us-central2-b; us-west4-a has v5litepod-1"),
        (
            ["create", *PLACE, *OFFER, "--runtime-version=tpu-vm-base"],
            "needs 'v2-alpha-tpuv5-lite'",
        ),
        (["create", *PLACE, *OFFER, "--reserved"], None),
        (["create", *PLACE[:2], "--project=My Project", *OFFER], "is no project ID"),
        (["create", *PLACE, *OFFER, *TRAIN], "takes nothing after --"),
        (["run", *PLACE], "Say what to run"),
        (["run", *PLACE, "--", "trian"], "Did you mean 'train'"),
        (["run", *PLACE, *TRAIN, "--config=configs/simclr_digit.py"], "simclr_digits.py"),
        (["run", *PLACE, *TRAIN, "--config", "configs/none.py"], "not among the files that are"),
        (["run", *PLACE, *TRAIN, "--config=/etc/passwd"], "not among the files that are pushed"),
        (["run", *PLACE, *TRAIN, "--config=../configs/finetune.py"], "not among the files"),
        (["run", *PLACE, *TRAIN, "--workdir=gs://"], "names no bucket"),
        (["run", *PLACE, *TRAIN[:2], TRAIN[3]], "train needs --config"),
        (["run", *PLACE, *TRAIN[:3]], "train needs --workdir"),
        (["run", *PLACE, "--", "verify", TRAIN[2]], "verify needs no TPU"),
        (["run", *PLACE, "--", "plan", TRAIN[2]], "plan needs no TPU"),
        ([*WATCH[:-3], "plan", TRAIN[2], TRAIN[3]], "python -m simclr_jax plan --config="),
        ([*WATCH, "--config.data.path=/mnt/B/tfds"], "--mount=B does that"),
        ([*WATCH, "--config.data.path", "/mnt/B"], "nothing is mounted; --mount=B"),
        (["watch", "--mount=data", *WATCH[1:], "--x=/mnt/B"], "/mnt/data is mounted; --mount=B"),
        (["watch", "--max-restarts=-1", *WATCH[1:]], "--max-restarts=-1: give 0 or more"),
        (["watch", "--type=v5litepod-16", *PLACE, *EVALUATE], "evaluate runs on one host"),
        ([*WATCH[:-1], "--workdir=runs/a"], "deleted with the slice"),
        (["logs", *PLACE, "--worker=first"], "give the number of a worker"),
        (["logs", *PLACE, "--lines=0"], "--lines=0"),
        (["logs", *PLACE, "--lines=many"], None),
        (["logs", *PLACE, "--li=5"], None),
        (["restart", *PLACE], None),
        ([], None),
    ],
)
def test_refuses_bad_input_before_anything_is_called(cloud, capsys, words, message):
    if message is None:  # the argument parser's own
        with pytest.raises(SystemExit, match="2"):
            cloud.main(*words)
    else:
        assert cloud.main(*words) == 2
        assert message in capsys.readouterr().err
    assert cloud.calls == []


def test_a_missing_gcloud_is_a_mistake_of_the_user(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tpu_vm.main(["create", *PLACE, *OFFER]) == 2
    assert "gcloud is not on PATH" in capsys.readouterr().err
    assert tpu_vm.main(["create", *PLACE, *OFFER, "--dry-run"]) == 0


@pytest.mark.parametrize("answer", ["", "(unset)"])
def test_a_missing_project_is_a_mistake_of_the_user(cloud, capsys, answer):
    cloud.answer(config=[answer])
    assert cloud.main("create", *PLACE[:2], *OFFER) == 2
    assert "gcloud config set project" in capsys.readouterr().err
    assert cloud.kinds() == ["config"]


def test_the_project_comes_from_gcloud_or_the_environment(cloud, monkeypatch):
    cloud.answer(config=["from-gcloud"])
    assert cloud.main("delete", *PLACE[:2]) == 0
    monkeypatch.setenv("CLOUDSDK_CORE_PROJECT", "from-environment")
    assert cloud.main("delete", *PLACE[:2]) == 0
    assert cloud.kinds() == ["config", "delete", "delete"]
    assert "--project=from-gcloud" in cloud.calls[1]["arguments"]
    assert "--project=from-environment" in cloud.calls[2]["arguments"]


@pytest.mark.parametrize(
    "words",
    [
        ("create", *PLACE, *OFFER),
        ("push", *PLACE),
        ("run", *PLACE, *TRAIN),
        ("run", *PLACE, *EVALUATE),
        ("logs", *PLACE, "--follow"),
        ("status", *PLACE),
        ("stop", *PLACE),
        ("delete", *PLACE),
        WATCH,
    ],
    ids=lambda words: words[0],
)
def test_dry_run_prints_the_commands_that_a_real_run_calls(cloud, capfd, words):
    cut = words.index("--") if "--" in words else len(words)
    assert cloud.main(*words[:cut], "--dry-run", *words[cut:]) == 0
    printed = [shlex.split(line) for line in capfd.readouterr().out.splitlines()]
    assert cloud.calls == []
    cloud.answer(
        queue=[NOT_FOUND, "ACTIVE"] if words is WATCH else ["ACTIVE"],
        node=["READY"],
        state=["simclr_jax state: absent", state("exited 0")],
    )
    assert cloud.main(*words) == 0
    called = [["gcloud", *call["arguments"]] for call in cloud.calls]
    assert printed
    assert all(command in called for command in printed)
    assert all(command in printed for command in called)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([3, "slice1-w0: a run is under way"], "see `logs`, or `stop` it"),
        ([4, "slice1-w0: no code was pushed"], "`push` first"),
        ([127, "bash: simclr_jax_worker.sh: No such file or directory"], "`push` first"),
        (SSH_DOWN, "exit code 255"),
    ],
)
def test_run_says_why_it_did_not_start(cloud, capfd, answer, message):
    cloud.answer(start=[answer])
    assert cloud.main("run", *PLACE, *TRAIN) == 1
    assert message in capfd.readouterr().err


def test_run_refuses_on_several_hosts_what_does_not_join_them(cloud, capsys):
    cloud.answer(node=["v5litepod-16"])
    assert cloud.main("run", *PLACE, *EVALUATE) == 2
    assert "a slice of one host, such as v5litepod-8" in capsys.readouterr().err
    assert cloud.kinds() == ["node"]
    cloud.answer(node=["v5litepod-8"])
    assert cloud.main("run", *PLACE, *EVALUATE) == 0


def test_a_recipe_that_git_ignores_is_not_pushed(cloud, capsys, monkeypatch, tmp_path):
    files = {"mine.py": "", "ours.py": "", "configs/theirs.py": ""}
    root = clone(tmp_path / "clone", **{".gitignore": "mine.py\n"}, **files)
    monkeypatch.setattr(push, "files", functools.partial(push.files, root))
    assert cloud.main("run", *PLACE, *TRAIN, "--config=mine.py") == 2
    assert "that git does not ignore" in capsys.readouterr().err
    assert cloud.main("run", *PLACE, *TRAIN, "--config=./ours.py:variant") == 0
    assert cloud.main("run", *PLACE, *TRAIN, "--config=theirs:variant") == 0


@pytest.mark.parametrize(
    ("scenario", "printed", "code"),
    [
        ({"queue": [NOT_FOUND]}, "request ABSENT", 1),
        ({"queue": ["WAITING_FOR_RESOURCES"]}, "request WAITING_FOR_RESOURCES\nVMs     -", 0),
        ({**ACTIVE, "state": [state("exited 0")]}, "VMs     READY\nrun     exited 0", 0),
        ({**ACTIVE, "state": [[127, "no such file"]]}, "run     absent", 0),
        ({"queue": ["ACTIVE"], "node": ["PREEMPTED"]}, "VMs     PREEMPTED\nrun     -", 0),
    ],
)
def test_status_names_all_three_states(cloud, capsys, scenario, printed, code):
    cloud.answer(**scenario)
    assert cloud.main("status", *PLACE) == code
    assert printed in capsys.readouterr().out


def test_a_command_that_hangs_is_ended_with_all_that_it_started(cloud):
    with pytest.raises(GcloudError, match=r"no answer in 0\.1 seconds"):
        Gcloud().ask(["bash", "-c", "sleep 60 & wait"], timeout_seconds=0.1)


def clone(root, **contents):
    root.mkdir()
    assert os.system(f"git init --quiet {shlex.quote(str(root))}") == 0
    for name, text in contents.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_archive_holds_the_files_as_they_are_and_nothing_ignored(tmp_path):
    root = clone(tmp_path / "clone", **{".gitignore": "runs/\n", "new file.py": "x = 1\n"})
    (root / "runs").mkdir()
    (root / "runs/big").write_text("ignored")
    with tarfile.open(fileobj=io.BytesIO(push.pack(root))) as tar:
        assert tar.getnames() == [".gitignore", "new file.py"]
    (tmp_path / "without history").mkdir()
    with pytest.raises(UserError, match="git init"):
        push.pack(tmp_path / "without history")


def test_the_archive_changes_with_what_the_files_hold_and_with_nothing_else(tmp_path):
    first, second = (clone(tmp_path / name, code="x = 1\n") for name in ("a", "b"))
    os.utime(first / "code", (1e9, 1e9))
    (second / "code").chmod(0o600)
    assert push.pack(first) == push.pack(second)
    (second / "code").write_text("x = 2\n")
    assert push.pack(first) != push.pack(second)


def test_each_slice_has_an_archive_of_its_own(cloud, monkeypatch):
    for name in ("slice1", "slice2"):
        monkeypatch.setattr(push, "pack", functools.partial(str.encode, name))
        assert cloud.main("push", name, *PLACE[1:]) == 0
    sent = [call["arguments"][3:5] for call in cloud.calls if call["kind"] == "scp"]
    archives = [push.ARCHIVES / f"us-west4-a/slice{n}/simclr_jax_code.tar" for n in (1, 2)]
    assert [words[1] for words in sent] == list(map(str, archives))
    assert [archive.read_bytes() for archive in archives] == [b"slice1", b"slice2"]


def test_the_readme_shows_commands_that_work(tmp_path):
    (block,) = re.findall(
        r"```sh\n([^`]*launch\.tpu_vm[^`]*)```", (push.ROOT / "README.md").read_text()
    )
    lines = block.replace("PROJECT", "my-project").replace("BUCKET", "my-bucket").splitlines()
    tried = [line for line in lines if re.match(r"tpu=|run=|.* --dry-run ", line)]
    assert len(tried) == 3
    python = os.path.dirname(sys.executable)
    env = {"PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = ["bash", "-euc", "\n".join(tried)]
    done = subprocess.run(
        command, cwd=push.ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0].startswith("gcloud compute tpus queued-resources create mine")
    assert all("--project=my-project" in line for line in printed)
    assert len(printed) == 8


def test_every_offer_is_consistent():
    assert len(catalog.TYPES) == sum(len(offer.sizes) for offer in catalog.OFFERS)
    for name, offer in catalog.TYPES.items():
        for zone in offer.zones:
            assert catalog.check_offer(name, zone) == offer.runtime_version
