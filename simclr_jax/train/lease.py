"""D/lease.json: who trains in a workdir, so that no second run writes to it.

The file says which process on which host, and changes every few seconds while that one lives. It
needs no locks of the file system, which buckets and network disks do not have: who finds it waits
for a change, by its own clock, and takes over what does not change.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from etils import epath

from simclr_jax.core.errors import TryAgainError, UserError
from simclr_jax.core.files import file_system, in_a_bucket, reason, write_text
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Metrics

log = logging.getLogger(__name__)
RENEW_SECONDS = 15.0
EXPIRES_SECONDS = 60.0  # after the last change
SETTLE_SECONDS = 2.0  # until of two that take over at once, one sees the other
LOOK_SECONDS = 1.0
# What a file stands for that is about to be written, or was cut.
UNKNOWN = {
    "id": "", "host": "an unknown host", "pid": 0, "started": 0.0, "machine": "", "renewed": 0
}  # fmt: skip
SAME_START_SECONDS = 5.0  # the system's clock may have been set since


class Lease:
    """The right to write to a workdir; a hook, which stops the run when it is lost."""

    def __init__(self, path: epath.Path, content: dict[str, Any]) -> None:
        """Starts to renew a lease; use `acquire` to get one."""
        self._path = path
        self._content = content
        self._taken_by = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._renew_for_ever, name="lease", daemon=True)
        self._thread.start()

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Stops the run if another one has taken over.

        Raises:
          TryAgainError: naming the other run.
        """
        if self._taken_by:
            raise TryAgainError(
                f"Stopped at step {step}, without a checkpoint: {self._path.parent} has been taken "
                f"over by {self._taken_by}, since this run did not renew its lease in time."
            )

    def close(self) -> None:
        """Gives the workdir back."""
        self._closing.set()
        self._thread.join(timeout=RENEW_SECONDS)
        try:
            if _read(self._path).get("id") == self._content["id"]:
                self._path.unlink()
        except OSError as error:  # it expires by itself
            log.warning("%s could not be removed: %s.", self._path, reason(error))

    def _renew_for_ever(self) -> None:
        while not self._closing.wait(RENEW_SECONDS):
            try:
                there = _read(self._path)
                if there.get("id", self._content["id"]) != self._content["id"]:
                    self._taken_by = _name(there)
                    return
                self._content["renewed"] += 1
                _write(self._path, self._content)
            except Exception as error:  # of any storage: it is tried again
                log.warning("The lease %s could not be renewed: %s.", self._path, error)


def acquire(workdir: epath.PathLike, *, sleep: Callable[[float], None] = time.sleep) -> Lease:
    """Gets the right to write to a workdir, and waits for it if it is not known to be free.

    The lease of a process of this machine that has died is taken over at once, that of another
    machine when it has not changed for a minute.

    Args:
      workdir: directory of a run; it is made if it is not there.
      sleep: waits for seconds.

    Raises:
      TryAgainError: if another run lives, with its host, process and start.
      UserError: if the directory cannot be written.
    """
    path = epath.Path(workdir) / "lease.json"
    mine = {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "machine": _machine(),
        "renewed": 0,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _create(path, mine):
            theirs = _read(path)
            if theirs and (_is_dead(theirs, mine) or _has_expired(path, theirs, mine, sleep)):
                log.warning("This run takes the place of %s which is gone.", _name(theirs))
                _write(path, mine)
                sleep(SETTLE_SECONDS)
                if _read(path).get("id") == mine["id"]:
                    break
    except OSError as error:
        raise UserError(f"Cannot write to --workdir={workdir}: {reason(error)}.") from error
    return Lease(path, mine)


def _has_expired(
    path: epath.Path, theirs: dict[str, Any], mine: dict[str, Any], sleep: Callable[[float], None]
) -> bool:
    """Watches a lease until it is known to be alive, which raises, or dead; or given back."""
    if not _is_here(theirs, mine):
        log.info("Waiting until the lease of %s changes or expires ...", _name(theirs))
        for _ in range(round(EXPIRES_SECONDS / LOOK_SECONDS)):
            sleep(LOOK_SECONDS)
            now = _read(path)
            if now != theirs:
                break
        else:
            return True
        if not now:
            return False
        theirs = now
    raise TryAgainError(
        f"{path.parent} is in use: {_name(theirs)} trains in it. Wait until it has ended, stop it, "
        "or use another --workdir."
    )


def _is_here(theirs: dict[str, Any], mine: dict[str, Any]) -> bool:
    return (theirs["host"], theirs["machine"]) == (mine["host"], mine["machine"])


def _is_dead(theirs: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Whether a lease is that of a process of this machine that has ended."""
    if not _is_here(theirs, mine):
        return False
    try:
        process = psutil.Process(theirs["pid"])
        ended = process.status() == psutil.STATUS_ZOMBIE
        return ended or abs(process.create_time() - theirs["started"]) > SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return True


def _machine() -> str:
    """Returns what tells this machine, and its namespace of process numbers, from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # outside Linux the name of the host has to do
        return ""


def _name(content: dict[str, Any]) -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(content["started"]))
    return f"process {content['pid']} on {content['host']}, started {started},"


def _create(path: epath.Path, content: dict[str, Any]) -> bool:
    """Writes a lease if there is none; of several that try, one succeeds."""
    try:
        file = file_system(path).open(str(path), "xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(json.dumps(content).encode())
    except FileExistsError:  # a bucket says so at the end
        return False
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _write(path: epath.Path, content: dict[str, Any]) -> None:
    if in_a_bucket(path):  # an object appears whole; no renaming every few seconds
        file_system(path).pipe_file(str(path), json.dumps(content).encode())
    else:
        write_text(path, json.dumps(content))


def _read(path: epath.Path) -> dict[str, Any]:
    """Returns a lease, or {} if there is none."""
    try:
        return UNKNOWN | json.loads(file_system(path).cat_file(str(path)))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        return UNKNOWN
