"""A run that is ready to go: state, step, batches and hooks, with their files open."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from clu import parameter_overview
from etils import epath

from simclr_jax.build.experiment import Experiment, augmented_views, build_experiment, train_step
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import build_section
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch
from simclr_jax.data.place import place_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.evals.online import Apply, OnlineClassifier, OnlineKNN
from simclr_jax.parallel import hosts
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint import Checkpoints, SaveCheckpoint
from simclr_jax.train.health import StopOnNonFinite
from simclr_jax.train.hooks import LogMetrics, StopOnSigterm
from simclr_jax.train.loop import Hook
from simclr_jax.train.metrics import MetricsWriter, view_sheet
from simclr_jax.train.step import TrainStep
from simclr_jax.train.warm_start import replace_parts

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is ready to go: what `train.loop.fit` takes."""

    state: TrainState
    step: TrainStep
    batches: Iterator[Batch]
    num_steps: int
    hooks: list[Hook]


@contextlib.contextmanager
def open_run(config: Mapping[str, Any], workdir: str) -> Iterator[Run]:
    """Starts a run, or picks up the one that `workdir` holds; closes its files at the end.

    Raises:
      UserError: if the config is wrong, or `workdir` is another run's or cannot be written, or
        the processes of a run don't agree.
    """
    writer = MetricsWriter(workdir, writes=hosts.is_primary())
    with hosts.check_hosts_agree() as facts:
        experiment = build_experiment(config)
        online_evaluation = build_section(
            "config.evals", _online_evaluation, experiment.config["evals"], experiment, writer
        )
        facts.update(hosts.flatten(experiment.config), code=hosts.code_version(), workdir=workdir)
        facts["list of images"] = experiment.source.fingerprint
    for primary_turn in (True, False):
        with hosts.check_hosts_agree():
            if hosts.is_primary() == primary_turn:
                workdirs.claim(workdir, experiment.config, is_primary=primary_turn)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(workdir, keep=experiment.run.keep_checkpoints)
        )
        with hosts.check_hosts_agree() as facts:  # on disks of their own, they would differ
            first_step = checkpoints.latest_step() or 0
            facts["last checkpoint in --workdir"] = f"step {first_step}" if first_step else "none"
        with hosts.check_hosts_agree():
            state = _initial_state(experiment, checkpoints, first_step)
            writer.open(first_step=first_step)
        stack.enter_context(contextlib.closing(writer))
        host_batches = experiment.dataset.train_batches(
            experiment.source,
            experiment.policy.cuts,
            seed=experiment.run.seed,
            first_step=first_step,
            num_steps=experiment.num_steps,
            quarantine=Quarantine(
                epath.Path(workdir) / "quarantine.jsonl", process_index=jax.process_index()
            ),
        )
        stack.enter_context(contextlib.closing(host_batches))
        writer.write_image("views", view_sheet(augmented_views(experiment, 16)), first_step)
        log_metrics = LogMetrics(
            writer,
            experiment.schedule,
            every=experiment.run.log_every,
            first_step=first_step,
            num_steps=experiment.num_steps,
            batch_size=experiment.dataset.batch_size,
            num_examples=len(experiment.source),
        )
        stack.enter_context(contextlib.closing(log_metrics))
        save_checkpoint = SaveCheckpoint(
            checkpoints,
            every=experiment.run.checkpoint_every,
            num_steps=experiment.num_steps,
            batch_size=experiment.dataset.batch_size,
            listing=experiment.source.fingerprint,
        )
        stop_on_sigterm = StopOnSigterm(save_checkpoint)
        stack.enter_context(contextlib.closing(stop_on_sigterm))
        yield Run(
            state=state,
            step=train_step(experiment),
            batches=place_batches(host_batches, experiment.mesh),
            num_steps=experiment.num_steps,
            hooks=[
                StopOnNonFinite(),
                *online_evaluation,
                log_metrics,
                save_checkpoint,
                stop_on_sigterm,
            ],
        )


def _initial_state(experiment: Experiment, checkpoints: Checkpoints, first_step: int) -> TrainState:
    if experiment.method.grad_cache_chunks > 1:
        _explain_chunks(experiment)
    if first_step:
        state = checkpoints.restore(
            experiment.abstract_state, listing=experiment.source.fingerprint
        )
        outcome = "complete" if first_step == experiment.num_steps else "resumed"
        log.info("The run is %s: step %d of %d.", outcome, first_step, experiment.num_steps)
        return state
    # Before the first compilation, so that a wrong checkpoint costs no wait.
    restored = [start.restore(experiment.abstract_state) for start in experiment.warm_starts]
    params = experiment.abstract_state.params
    log.info(parameter_overview.get_parameter_overview(params, include_stats=False))
    shardings = jax.tree.map(lambda x: x.sharding, experiment.abstract_state)
    state = jax.jit(experiment.init, out_shardings=shardings)()
    for start, trees in zip(experiment.warm_starts, restored, strict=True):
        state = replace_parts(state, trees)
        log.info("From %s: %s.", start.checkpoint, ", ".join(trees))
    return state


def _explain_chunks(experiment: Experiment) -> None:
    normalizes = (
        jax.tree.leaves(experiment.network.shapes["batch_stats"])
        and experiment.method.train_batch_norm
    )
    log.info(
        "Gradient cache: the network sees %d parts of %d images, the loss all %d images. %s",
        experiment.method.grad_cache_chunks,
        experiment.dataset.batch_size // experiment.method.grad_cache_chunks,
        experiment.dataset.batch_size,
        "BatchNorm normalises each part with its own statistics; everything else is exact."
        if normalizes
        else "The gradient is that of the whole batch.",
    )


def _online_evaluation(
    experiment: Experiment,
    writer: MetricsWriter,
    *,
    knn: dict[str, Any] | None = None,
    classifier: dict[str, Any] | None = None,
) -> list[Hook]:
    """Is what the section `evals` calls: nothing to judge if it is empty."""
    hooks: list[Hook] = []
    if knn is not None:
        arguments = _evaluation_arguments(
            experiment, writer, "knn", experiment.network.encode, needs_train_labels=True
        )
        hooks.append(build_section("config.evals.knn", OnlineKNN, knn, *arguments))
    if classifier is not None:
        if experiment.network.model.classifier is None:
            raise UserError("config.evals.classifier needs config.heads.classifier.")
        arguments = _evaluation_arguments(
            experiment, writer, "classifier", experiment.network.classify, needs_train_labels=False
        )
        hooks.append(
            build_section("config.evals.classifier", OnlineClassifier, classifier, *arguments)
        )
    return hooks


def _evaluation_arguments(
    experiment: Experiment,
    writer: MetricsWriter,
    name: str,
    apply: Apply,
    *,
    needs_train_labels: bool,
) -> tuple[Any, ...]:
    """Returns the first arguments of an online evaluation, after a check of the images."""
    test = experiment.test_source
    labelled = experiment.source.class_names or not needs_train_labels
    if test is None or not test.class_names or not labelled:
        lacking = "config.data.test_split" if test is None else "labels"
        raise UserError(
            f"config.evals.{name} needs {lacking}: it judges labelled test images. Remove it from "
            "the config, or for a folder of class folders, set data.labels_from_folders=True "
            "and data.test_split."
        )
    return (
        writer,
        apply,
        experiment.dataset,
        experiment.network.evaluation.cuts,
        experiment.source,
        test,
        experiment.mesh,
        experiment.num_steps,
    )
