"""A run that is ready to go: state, step, batches and hooks, with their files open."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from clu import parameter_overview
from etils import epath

from simclr_jax.build.experiment import (
    Experiment,
    augmented_views,
    build_experiment,
    evaluated_variables,
    train_step,
)
from simclr_jax.build.resolve import require_same_encoder
from simclr_jax.build.schema import complete
from simclr_jax.core.compile import jit_once
from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.sections import build_section, config_errors_at
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch
from simclr_jax.data import listing as listings
from simclr_jax.data.folder import quote
from simclr_jax.data.look import look
from simclr_jax.data.place import place_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.evals.online import (
    Apply,
    EvaluationImages,
    OnlineEvaluation,
    OnlineProtocol,
    OnlineProtocols,
)
from simclr_jax.parallel import hosts
from simclr_jax.parallel.memory import require_room
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from simclr_jax.train.health import StopOnNonFinite
from simclr_jax.train.hooks import LogMetrics, SaveAtEarlyEnd, StopOnSignal, Waits
from simclr_jax.train.lease import acquire
from simclr_jax.train.loop import Hook, fit
from simclr_jax.train.metrics import MetricsWriter, view_sheet
from simclr_jax.train.saving import SaveCheckpoint
from simclr_jax.train.step import TrainStep
from simclr_jax.train.warm_start import replace_parts

log = logging.getLogger(__name__)
# Metrics that the sections of `config.evals` add.
EVALUATED = {"knn": ("knn_top1",), "classifier": ("test_top1", "test_top5")}


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
    with open_run(config, workdir) as run:
        hooks = [*run.hooks, *watch(run)]
        fit(run.state, run.step, run.batches, num_steps=run.num_steps, hooks=hooks)


@contextlib.contextmanager
def open_run(config: Mapping[str, Any], workdir: str) -> Iterator[Run]:
    """Starts a run, or picks up the one that `workdir` holds; closes its files at the end.

    Raises:
      UserError: if the config is wrong, or `workdir` is another run's or cannot be written, or
        the processes of a run don't agree.
      TryAgainError: if a run trains in `workdir` already.
    """
    writer = MetricsWriter(workdir, writes=hosts.is_primary())
    with hosts.check_hosts_agree() as facts:
        experiment = build_experiment(config)
        require_room(experiment.abstract_state)
        evaluations = online_evaluation(experiment, writer)
        facts.update(hosts.flatten(experiment.config), code=hosts.code_version(), workdir=workdir)
        facts["list of images"] = experiment.source.fingerprint
    with hosts.check_hosts_agree():
        if hosts.is_primary():
            _tell_images(experiment)
    with contextlib.ExitStack() as stack:
        lease = _take_turns(experiment, workdir, stack)
        checkpoint_writer = stack.enter_context(
            CheckpointWriter(
                workdir,
                keep=experiment.run.keep_checkpoints,
                keep_best=experiment.run.keep_best,
            )
        )
        with hosts.check_hosts_agree() as facts:  # on disks of their own, they would differ
            first_step = checkpoint_writer.latest_step() or 0
            facts["last checkpoint in --workdir"] = f"step {first_step}" if first_step else "none"
        with hosts.check_hosts_agree():
            state = _initial_state(experiment, Checkpoints(workdir), first_step)
            writer.open(first_step=first_step)
        stack.enter_context(contextlib.closing(writer))
        quarantine = Quarantine(
            epath.Path(workdir) / "quarantine.jsonl", process_index=jax.process_index()
        )
        _tell_unreadable(experiment, quarantine)
        stack.callback(_tell_unreadable, experiment, quarantine)
        host_batches = experiment.dataset.train_batches(
            experiment.source,
            experiment.policy.cuts,
            seed=experiment.run.seed,
            first_step=first_step,
            num_steps=experiment.num_steps,
            quarantine=quarantine,
        )
        stack.enter_context(contextlib.closing(host_batches))
        waits = Waits(place_batches(host_batches, experiment.mesh))
        writer.write_image("views", view_sheet(augmented_views(experiment, 16)), first_step)
        log_metrics = LogMetrics(
            writer,
            experiment.schedule,
            every=experiment.run.log_every,
            first_step=first_step,
            num_steps=experiment.num_steps,
            batch_size=experiment.dataset.batch_size,
            num_examples=len(experiment.source),
            count_unreadable=lambda: quarantine.count,
            seconds_waited=lambda: waits.seconds,
        )
        stack.enter_context(contextlib.closing(log_metrics))
        save_checkpoint = SaveCheckpoint(
            checkpoint_writer,
            writer,
            every=experiment.run.checkpoint_every,
            num_steps=experiment.num_steps,
            batch_size=experiment.dataset.batch_size,
            listing=experiment.source.fingerprint,
            evaluated=experiment.method.evaluated,
            keep_best=experiment.run.keep_best,
        )
        stop_on_signal = StopOnSignal(save_checkpoint, first_step=first_step)
        stack.enter_context(contextlib.closing(stop_on_signal))
        save_at_early_end = stack.enter_context(SaveAtEarlyEnd(save_checkpoint))
        yield Run(
            experiment=experiment,
            state=state,
            step=train_step(experiment),
            batches=stop_on_signal.answering(waits),
            num_steps=experiment.num_steps,
            hooks=[
                *lease,
                save_at_early_end,
                StopOnNonFinite(),
                *evaluations,
                log_metrics,
                save_checkpoint,
                stop_on_signal,
            ],
        )


def _take_turns(experiment: Experiment, workdir: str, stack: contextlib.ExitStack) -> list[Hook]:
    """Claims the workdir, the primary process first; returns the hook that renews its lease."""
    lease: list[Hook] = []
    for primary_turn in (True, False):
        with hosts.check_hosts_agree():
            if hosts.is_primary() == primary_turn:
                if primary_turn:
                    lease.append(stack.enter_context(contextlib.closing(acquire(workdir))))
                _claim(experiment, workdir, is_primary=primary_turn)
    return lease


def _claim(experiment: Experiment, workdir: str, *, is_primary: bool) -> None:
    """Makes the workdir this run's, from its newest whole checkpoint on."""
    claim = functools.partial(workdirs.claim, workdir, experiment.config, complete=complete)
    if not is_primary:
        claim(is_primary=False)
        return
    checkpoints = Checkpoints(workdir)
    step = checkpoints.last()
    workdirs.continued(workdir, experiment.config, complete=complete, step=step)
    data = experiment.dataset
    listing = listings.list_images(experiment.source, hashed=data.hash_images)
    kept = None
    if step and listing:
        kept = listings.continued(workdir, listing, step=step, accept=data.accept_images)
    if not kept:
        checkpoints.require_listing(step, experiment.source.fingerprint)
    claim(step=step)
    if listing:
        listings.write(workdir, kept or listing)
    checkpoints.set_aside_after(step)


def _initial_state(experiment: Experiment, checkpoints: Checkpoints, first_step: int) -> TrainState:
    if experiment.method.grad_cache_chunks > 1:
        _explain_chunks(experiment)
    if first_step:
        state = checkpoints.restore(first_step, experiment.abstract_state)
        if first_step == experiment.num_steps:
            log.info(
                "The run is complete: step %d of %d. To train on, raise --config.run.epochs.",
                first_step, experiment.num_steps,
            )  # fmt: skip
        else:
            log.info(
                "The run is resumed: step %d of %d, learning rate %.3g.",
                first_step, experiment.num_steps, experiment.schedule(first_step),
            )  # fmt: skip
        return state
    # Before the first compilation, so that a wrong checkpoint costs no wait.
    require_same_encoder(experiment.config)
    restored = [start.restore(experiment.abstract_state) for start in experiment.warm_starts]
    params = experiment.abstract_state.params
    log.info(parameter_overview.get_parameter_overview(params, include_stats=False))
    shardings = jax.tree.map(lambda x: x.sharding, experiment.abstract_state)
    state = jit_once(experiment.init, out_shardings=shardings)()
    for start, trees in zip(experiment.warm_starts, restored, strict=True):
        state = replace_parts(state, trees)
        log.info("From %s: %s.", start.checkpoint, ", ".join(trees))
    return state


def _tell_images(experiment: Experiment) -> None:
    source, test = experiment.source, experiment.test_source
    log.info(
        "Trains on %s, %d images, %s; %s.",
        source.name,
        len(source),
        f"classes {quote(source.class_names)}" if source.class_names else "without labels",
        f"judged on {test.name}, {len(test)} images" if test is not None else "nothing is judged",
    )
    for note in look(experiment.dataset, source, view_size=experiment.policy.size):
        log.warning("%s", note)


def _tell_unreadable(experiment: Experiment, quarantine: Quarantine) -> None:
    if quarantine.count:
        log.warning(
            "%d of %d images cannot be read: others stand in for them, and %s names them.",
            quarantine.count, len(experiment.source), quarantine.path,
        )  # fmt: skip


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


def online_evaluation(experiment: Experiment, writer: MetricsWriter) -> list[Hook]:
    """Returns the hooks of the section `evals`; none if it is empty.

    Raises:
      UserError: if the images or the network are not what a protocol needs.
    """
    protocols = build_section("config.evals", OnlineProtocols, experiment.config["evals"])
    _require_metric(experiment.run.keep_best, protocols)
    network, hooks = experiment.network, []
    if protocols.knn is not None:
        images = _evaluation_images(experiment, "knn", needs_train_labels=True)
        with config_errors_at("config.evals.knn"):
            protocols.knn.voters(images.train)
        hooks.append(_hook(experiment, writer, protocols.knn, network.encode, images))
    if protocols.classifier is not None:
        if network.model.classifier is None:
            raise UserError("config.evals.classifier needs config.heads.classifier.")
        images = _evaluation_images(experiment, "classifier", needs_train_labels=False)
        hooks.append(_hook(experiment, writer, protocols.classifier, network.classify, images))
    return hooks


def _require_metric(name: str, protocols: OnlineProtocols) -> None:
    added = [f for f in EVALUATED if getattr(protocols, f) is not None]
    known = ["loss", *(metric for protocol in added for metric in EVALUATED[protocol])]
    if name and name not in known:
        raise UserError(
            f"config.run.keep_best={name!r} must be one of {', '.join(known)}."
            f"{did_you_mean(name, known)} The sections of config.evals add others."
        )


def _hook(
    experiment: Experiment,
    writer: MetricsWriter,
    protocol: OnlineProtocol,
    apply: Apply,
    images: EvaluationImages,
) -> Hook:
    variables = functools.partial(evaluated_variables, experiment.method)
    return OnlineEvaluation(
        writer, protocol, apply, images, variables, num_steps=experiment.num_steps
    )


def _evaluation_images(
    experiment: Experiment, name: str, *, needs_train_labels: bool
) -> EvaluationImages:
    test = experiment.test_source
    labelled = experiment.source.class_names or not needs_train_labels
    if test is None or not test.class_names or not labelled:
        lacking = "config.data.test_split" if test is None else "labels"
        raise UserError(
            f"config.evals.{name} needs {lacking}: it judges labelled test images. Remove it from "
            "the recipe, or say which images, such as --config.data.split=train "
            "--config.data.test_split=test, and for class folders in them "
            "--config.data.labels_from_folders=True."
        )
    cuts = experiment.network.evaluation.cuts
    return EvaluationImages(experiment.dataset, cuts, experiment.source, test, experiment.mesh)
