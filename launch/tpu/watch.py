"""Keeps a run going: asks for the slice, starts the run, and does both again when it is lost.

The state lives in the cloud, in the request, the VMs and the marks of the run on worker 0; the
loop only looks at it and takes the next step. So a watch that was itself stopped can be started
again at any moment: it knows its run by the hash of code and arguments, and one that comes late
returns at once what the run returned.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from launch.tpu import push
from launch.tpu.gcloud import ABSENT, Gcloud, GcloudError, LaunchError, Slice

POLL_SECONDS = 60.0
MAX_PAUSE_SECONDS = 600.0
MAX_FAILURES = 6  # commands that fail in a row: about 16 minutes of pauses
# All others are worth a restart: 143 after SIGTERM, 75 when some host came late or another run
# holds the workdir, and when a host is lost, the signals that end it (137) and its peers (134), or
# no code at all.
FINAL_ENDS = ("exited 0", "exited 1", "exited 2")
SHORT_LOOKS = 10  # a run that was seen to run less often ended within about 10 minutes
MAX_SHORT_RUNS = 3  # in a row on one slice
LOST_REQUESTS = ("FAILED", "SUSPENDED")
LOST_NODES = ("PREEMPTED", "TERMINATED", ABSENT)
STOPPED_NODES = ("STOPPING", "STOPPED")  # by somebody: a spot VM cannot be stopped


class Clock:
    """Time as it passes; tests bring their own."""

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)

    def say(self, message: str) -> None:
        """Prints a line with the time of day."""
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}", flush=True)


@dataclass(frozen=True)
class Order:
    """What to ask for, and what to run on it.

    The code is packed once (`push.pack`), so that a resumed run continues with the code that it
    began with; the arguments are those of `python -m simclr_jax`.
    """

    accelerator_type: str
    runtime_version: str
    provisioning: str
    code: bytes
    arguments: Sequence[str]
    max_restarts: int
    bucket: str  # to be mounted, or ""


def pause_seconds(attempt: int) -> float:
    """Returns the pause after the n-th attempt in a row that brought nothing: 30, 60, ... 600."""
    return min(30.0 * 2 ** (attempt - 1), MAX_PAUSE_SECONDS)


class Watch:
    """One slice under watch, and how often it had to be helped."""

    def __init__(self, cloud: Gcloud, place: Slice, order: Order, clock: Clock):
        self.cloud = cloud
        self.place = place
        self.order = order
        self.clock = clock
        self.restarts = 0
        self.needs_slice = True  # no slice was seen, or asked for, since there was to be a new one
        self.ours = False  # the request was made by this program
        self.lost_in_a_row = 0  # slices lost in a row before any was ready
        self.half_begun = False  # a push or start failed: some workers run, others not
        self.looks = 0  # at this run, while it was running
        self.short_runs = 0  # in a row on one slice
        self.failed_once = False  # this run failed, which was looked at only once
        self.last_seen = ""
        self.identity = push.identity(order.code, order.arguments)

    def until_done(self) -> int:
        """Returns the exit code of the run.

        Raises:
            GcloudError: a command failed `MAX_FAILURES` times in a row, or in a way that no
                repetition mends.
            LaunchError: the slice or the run were lost more than `max_restarts` times, the run
                always soon; or the slice is another one, does something else, or was stopped or
                deleted by somebody.
        """
        failures = 0
        while True:
            try:
                code = self.step()
                failures = 0
            except GcloudError as error:
                failures += 1
                if error.permanent or failures >= MAX_FAILURES:
                    raise
                self.clock.say(f"failed ({failures} of at most {MAX_FAILURES} times): {error}")
                self.clock.sleep(pause_seconds(failures))
                continue
            if code is not None:
                return code
            self.clock.sleep(POLL_SECONDS)

    def step(self) -> int | None:
        """Looks once and does what is due; returns the run's exit code when it has ended."""
        request, accelerator_type, self.ours = self.cloud.request(self.place)
        if request == ABSENT:
            self._create()
            return None
        if accelerator_type != self.order.accelerator_type:
            raise LaunchError(
                f"{self.place.name} is there, as {accelerator_type or 'something else'} and not as "
                f"{self.order.accelerator_type}: take another name, or `delete` it first."
            )
        if request != "DELETING":
            self.needs_slice = False
        if request in LOST_REQUESTS:
            self._replace(f"the request is {request}")
        elif request != "ACTIVE":
            self._see(f"the request is {request}")
        else:
            return self._look_at_node(self.cloud.state(self.place.describe_node()))
        return None

    def _look_at_node(self, node: str) -> int | None:
        if node in LOST_NODES:
            self._replace(f"the VMs are {node}")
        elif node in STOPPED_NODES:
            raise LaunchError(f"The VMs are {node}, by somebody's hand: start or delete them.")
        elif node != "READY":
            self._see(f"the VMs are {node}")
        else:
            self.lost_in_a_row = 0
            return self._look_at_run(*self.cloud.worker_state(self.place))
        return None

    def _look_at_run(self, run: str, identity: str) -> int | None:
        mine = identity == self.identity
        if run == "running" and not mine:
            raise LaunchError(
                f"{self.place.name} is running something else: with other arguments, or with code "
                "that has changed since. To go on with that run, watch it with its arguments, from "
                "the code that it was started with; to end it, `stop` it, and watch again."
            )
        if not mine or self.half_begun:
            self._begin()
        elif run == "running":
            self.looks += 1
            self._see("the run is running")
        elif run not in FINAL_ENDS:
            self._count(f"the run is {run}")
            self._check_progress(run)
            self._begin()
        elif run == "exited 1" and not self.failed_once:
            self.failed_once = True
            self._see("the run failed; if the slice is being taken away, the next look shows it")
        else:
            code = int(run.removeprefix("exited "))
            self.clock.say(f"the run ended with exit code {code}")
            return code
        return None

    def _create(self) -> None:
        if not self.needs_slice:  # a preempted request stays, as SUSPENDED
            raise LaunchError(f"Somebody deleted {self.place.name}, so this watch of it ends.")
        self.clock.say(f"asking for {self.order.accelerator_type} ({self.order.provisioning})")
        self.cloud.ask(create(self.place, self.order))
        self.needs_slice = False

    def _replace(self, reason: str) -> None:
        if not self.ours:
            raise LaunchError(
                f"{reason}, and {self.place.name} was not asked for by this program, which does "
                "not delete it for a new one: do that, and watch again."
            )
        self._count(reason)
        self.short_runs = 0  # what ends soon on one slice may go well on the next
        self.lost_in_a_row += 1
        if self.lost_in_a_row > 1:
            self.clock.sleep(pause_seconds(self.lost_in_a_row - 1))
        self.needs_slice = True
        self.cloud.ask(self.place.delete())
        self._create()

    def _begin(self) -> None:
        self.clock.say("pushing the code and starting the run")
        self.half_begun = True
        begin(self.cloud, self.place, self.order)
        self.half_begun = self.failed_once = False
        self.looks = 0

    def _check_progress(self, run: str) -> None:
        self.short_runs = self.short_runs + 1 if self.looks < SHORT_LOOKS else 0
        if self.short_runs == MAX_SHORT_RUNS:
            raise LaunchError(
                f"Gave up: the run is {run}, and {MAX_SHORT_RUNS} times in a row it has ended soon "
                "after its start: see `logs`, then `delete` the slice."
            )

    def _count(self, reason: str) -> None:
        self.restarts += 1
        if self.restarts > self.order.max_restarts:
            raise LaunchError(f"Gave up: {reason}, after --max-restarts={self.order.max_restarts}.")
        self._see(f"{reason}: restart {self.restarts} of at most {self.order.max_restarts}")

    def _see(self, what: str) -> None:
        if what != self.last_seen:
            self.clock.say(what)
        self.last_seen = what


def create(place: Slice, order: Order) -> list[str]:
    """Returns the command that asks for the slice of an order."""
    return place.create(order.accelerator_type, order.runtime_version, order.provisioning)


def start(place: Slice, arguments: Sequence[str]) -> list[str]:
    """Returns the command that starts the run on every worker."""
    return place.on_workers("all", "start", *arguments)


def begin(cloud: Gcloud, place: Slice, order: Order) -> None:
    """Brings the code to every worker and starts the run, whatever each of them does now.

    A worker may have run on when the run ended on worker 0, or have been started anew.
    """
    push.send(cloud, place, order.code, order.bucket, stop_first=True)
    cloud.do(start(place, order.arguments))


def show(cloud: Gcloud, place: Slice, order: Order) -> None:
    """Prints, for a dry run, what a watch calls if the slice comes and stays."""
    for command in (create(place, order), place.describe_queue(), place.describe_node()):
        cloud.ask(command)
    begin(cloud, place, order)
    cloud.worker_state(place)
