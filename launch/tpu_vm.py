"""Runs simclr_jax on Cloud TPU VMs, through gcloud.

  python -m launch.tpu_vm create NAME --zone=us-west4-a --type=v5litepod-8 --spot
  python -m launch.tpu_vm push   NAME --zone=us-west4-a --mount=BUCKET
  python -m launch.tpu_vm run    NAME --zone=us-west4-a -- train --config=F --workdir=gs://B/D
  python -m launch.tpu_vm status|logs|stop|delete NAME --zone=us-west4-a
  python -m launch.tpu_vm watch  NAME --zone=us-west4-a --type=v5litepod-8 --spot -- train ...

`watch` does all of it: asks for the slice, pushes, runs, and when a spot slice is preempted asks
for another, pushes the same code and resumes from the last checkpoint, until the run ends. What
stands after `--` are the arguments of `python -m simclr_jax`. With --dry-run, the exact gcloud
commands are printed, one a line, and nothing is called.

`push` and `watch` mount a bucket with --mount=BUCKET, by gcsfuse, for reading, at /mnt/BUCKET on
every host. Records need it, since their reader cannot open gs://: --config.data.path=/mnt/BUCKET/D.

Needs no more than Python 3.11 and gcloud. `train` runs on every host of a slice, and the hosts
find each other. To reach several hosts (a size above 8) gcloud needs an ssh key that asks for
nothing:

  ssh-keygen -t rsa -f ~/.ssh/google_compute_engine -N ""
  ssh-add ~/.ssh/google_compute_engine                         # if an ssh agent runs

Exit codes: 0 done; 1 failed; 2 a mistake in what was asked, found before anything was changed.
`watch` returns the exit code of the run.
"""

import argparse
import posixpath
import re
import shlex
import sys
from collections.abc import Sequence

from launch.tpu import catalog, push, watch
from launch.tpu.gcloud import ABSENT, Gcloud, GcloudError, LaunchError, Slice, check_ssh_key
from simclr_jax.__main__ import VERBS
from simclr_jax.core.errors import UserError, did_you_mean

DONE, FAILED, USER_MISTAKE = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """Returns the parser of everything before `--`."""
    every = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    every.add_argument("name", help="name of the slice")
    every.add_argument("--zone", required=True, help="such as us-west4-a")
    every.add_argument("--project", help="project ID; default: as gcloud is configured")
    every.add_argument("--dry-run", action="store_true", help="print the commands, call nothing")

    pushed = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    pushed.add_argument("--mount", metavar="BUCKET", help="to read at /mnt/BUCKET")

    offer = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    offer.add_argument("--type", required=True, help="accelerator type, such as v5litepod-8")
    offer.add_argument("--runtime-version", default="", help="default: the one for the type")
    kind = offer.add_mutually_exclusive_group()
    for provisioning in ("on-demand", "spot", "reserved"):
        kind.add_argument(
            f"--{provisioning}", dest="provisioning", action="store_const", const=provisioning
        )
    offer.set_defaults(provisioning="on-demand")

    whole = argparse.ArgumentParser(
        prog="python -m launch.tpu_vm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, does: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=does, parents=parents, allow_abbrev=False)

    add("create", "ask for a slice, as a queued resource", every, offer)
    add("push", "bring code and environment to every worker", every, pushed)
    add("run", "start `python -m simclr_jax ...` on every worker", every)
    add("status", "state of the request, of the VMs and of the run", every)
    logs = add("logs", "what the run printed", every)
    logs.add_argument("--worker", default="0", help="a number, or all")
    logs.add_argument("--lines", type=int, default=100, help="how many of the last lines")
    logs.add_argument("--follow", action="store_true", help="go on until interrupted")
    watching = add(
        "watch", "create, push and run, again and again until done", every, pushed, offer
    )
    watching.add_argument("--max-restarts", type=int, default=100, help="then give up")
    add("stop", "stop the run on every worker, after a checkpoint; a watch resumes it", every)
    add("delete", "delete the VMs, their disks and the request; ends a watch of them", every)
    return whole


def main(argv: Sequence[str] | None = None, clock: watch.Clock | None = None) -> int:
    """Runs one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    asked, arguments = parser().parse_args(words[:cut]), words[cut + 1 :]
    try:
        return _command(asked, arguments, clock or watch.Clock())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except LaunchError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("Interrupted; what runs in the cloud goes on.", file=sys.stderr)
        return FAILED


def _command(asked: argparse.Namespace, arguments: list[str], clock: watch.Clock) -> int:
    catalog.check_name(asked.name)
    catalog.check_zone(asked.zone)
    runtime = bucket = ""
    if asked.command in ("create", "watch"):
        runtime = catalog.check_offer(asked.type, asked.zone, asked.runtime_version)
    if asked.command in ("push", "watch") and asked.mount is not None:
        bucket = catalog.check_bucket(asked.mount)
    if asked.command in ("run", "watch"):
        _check_arguments(arguments)
    elif arguments:
        raise UserError(f"{asked.command} takes nothing after --, not {shlex.join(arguments)}.")
    if asked.command == "watch":
        _check_watch(asked, bucket, arguments)
    if asked.command == "logs":
        _check_logs(asked)
    if runtime and catalog.several_hosts(asked.type) and not asked.dry_run:
        check_ssh_key()

    cloud = Gcloud(dry_run=asked.dry_run)
    place = Slice(asked.name, asked.zone, cloud.project(asked.project))
    if asked.command == "create":
        cloud.do(place.create(asked.type, runtime, asked.provisioning))
    elif asked.command == "push":
        push.send(cloud, place, b"" if asked.dry_run else push.pack(), bucket)
    elif asked.command == "run":
        _run(cloud, place, arguments)
    elif asked.command == "logs":
        follow = ["--follow=name"] if asked.follow else []
        tail = ["tail", f"--lines={asked.lines}", *follow, "simclr_jax/run.log"]
        cloud.do(place.ssh(asked.worker, *tail), timeout_seconds=None)
    elif asked.command == "status":
        return _status(cloud, place)
    elif asked.command == "stop":
        cloud.do(place.on_workers("all", "stop"))
    elif asked.command == "delete":
        cloud.do(place.delete())
    else:
        offer = (asked.type, runtime, asked.provisioning)
        code = b"" if asked.dry_run else push.pack()
        order = watch.Order(*offer, code, arguments, asked.max_restarts, bucket)
        return _watch(cloud, place, order, clock)
    return DONE


def _run(cloud: Gcloud, place: Slice, arguments: list[str]) -> None:
    if arguments[0] != "train":
        _check_hosts(cloud.ask(place.describe_type()).strip(), arguments)
    try:
        cloud.do(watch.start(place, arguments))
    except GcloudError as error:
        if error.code == 3:
            raise LaunchError(
                f"A run is under way on {place.name}: see `logs`, or `stop` it."
            ) from error
        if error.code in (4, 127):  # without code, or without even the worker's script
            raise LaunchError(f"There is no code on {place.name} yet: `push` first.") from error
        raise


def _status(cloud: Gcloud, place: Slice) -> int:
    request, _, _ = cloud.request(place)
    node = cloud.state(place.describe_node()) if request == "ACTIVE" or cloud.dry_run else "-"
    run, _ = cloud.worker_state(place) if node == "READY" or cloud.dry_run else ("-", "")
    if not cloud.dry_run:
        print(f"request {request}\nVMs     {node}\nrun     {run}")
    return FAILED if request == ABSENT else DONE


def _watch(cloud: Gcloud, place: Slice, order: watch.Order, clock: watch.Clock) -> int:
    if cloud.dry_run:
        watch.show(cloud, place, order)
        return DONE
    return watch.Watch(cloud, place, order, clock).until_done()


def _check_arguments(arguments: list[str]) -> None:
    """Finds in seconds what would else be found on a slice that is paid for."""
    if not arguments:
        raise UserError("Say what to run, after --, such as: -- train --config=F --workdir=D.")
    if arguments[0] not in VERBS:
        raise UserError(
            f"{arguments[0]!r} is no verb of simclr_jax.{did_you_mean(arguments[0], VERBS)} "
            f"Verbs are {', '.join(VERBS)}."
        )
    if arguments[0] in ("plan", "verify"):
        raise UserError(
            f"{arguments[0]} needs no TPU: `python -m simclr_jax {shlex.join(arguments)}` on this "
            "machine."
        )
    for name in ("config", "workdir") if arguments[0] == "train" else ():
        if not _flag(arguments, name):
            raise UserError(f"train needs --{name}.")
    config = _flag(arguments, "config")
    recipe = posixpath.normpath(config.split(":")[0])
    files = push.files() if config else []
    if config and not {recipe, f"configs/{recipe}.py"} & set(files):
        known = [name for name in files if name.startswith("configs/")]
        raise UserError(
            f"--config={config}: {recipe} is not among the files that are pushed, which are those "
            f"in this clone that git does not ignore.{did_you_mean(recipe, known)}"
        )
    data = _flag(arguments, "config.data.path")
    if data.startswith("gs://"):
        bucket, _, path = data.removeprefix("gs://").partition("/")
        raise UserError(
            f"--config.data.path={data}: data are read from a directory, not from gs://. Mount the "
            f"bucket, by --mount={bucket} of push or watch, and give "
            f"--config.data.path=/mnt/{bucket}/{path}."
        )
    workdir = _flag(arguments, "workdir")
    if workdir.startswith("gs://") and not workdir.removeprefix("gs://").strip("/"):
        raise UserError(f"--workdir={workdir} names no bucket: gs://BUCKET/DIRECTORY.")


def _check_watch(asked: argparse.Namespace, bucket: str, arguments: list[str]) -> None:
    _check_hosts(asked.type, arguments)
    workdir = _flag(arguments, "workdir")
    if not workdir.startswith("gs://"):
        raise UserError(
            f"--workdir={workdir} is on a disk that is deleted with the slice; "
            "watch needs --workdir=gs://BUCKET/DIRECTORY to resume from."
        )
    for word in arguments:
        there = re.search("(?:^|=)/mnt/([^/]+)", word)
        if there and there[1] != bucket:
            mounted = f"/mnt/{bucket} is" if bucket else "nothing is"
            raise UserError(f"{word}: {mounted} mounted; --mount={there[1]} does that.")
    if asked.max_restarts < 0:
        raise UserError(f"--max-restarts={asked.max_restarts}: give 0 or more.")


def _check_hosts(accelerator_type: str, arguments: list[str]) -> None:
    if arguments[0] != "train" and catalog.several_hosts(accelerator_type):
        raise UserError(
            f"{arguments[0]} runs on one host, and {accelerator_type} has several, which only "
            "train joins: use a slice of one host, such as v5litepod-8, or this machine."
        )


def _flag(arguments: list[str], name: str) -> str:
    """Returns the value of --name=value or --name value, the last one if several, or ""."""
    value = ""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        stripped = word.removeprefix("-").removeprefix("-")
        if word.startswith("-") and stripped.split("=")[0] == name:
            value = stripped.partition("=")[2] if "=" in stripped else following
    return value


def _check_logs(asked: argparse.Namespace) -> None:
    if asked.worker != "all" and not asked.worker.isdecimal():
        raise UserError(f"--worker={asked.worker}: give the number of a worker, or all.")
    if asked.lines < 1:
        raise UserError(f"--lines={asked.lines}: give 1 or more.")


if __name__ == "__main__":
    sys.exit(main())
