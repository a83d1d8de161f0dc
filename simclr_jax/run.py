"""A run that is ready to go: state, step, batches and hooks, with their files open."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from clu import parameter_overview

from simclr_jax.build.announce import (
    announce_grad_cache,
    announce_images,
    announce_resume,
)
from simclr_jax.build.checks import check_needed_labels
from simclr_jax.build.claim import claim
from simclr_jax.build.experiment import Experiment, build_experiment, train_step
from simclr_jax.build.guards import save_checkpoints, stop_non_finite
from simclr_jax.build.online import online_evaluation
from simclr_jax.build.preview import augmented_views
from simclr_jax.build.resolve import require_same_encoder, require_same_tokens
from simclr_jax.build.stream import open_batches
from simclr_jax.core.compile import jit_once
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch
from simclr_jax.data.records import examples_of, has_texts
from simclr_jax.parallel import hosts
from simclr_jax.parallel.memory import require_room
from simclr_jax.parallel.watch import end_with_others
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from simclr_jax.train.health import RollBackError
from simclr_jax.train.hooks import LogMetrics, SaveAtEarlyEnd, StopOnSignal
from simclr_jax.train.loop import Hook, fit
from simclr_jax.train.metrics import MetricsWriter, view_sheet
from simclr_jax.train.step import TrainStep
from simclr_jax.train.warm_start import replace_parts

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is ready to go: what `train.loop.fit` takes, and what it was built from."""

    experiment: Experiment
    state: TrainState
    step: TrainStep
    batches: Iterator[Batch]
    num_steps: int
    hooks: list[Hook]


def train(
    config: Mapping[str, Any],
    workdir: str,
    *,
    watch: Callable[[Run], Sequence[Hook]] = lambda run: (),
) -> None:
    """Trains what a config describes, to the end, or goes on with the run that `workdir` holds.

    Args:
      config: sections, see `build.schema`.
      workdir: directory of the run.
      watch: returns hooks that come after the run's own.

    Raises:
      UserError: as `open_run` does, or, after a checkpoint, if too many images are unreadable.
      OutageError: after a checkpoint, if the storage of the images is away for too long.
      TryAgainError: if a run trains in `workdir` already.
      NonFiniteError: if the loss is not finite any more.
      Terminated: on a signal, after a checkpoint.
    """
    while True:
        try:
            with open_run(config, workdir) as run:
                hooks = [*run.hooks, *watch(run)]
                fit(run.state, run.step, run.batches, num_steps=run.num_steps, hooks=hooks)
            return
        except RollBackError as error:
            log.warning("%s", error)


@contextlib.contextmanager
def open_run(config: Mapping[str, Any], workdir: str) -> Iterator[Run]:
    """Starts a run, or picks up the one that `workdir` holds; closes its files at the end.

    Raises:
      UserError: if the config is wrong, or `workdir` is another run's or cannot be written, or
        the processes of a run don't agree.
      TryAgainError: if a run trains in `workdir` already.
    """
    started = time.monotonic()
    writer = MetricsWriter(workdir, writes=hosts.is_primary())
    with hosts.check_hosts_agree() as facts:
        experiment = build_experiment(config)
        require_room(experiment.abstract_state)
        evaluations = online_evaluation(experiment, writer)
        facts.update(hosts.flatten(experiment.config), code=hosts.code_version(), workdir=workdir)
        facts["list of images"] = experiment.source.fingerprint
    with hosts.check_hosts_agree():
        if hosts.is_primary():
            if experiment.method.needs_labels:
                check_needed_labels(experiment.config["method"]["name"], experiment.source)
            announce_images(experiment)
    with contextlib.ExitStack() as stack:
        stack.enter_context(end_with_others())
        lease = claim(experiment, workdir, stack)
        keep, keep_best = experiment.run.keep_checkpoints, experiment.run.keep_best
        checkpoint_writer = stack.enter_context(
            CheckpointWriter(workdir, keep=keep, keep_best=keep_best)
        )
        with hosts.check_hosts_agree() as facts:  # on disks of their own, they would differ
            first_step = checkpoint_writer.latest_step() or 0
            facts["last checkpoint in --workdir"] = f"step {first_step}" if first_step else "none"
        with hosts.check_hosts_agree():
            state = _initial_state(experiment, Checkpoints(workdir), first_step)
            writer.open(first_step=first_step)
        stack.enter_context(contextlib.closing(writer))
        waits, unreadable, ledger = open_batches(experiment, workdir, first_step, stack)
        _show_views(experiment, writer, first_step)
        log_metrics = LogMetrics(
            writer,
            experiment.schedule,
            state.params,
            every=experiment.run.log_every,
            first_step=first_step,
            num_steps=experiment.num_steps,
            batch_size=experiment.dataset.batch_size,
            num_examples=len(experiment.source),
            examples=examples_of(experiment.policy.cuts),
            count_unreadable=unreadable.count,
            seconds_waited=lambda: waits.seconds,
            started=started,
        )
        stack.enter_context(contextlib.closing(log_metrics))
        on_non_finite = stop_non_finite(experiment, workdir)
        save_checkpoint = save_checkpoints(experiment, checkpoint_writer, writer, on_non_finite)
        stop_on_signal = StopOnSignal(save_checkpoint, first_step=first_step)
        stack.enter_context(contextlib.closing(stop_on_signal))
        save_at_early_end = stack.enter_context(SaveAtEarlyEnd(save_checkpoint))
        run = Run(
            experiment=experiment,
            state=state,
            step=train_step(experiment),
            batches=stop_on_signal.answering(save_at_early_end.watching(waits)),
            num_steps=experiment.num_steps,
            hooks=[
                *lease,
                save_at_early_end,
                on_non_finite,
                *evaluations,
                log_metrics,
                *ledger,
                unreadable,
                save_checkpoint,
                stop_on_signal,
            ],
        )
        try:
            yield run
        except RollBackError as error:
            save_checkpoint.roll_back(error.step, Checkpoints(workdir), experiment.abstract_state)
            raise


def _show_views(experiment: Experiment, writer: MetricsWriter, first_step: int) -> None:
    """Writes a picture of some views; texts have none."""
    if not has_texts(experiment.source):
        writer.write_image("views", view_sheet(augmented_views(experiment, 16)), first_step)


def _initial_state(experiment: Experiment, checkpoints: Checkpoints, first_step: int) -> TrainState:
    announce_grad_cache(experiment)
    if first_step:
        state = checkpoints.restore(first_step, experiment.abstract_state)
        announce_resume(experiment, first_step)
        return state
    # Before the first compilation, so that a wrong checkpoint costs no wait.
    require_same_encoder(experiment.config)
    require_same_tokens(experiment.config)
    restored = [start.restore(experiment.abstract_state) for start in experiment.warm_starts]
    params = experiment.abstract_state.params
    log.info(parameter_overview.get_parameter_overview(params, include_stats=False))
    shardings = jax.tree.map(lambda x: x.sharding, experiment.abstract_state)
    state = jit_once(experiment.init, out_shardings=shardings)()
    for start, trees in zip(experiment.warm_starts, restored, strict=True):
        state = replace_parts(state, trees)
        log.info("From %s: %s.", start.checkpoint, ", ".join(trees))
    return state
