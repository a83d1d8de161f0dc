"""The gcloud commands as lists of arguments, and the one place that calls them.

No shell sees these lists. What a worker's shell does see, the remote command, is quoted by
`shlex.join`: ssh hands it over as one string.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from launch.tpu import catalog
from simclr_jax.core.errors import UserError

WORKER = "simclr_jax_worker.sh"  # as it is named here and in the home of each worker
ARCHIVE = "simclr_jax_code.tar"
ABSENT = "ABSENT"
LABEL, OURS = "launched_by", "simclr_jax"  # of each slice that was asked for here
KEY = "~/.ssh/google_compute_engine"  # what gcloud's ssh and scp use
# What no repetition mends; a spent quota may be freed, so it is not among them.
PERMANENT = (
    *("PERMISSION_DENIED", "INVALID_ARGUMENT", "UNAUTHENTICATED", "invalid_grant"),
    "SSH Key is not present in the SSH agent",
)


class LaunchError(Exception):
    """What was asked for did not come about; the message says why."""


class GcloudError(LaunchError):
    """A gcloud command failed: its exit code, and what it wrote to stderr.

    The message leaves out what the user has `seen` on the screen.
    """

    def __init__(self, command: Sequence[str], code: int, stderr: str = "", *, seen: bool = False):
        why = "" if seen else stderr.strip()
        super().__init__(f"{why or f'exit code {code}'}\n  from: {shlex.join(command)}")
        self.code = code
        self.stderr = stderr

    @property
    def permanent(self) -> bool:
        """Whether to try again is useless."""
        return any(word in self.stderr for word in PERMANENT)


@dataclass(frozen=True)
class Slice:
    """A TPU slice: one queued resource and its one node, which share a name."""

    name: str
    zone: str
    project: str

    def _command(self, kind: str, *words: str) -> list[str]:
        place = [f"--zone={self.zone}", f"--project={self.project}"]
        return ["gcloud", "compute", "tpus", kind, *words, *place]

    def create(self, accelerator_type: str, runtime_version: str, provisioning: str) -> list[str]:
        """Asks for the slice; provisioning is "on-demand", "spot" or "reserved"."""
        return [
            *self._command("queued-resources", "create", self.name),
            f"--node-id={self.name}",
            f"--accelerator-type={accelerator_type}",
            f"--runtime-version={runtime_version}",
            f"--labels={LABEL}={OURS}",
            *([] if provisioning == "on-demand" else [f"--{provisioning}"]),
        ]

    def describe_queue(self) -> list[str]:
        """Prints what `Gcloud.request` reads."""
        command = self._command("queued-resources", "describe", self.name)
        node = "tpu.nodeSpec[0].node"
        columns = f"state.state,{node}.acceleratorType,{node}.labels.{LABEL}"
        return [*command, f"--format=value({columns})"]

    def describe_node(self) -> list[str]:
        """Prints the state of the VMs, such as READY or PREEMPTED."""
        return [*self._command("tpu-vm", "describe", self.name), "--format=value(state)"]

    def describe_type(self) -> list[str]:
        """Prints the accelerator type of the VMs."""
        return [*self._command("tpu-vm", "describe", self.name), "--format=value(acceleratorType)"]

    def delete(self) -> list[str]:
        """Deletes the VMs with their disks, and the request."""
        return [*self._command("queued-resources", "delete", self.name), "--force", "--quiet"]

    def ssh(self, worker: str, *remote: str) -> list[str]:
        """Runs a command on a worker, or on "all" of them at once."""
        command = self._command("tpu-vm", "ssh", self.name)
        return [*command, f"--worker={worker}", "--quiet", f"--command={shlex.join(remote)}"]

    def on_workers(self, worker: str, *arguments: str) -> list[str]:
        """Calls the script that `push` leaves in the home of each worker."""
        return self.ssh(worker, "bash", WORKER, *arguments)

    def copy(self, *files: str) -> list[str]:
        """Copies local files into the home of every worker."""
        command = self._command("tpu-vm", "scp", *files, f"{self.name}:")
        return [*command, "--worker=all", "--quiet"]


class Gcloud:
    """Calls gcloud, or with `dry_run` prints what it would call, one command a line."""

    def __init__(self, *, dry_run: bool = False):
        self.dry_run = dry_run
        if not dry_run and shutil.which("gcloud") is None:
            raise UserError(
                "gcloud is not on PATH. Install it (https://cloud.google.com/sdk/docs/install), "
                "run `gcloud auth login`, and try again; --dry-run works without it."
            )

    def project(self, named: str | None) -> str:
        """Returns the project: as named, from the environment, or as gcloud is configured."""
        project = named or os.environ.get("CLOUDSDK_CORE_PROJECT", "")
        if not project and not self.dry_run:
            project = self.ask(["gcloud", "config", "get-value", "project", "--quiet"]).strip()
        if project in ("", "(unset)"):
            raise UserError(
                "No project is named: give --project=ID, or set one by "
                "`gcloud config set project ID`, which --dry-run does not read."
            )
        return catalog.check_project(project)

    def ask(self, command: list[str], timeout_seconds: float = 600) -> str:
        """Returns what the command prints; its stderr goes into the error if it fails."""
        if self.dry_run:
            print(shlex.join(command))
            return ""
        return _call(command, timeout_seconds, capture=True)

    def do(self, command: list[str], timeout_seconds: float | None = 3600) -> None:
        """Runs the command; what it prints is seen while it runs."""
        if self.dry_run:
            print(shlex.join(command))
        else:
            sys.stdout.flush()
            _call(command, timeout_seconds, capture=False)

    def state(self, describe: list[str]) -> str:
        """Returns a state, or ABSENT where there is no such thing."""
        try:
            return self.ask(describe).strip()
        except GcloudError as error:
            if "NOT_FOUND" in error.stderr:
                return ABSENT
            raise

    def request(self, place: Slice) -> tuple[str, str, bool]:
        """Returns the state of the request, its accelerator type, and whether it was made here.

        The state is such as WAITING_FOR_RESOURCES or ACTIVE, or ABSENT.
        """
        state, kind, label, *_ = [*self.state(place.describe_queue()).split("\t"), "", ""]
        return state, kind, label == OURS

    def worker_state(self, place: Slice) -> tuple[str, str]:
        """Returns the state of the run on worker 0, and which run it is (`push.identity`).

        The state is one of "absent" (nothing was pushed), "installed", "running", "dead" (ended
        without an exit code, as when the VM was started anew) and "exited N". Where nothing was
        started the identity is "".
        """
        command = place.on_workers("0", "state")
        try:
            answer = self.ask(command)
        except GcloudError as error:
            if error.code == 127:  # the script is not there
                return "absent", ""
            raise
        if self.dry_run:
            return "", ""
        states = "absent|installed|running|dead|exited [0-9]+"
        found = re.search(rf"^simclr_jax state: ({states}) ?([0-9a-f]*)$", answer, re.MULTILINE)
        if found is None:
            raise GcloudError(command, 1, f"no state in {answer!r}")
        return found[1], found[2]


def check_ssh_key() -> None:
    """Refuses what gcloud refuses, or waits at forever, when it calls several workers at once."""
    private = Path(KEY).expanduser()
    public = private.with_suffix(".pub")
    if not (private.is_file() and public.is_file()):
        raise UserError(
            f"gcloud has no ssh key to reach several hosts at once. Make one by "
            f'`ssh-keygen -t rsa -f {KEY} -N ""`, then `ssh-add {KEY}` if an ssh agent runs.'
        )
    if os.environ.get("SSH_AUTH_SOCK"):
        agent = subprocess.run(["ssh-add", "-L"], capture_output=True, text=True, check=False)
        if public.read_text().split()[1] not in agent.stdout:
            raise UserError(
                "The ssh agent does not hold gcloud's key, without which gcloud does not reach "
                f"several hosts at once: `ssh-add {KEY}`."
            )


def _call(command: list[str], timeout_seconds: float | None, *, capture: bool) -> str:
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.PIPE,
        start_new_session=capture,
    ) as process:
        said: list[bytes] = []
        show = threading.Thread(target=_tee, args=(process.stderr, said), daemon=True)
        try:
            if capture:
                out, err = process.communicate(timeout=timeout_seconds)
            else:
                show.start()
                process.wait(timeout_seconds)
                show.join(timeout=5)  # an ssh that stays in the background keeps stderr open
                out, err = b"", b"".join(said)
        except BaseException as error:
            # The ssh that gcloud started holds the pipes, too: end both, or wait for it forever.
            (os.killpg if capture else os.kill)(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise GcloudError(command, 1, f"no answer in {timeout_seconds} seconds") from error
    if process.returncode:
        text = err.decode(errors="replace")
        raise GcloudError(command, process.returncode, text, seen=not capture)
    return out.decode(errors="replace")


def _tee(source: IO[bytes], said: list[bytes]) -> None:
    """Shows what a command writes, as it does so, and keeps it."""
    while chunk := os.read(source.fileno(), 65536):
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()
        said.append(chunk)
