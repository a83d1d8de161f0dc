"""A run that is ready to go: state, step, batches and hooks, with their files open."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from clu import parameter_overview
from etils import epath

from simclr_jax.build import Parts, augmented_pairs, parts
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import call
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch
from simclr_jax.data.place import place_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.evals.online import OnlineKNN
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import batch_sharding, replicated
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint import Checkpoints, SaveCheckpoint
from simclr_jax.train.health import StopOnNonFinite
from simclr_jax.train.hooks import LogMetrics, StopOnSigterm
from simclr_jax.train.loop import Hook
from simclr_jax.train.metrics import MetricsWriter, view_sheet
from simclr_jax.train.step import TrainStep, make_train_step

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
      UserError: if the config is wrong, or `workdir` is another run's or cannot be written.
    """
    p = parts(config, make_mesh())
    writer = MetricsWriter(workdir)
    online_evaluation = call("config.evals", _online_evaluation, p.config["evals"], p, writer)
    workdirs.claim(workdir, p.config)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir, keep=p.run.keep_checkpoints))
        first_step = checkpoints.latest_step() or 0
        state = _initial_state(p, checkpoints, first_step)
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
        writer.open(first_step=first_step)
        stack.enter_context(contextlib.closing(writer))
        writer.write_image("views", view_sheet(augmented_pairs(p, 16)), first_step)
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
            step=jax.jit(
                make_train_step(p.method, p.tx, jax.random.key(p.run.seed)),
                in_shardings=(replicated(p.mesh), batch_sharding(p.mesh)),
                out_shardings=replicated(p.mesh),
                donate_argnums=0,
            ),
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
    if first_step:
        state = checkpoints.restore(p.abstract_state, listing=p.source.fingerprint)
        outcome = "complete" if first_step == p.num_steps else "resumed"
        log.info("The run is %s: step %d of %d.", outcome, first_step, p.num_steps)
        return state
    params = p.abstract_state.params
    log.info(parameter_overview.get_parameter_overview(params, include_stats=False))
    return jax.jit(p.init, out_shardings=replicated(p.mesh))()


def _online_evaluation(
    p: Parts, writer: MetricsWriter, *, knn: dict[str, Any] | None = None
) -> list[Hook]:
    """Is what the section `evals` calls: nothing to judge if it is empty."""
    if knn is None:
        return []
    if p.test_source is None or not p.source.class_names:
        lacking = "config.data.test_split" if p.source.class_names else "labels"
        raise UserError(
            f"config.evals.knn needs {lacking}: kNN judges labelled test images. Remove it from "
            "the config, or for a folder of class folders, set data.labels_from_folders=True "
            "and data.test_split."
        )
    judged = (writer, p.encode, p.dataset, p.source, p.test_source, p.mesh, p.num_steps)
    return [call("config.evals.knn", OnlineKNN, knn, *judged)]
