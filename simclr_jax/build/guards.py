"""Hooks that keep a run's work, and keep it from harm."""

from etils import epath

from simclr_jax.build.experiment import Experiment
from simclr_jax.data.order import Order
from simclr_jax.data.records import examples_of
from simclr_jax.parallel import hosts
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from simclr_jax.train.health import OnNonFinite
from simclr_jax.train.metrics import MetricsWriter
from simclr_jax.train.saving import SaveCheckpoint


def save_checkpoints(
    experiment: Experiment,
    checkpoint_writer: CheckpointWriter,
    writer: MetricsWriter,
    on_non_finite: OnNonFinite,
) -> SaveCheckpoint:
    """Returns the hook that saves, and says which checkpoints are good."""
    return SaveCheckpoint(
        checkpoint_writer,
        writer,
        every=experiment.run.checkpoint_every,
        num_steps=experiment.num_steps,
        batch_size=experiment.dataset.batch_size,
        listing=experiment.source.fingerprint,
        on_non_finite=on_non_finite,
        evaluated=experiment.method.evaluated,
        keep_best=experiment.run.keep_best,
    )


def stop_non_finite(experiment: Experiment, workdir: str) -> OnNonFinite:
    """Returns the hook that acts on a loss that is not finite, and names its images."""
    order = Order(len(experiment.source), experiment.dataset.batch_size, experiment.run.seed)
    return OnNonFinite(
        experiment.run.non_finite,
        epath.Path(workdir) / "non_finite.jsonl",
        order.ids,
        examples=examples_of(experiment.policy.cuts),
        writes=hosts.is_primary(),
    )
