"""Several processes that act as one: how they find each other, and whether they agree."""

import collections
import contextlib
import glob
import hashlib
import importlib.metadata
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.core.errors import TryAgainError, UserError

TRY_AGAIN = 75  # exit code: EX_TEMPFAIL of sysexits.h; it may go well the next time
SHUTDOWN_SECONDS = 60  # a process that fails takes the others along after this time
T = TypeVar("T")
# A process that is silent for so long is lost: JAX then aborts the others, if `watch` has not ended
# them before, as when it hangs.
HEARTBEAT_SECONDS = 40
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy")


def init_distributed(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_seconds: int,
) -> None:
    """Joins the processes of this run, before anything touches a device.

    Without arguments, joins what the environment describes: the hosts of a Cloud TPU slice, or
    the tasks of a SLURM step. Elsewhere there is but this process, and nothing to do.

    Args:
      coordinator: HOST:PORT where process 0 listens.
      num_processes: how many processes the whole run has.
      process_id: number of this process, from 0.
      timeout_seconds: how long to wait until all have started; then this process ends with
        exit code 75 and says so.

    Raises:
      UserError: if only some of the three are given, or one is wrong.
      SystemExit: with the same exit code, if they cannot be joined.
    """
    given = {
        "coordinator": coordinator, "num_processes": num_processes, "process_id": process_id
    }  # fmt: skip
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if not _in_a_cluster():
            return
    elif missing:
        raise UserError(f"{' and '.join(missing)} missing: the three of {[*given]} go together.")
    else:
        _check(str(coordinator), int(num_processes or 0), int(process_id or 0))
    # When its own time is over, JAX aborts without a word of help.
    alarm = threading.Timer(timeout_seconds, _give_up, (given, timeout_seconds))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout_seconds + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        # A TPU outside Cloud TPU's own machines, such as a notebook's; fine if it is all there is.
        if jax.process_count() > 1:
            raise UserError(
                f"This is one of {jax.process_count()} hosts, and the environment does not say "
                f"how they find each other ({error}); give {', '.join(f'--{n}' for n in given)}."
            ) from error
    except RuntimeError as error:  # a port in use, a host that went away: so it may pass
        where = "" if coordinator is None else f" at --coordinator={coordinator}"
        print(f"error: cannot join the other processes{where}: {error}", file=sys.stderr)
        sys.exit(TRY_AGAIN)
    else:
        jax.devices()  # waits for the devices of all processes
    finally:
        alarm.cancel()


def is_primary() -> bool:
    """Whether this is process 0, which writes what there is once per run."""
    return jax.process_index() == 0


@contextlib.contextmanager
def check_hosts_agree() -> Iterator[dict[str, str]]:
    """Runs a block on all processes, and goes on only if it succeeds and ends alike on each.

    Every process must enter it at the same point. The block fills in facts about what this
    process is about to do, by name, such as {"config.run.seed": "0"}.

    Raises:
      UserError: if the block raises anything on any process, naming that process and its host (the
        process itself raises its own error if that is no UserError); or if facts differ, naming the
        odd process, its value and that of the others.
      TryAgainError: if that is what the block raises on any process.
    """
    facts: dict[str, str] = {}
    try:
        yield facts
    except (UserError, TryAgainError) as error:
        _require_agreement({}, error=str(error), again=isinstance(error, TryAgainError))
        raise
    except Exception as error:
        with contextlib.suppress(UserError, TryAgainError):
            _require_agreement({}, error=f"{type(error).__name__}: {error}")
        raise
    _require_agreement(facts)


def end_together(batches: Iterator[T], mesh: Mesh) -> Iterator[T]:
    """Yields batches until one process has no more, and ends on all after the same batch.

    Whether all have a batch is found out by their devices while the batch before it is trained
    on, so that nobody waits: an all-reduce of one bool a step.

    Args:
      batches: batches of this process; where they end without an error, they do so on all.
      mesh: mesh of the devices that train.

    Raises:
      Exception: what ended them on this process; on others an error as of `check_hosts_agree`.
    """
    if jax.process_count() == 1:
        yield from batches
        return
    by_device, everywhere = NamedSharding(mesh, P(mesh.axis_names)), NamedSharding(mesh, P())
    vote = lambda have: jax.make_array_from_process_local_data(
        by_device, np.full(len(mesh.local_devices), have)
    )
    votes = {have: vote(have) for have in (True, False)}
    all_have = jax.jit(jnp.all, out_shardings=everywhere)

    def ask() -> _Ahead | None:
        try:
            batch = next(batches)
        except StopIteration:
            return None
        except Exception as error:  # whatever it is, the others must not wait for this process
            return _Ahead(None, error, all_have(votes[False]))
        return _Ahead((batch,), None, all_have(votes[True]))

    ahead = ask()
    while ahead is not None:
        batch, error, all_have_it = ahead
        if not all_have_it:
            with check_hosts_agree():
                if error is not None:
                    raise error
        ahead = ask()
        yield from batch or ()


def code_version() -> str:
    """Returns a hash of this package's source and of the versions of JAX and its like."""
    root = Path(__file__).parents[1]
    sha256 = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sha256.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # libtpu on a CPU
            sha256.update(f"{package}=={importlib.metadata.version(package)}".encode())
    return sha256.hexdigest()[:16]


def flatten(config: Any, prefix: str = "config") -> dict[str, str]:
    """Returns the values of a nested config as text, by name, for `check_hosts_agree`."""
    if not isinstance(config, Mapping):
        return {prefix: repr(config)}
    return {k: v for key in config for k, v in flatten(config[key], f"{prefix}.{key}").items()}


class _Ahead(NamedTuple):
    """The next batch of this process, or what ended them, and whether all processes have one."""

    batch: tuple[Any] | None
    error: Exception | None
    all_have_it: jax.Array


def _in_a_cluster() -> bool:
    on_tpu = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    in_slurm = int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in os.environ
    return bool(on_tpu or in_slurm)


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    if not re.fullmatch(r"[^\s:]+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator!r} must be HOST:PORT, such as 10.0.0.2:8476.")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} must be from 0 to {num_processes - 1}, one less than "
            "--num_processes."
        )


def _give_up(given: Mapping[str, Any], timeout_seconds: int) -> None:
    where = f" {given['coordinator']}" if given["coordinator"] else ""
    total = given["num_processes"] or os.environ.get("SLURM_NTASKS", "the")
    print(
        f"error: after {timeout_seconds} s not all of {total} processes have started. This is "
        f"{'process ' + str(given['process_id']) if where else 'one'} on "
        f"{socket.gethostname()}. Look at the logs of the others, and whether they reach the "
        f"coordinator{where}; --startup_timeout=SECONDS waits longer.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(TRY_AGAIN)  # the wait is in native code, which no exception reaches


def _require_agreement(facts: Mapping[str, str], error: str = "", *, again: bool = False) -> None:
    if jax.process_count() == 1:
        return
    mine = {"host": socket.gethostname(), "facts": facts, "error": error, "again": again}
    said = [json.loads(text) for text in gather(json.dumps(mine))]
    failed = [f"{_name(said, i)}: {one['error']}" for i, one in enumerate(said) if one["error"]]
    if failed:
        kind = TryAgainError if any(one["again"] for one in said) else UserError
        raise kind(f"{len(failed)} of {len(said)} processes cannot go on. {failed[0]}")
    differences = _differences(said)
    if differences:
        raise UserError(
            f"The {len(said)} processes are not about to do the same:\n  "
            + "\n  ".join(differences[:8])
            + "\nStart all with the same command, code and data."
        )


def gather(text: str) -> list[str]:
    """Returns the texts of all processes, in their order; each must ask at the same point."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def _name(said: list[dict[str, Any]], index: int) -> str:
    return f"process {index} ({said[index]['host']})"


def _differences(said: list[dict[str, Any]]) -> list[str]:
    lines = []
    for fact in dict.fromkeys(name for one in said for name in one["facts"]):
        values = [one["facts"].get(fact, "(absent)") for one in said]
        # The most common value is what was meant; process 0 decides a tie.
        (usual, _), *others = collections.Counter(values).most_common()
        for value, _ in others:
            who = ", ".join(_name(said, i) for i, got in enumerate(values) if got == value)
            lines.append(f"{fact} is {value} on {who}, and {usual} on others")
    return lines
