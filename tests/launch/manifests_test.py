import math
import os
import re
import signal
import subprocess

import pytest
import yaml

from launch.tpu.push import ROOT
from simclr_jax.cli.app import FAILED, USER_MISTAKE
from simclr_jax.parallel.hosts import TRY_AGAIN

JOBSET = ROOT / "launch/gke_jobset.yaml"


def test_jobset_asks_for_as_many_chips_as_its_topology_has():
    (job,) = yaml.safe_load(JOBSET.read_text())["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"]
    assert math.prod(map(int, topology.split("x"))) == chips
    assert pod["restartPolicy"] == "Never"  # a podFailurePolicy needs it
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    config = next(word for word in container["args"] if word.startswith("--config="))
    assert (ROOT / config[len("--config=") :].split(":")[0]).is_file()


def test_jobset_reads_its_data_where_the_bucket_is_mounted():
    (job,) = yaml.safe_load(JOBSET.read_text())["spec"]["replicatedJobs"]
    template = job["template"]["spec"]["template"]
    (container,), (volume,) = template["spec"]["containers"], template["spec"]["volumes"]
    (mount,) = container["volumeMounts"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert mount["name"] == volume["name"]
    assert mount["mountPath"] == f"/mnt/{volume['csi']['volumeAttributes']['bucketName']}"
    assert mount["readOnly"] is volume["csi"]["readOnly"] is True
    assert f"--config.data.path={mount['mountPath']}/tfds" in container["args"]


def test_jobset_ends_only_for_what_no_repetition_mends():
    (job,) = yaml.safe_load(JOBSET.read_text())["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["operator"] == "In"
    assert rule["onExitCodes"]["values"] == [FAILED, USER_MISTAKE]
    assert TRY_AGAIN not in rule["onExitCodes"]["values"]
    (container,) = spec["template"]["spec"]["containers"]
    assert "--startup_timeout=1800" in container["args"]


def test_jobset_explains_each_placeholder():
    header, body = JOBSET.read_text().split("apiVersion:")
    assert set(re.findall(r"REPLACE_\w+", body)) == set(re.findall(r"REPLACE_\w+", header))


def test_the_image_ignores_all_but_what_it_copies():
    copied = re.findall(r"^COPY (\S+)", (ROOT / "launch/Dockerfile").read_text(), re.MULTILINE)
    ignore = (ROOT / "launch/Dockerfile.dockerignore").read_text().split()
    assert {word[1:] for word in ignore if word.startswith("!")} == set(copied)
    assert all((ROOT / name).exists() for name in copied)


@pytest.fixture
def cluster(tmp_path):
    """A node with an srun that runs its task until SIGTERM, and a log of SLURM's commands."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/env.sh").write_text("")
    os.mkfifo(tmp_path / "up")
    for name, text in {
        "srun": 'echo $$ > pid; trap "exit $CODE" TERM; sleep 60 & echo "$@" > up; wait',
        "scancel": 'echo scancel "$@" >> log; kill -TERM "$(cat pid)"',
        "scontrol": 'echo scontrol "$@" >> log',
    }.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def submit(cluster, sign, code):
    """Starts the job, signals its shell when the task is up; returns its exit code and log."""
    env = {
        **os.environ,
        "PATH": f"{cluster}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_SUBMIT_DIR": str(cluster),
        "CODE": str(code),
    }
    with subprocess.Popen(["bash", ROOT / "launch/slurm.sbatch", "train", "a b"], env=env) as job:
        task = (cluster / "up").read_text()
        job.send_signal(sign)
        ended = job.wait(timeout=30)
    assert task == "--cpus-per-task=4 --kill-on-bad-exit=1 python -m simclr_jax train a b\n"
    return ended, (cluster / "log").read_text().splitlines()


@pytest.mark.parametrize(
    ("sign", "code", "requeued"),
    [
        (signal.SIGUSR1, 143, True),  # the time limit is near
        (signal.SIGUSR1, 0, False),  # the run was done by then
        (signal.SIGTERM, 143, False),  # preempted: SLURM queues it again by itself; or cancelled
    ],
)
def test_slurm_job_passes_the_stop_on_and_queues_again(cluster, sign, code, requeued):
    ended, log = submit(cluster, sign, code)
    assert ended == code
    assert log == ["scancel --signal=TERM 7"] + ["scontrol requeue 7"] * requeued


def test_slurm_job_refuses_several_tasks_of_a_verb_that_does_not_join_them():
    env = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
    command = ["bash", ROOT / "launch/slurm.sbatch", "evaluate"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "evaluate runs in one task, not 4" in done.stderr


def test_slurm_examples_use_the_same_cpus_of_a_node():
    script = (ROOT / "launch/slurm.sbatch").read_text()
    (whole,) = re.findall(r"^#SBATCH --cpus-per-task=(\d+)", script, re.MULTILINE)
    tasks, each = re.findall(r"--ntasks-per-node=(\d+) .*--cpus-per-task=(\d+)", script)[0]
    assert int(tasks) * int(each) == int(whole)
