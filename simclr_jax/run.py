"""A run that is ready to go: state, step, batches and hooks, with their files open."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from clu import parameter_overview
from etils import epath

from simclr_jax.build.parts import Parts, augmented_views, parts, train_step
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import call
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
    writer = MetricsWriter(workdir, writes=hosts.leads())
    with hosts.agreement() as facts:
        p = parts(config)
        online_evaluation = call("config.evals", _online_evaluation, p.config["evals"], p, writer)
        facts.update(hosts.flatten(p.config), code=hosts.code_version(), workdir=workdir)
        facts["list of images"] = p.source.fingerprint
    for leads_turn in (True, False):
        with hosts.agreement():
            if hosts.leads() == leads_turn:
                workdirs.claim(workdir, p.config, leads=leads_turn)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir, keep=p.run.keep_checkpoints))
        with hosts.agreement() as facts:  # on disks of their own, they would differ
            first_step = checkpoints.latest_step() or 0
            facts["last checkpoint in --workdir"] = f"step {first_step}" if first_step else "none"
        with hosts.agreement():
            state = _initial_state(p, checkpoints, first_step)
            writer.open(first_step=first_step)
        stack.enter_context(contextlib.closing(writer))
        host_batches = p.dataset.train_batches(
            p.source,
            seed=p.run.seed,
            first_step=first_step,
            num_steps=p.num_steps,
            quarantine=Quarantine(
                epath.Path(workdir) / "quarantine.jsonl", process_index=jax.process_index()
            ),
        )
        stack.enter_context(contextlib.closing(host_batches))
        writer.write_image("views", view_sheet(augmented_views(p, 16)), first_step)
        log_metrics = LogMetrics(
            writer,
            p.schedule,
            every=p.run.log_every,
            first_step=first_step,
            num_steps=p.num_steps,
            batch_size=p.dataset.batch_size,
            num_examples=len(p.source),
        )
        stack.enter_context(contextlib.closing(log_metrics))
        save_checkpoint = SaveCheckpoint(
            checkpoints,
            every=p.run.checkpoint_every,
            num_steps=p.num_steps,
            batch_size=p.dataset.batch_size,
            listing=p.source.fingerprint,
        )
        stop_on_sigterm = StopOnSigterm(save_checkpoint)
        stack.enter_context(contextlib.closing(stop_on_sigterm))
        yield Run(
            state=state,
            step=train_step(p),
            batches=place_batches(host_batches, p.mesh),
            num_steps=p.num_steps,
            hooks=[
                StopOnNonFinite(),
                *online_evaluation,
                log_metrics,
                save_checkpoint,
                stop_on_sigterm,
            ],
        )


def _initial_state(p: Parts, checkpoints: Checkpoints, first_step: int) -> TrainState:
    if p.method.chunks > 1:
        _explain_chunks(p)
    if first_step:
        state = checkpoints.restore(p.abstract_state, listing=p.source.fingerprint)
        outcome = "complete" if first_step == p.num_steps else "resumed"
        log.info("The run is %s: step %d of %d.", outcome, first_step, p.num_steps)
        return state
    # Before the first compilation, so that a wrong checkpoint costs no wait.
    restored = [start.restore(p.abstract_state) for start in p.warm_starts]
    params = p.abstract_state.params
    log.info(parameter_overview.get_parameter_overview(params, include_stats=False))
    shardings = jax.tree.map(lambda x: x.sharding, p.abstract_state)
    state = jax.jit(p.init, out_shardings=shardings)()
    for start, trees in zip(p.warm_starts, restored, strict=True):
        state = replace_parts(state, trees)
        log.info("From %s: %s.", start.checkpoint, ", ".join(trees))
    return state


def _explain_chunks(p: Parts) -> None:
    normalizes = jax.tree.leaves(p.network.shapes["batch_stats"]) and p.method.moves_statistics
    log.info(
        "Gradient cache: the network sees %d parts of %d images, the loss all %d images. %s",
        p.method.chunks,
        p.dataset.batch_size // p.method.chunks,
        p.dataset.batch_size,
        "BatchNorm normalises each part with its own statistics; everything else is exact."
        if normalizes
        else "The gradient is that of the whole batch.",
    )


def _online_evaluation(
    p: Parts,
    writer: MetricsWriter,
    *,
    knn: dict[str, Any] | None = None,
    classifier: dict[str, Any] | None = None,
) -> list[Hook]:
    """Is what the section `evals` calls: nothing to judge if it is empty."""
    hooks: list[Hook] = []
    if knn is not None:
        judged = _judged(p, writer, "knn", p.network.encode, needs_train_labels=True)
        hooks.append(call("config.evals.knn", OnlineKNN, knn, *judged))
    if classifier is not None:
        if p.network.model.classifier is None:
            raise UserError("config.evals.classifier needs config.heads.classifier.")
        judged = _judged(p, writer, "classifier", p.network.classify, needs_train_labels=False)
        hooks.append(call("config.evals.classifier", OnlineClassifier, classifier, *judged))
    return hooks


def _judged(
    p: Parts, writer: MetricsWriter, name: str, apply: Apply, *, needs_train_labels: bool
) -> tuple[Any, ...]:
    """Returns the first arguments of an online evaluation, after a check of the images."""
    test = p.test_source
    labelled = p.source.class_names or not needs_train_labels
    if test is None or not test.class_names or not labelled:
        lacking = "config.data.test_split" if test is None else "labels"
        raise UserError(
            f"config.evals.{name} needs {lacking}: it judges labelled test images. Remove it from "
            "the config, or for a folder of class folders, set data.labels_from_folders=True "
            "and data.test_split."
        )
    return (writer, apply, p.dataset, p.source, test, p.mesh, p.num_steps)
