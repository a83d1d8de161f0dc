"""The batches of a run, from its images to its devices."""

import contextlib
from typing import NamedTuple

import jax
from etils import epath

from simclr_jax.build.announce import announce_cut_captions, announce_unreadable
from simclr_jax.build.experiment import Experiment
from simclr_jax.data.place import place_batches
from simclr_jax.data.quarantine import Quarantine, read_quarantine
from simclr_jax.parallel import hosts
from simclr_jax.train.hooks import Waits
from simclr_jax.train.ledger import Ledger
from simclr_jax.train.unreadable import CountUnreadable


class Stream(NamedTuple):
    """The batches of a run, and what keeps account of them."""

    waits: Waits
    unreadable: CountUnreadable
    ledger: list[Ledger]


def open_batches(
    experiment: Experiment, workdir: str, first_step: int, stack: contextlib.ExitStack
) -> Stream:
    """Starts to read batches, which `stack` ends, and opens the list of unreadable images."""
    path = epath.Path(workdir) / "quarantine.jsonl"
    quarantine = Quarantine(path, process_index=jax.process_index())
    unreadable = CountUnreadable(
        quarantine,
        experiment.source,
        max_unreadable=experiment.dataset.max_unreadable,
        earlier=read_quarantine(workdir),
    )
    announce_unreadable(experiment, quarantine)
    stack.callback(announce_unreadable, experiment, quarantine)
    stack.callback(announce_cut_captions, experiment.source)
    host_batches = experiment.dataset.train_batches(
        experiment.source,
        experiment.policy.cuts,
        seed=experiment.run.seed,
        first_step=first_step,
        num_steps=experiment.num_steps,
        quarantine=quarantine,
    )
    stack.enter_context(contextlib.closing(host_batches))
    batches, ledger = host_batches, []
    if experiment.run.ledger:
        root = jax.random.key(experiment.run.seed)
        ledger.append(Ledger(workdir, root, first_step=first_step))
        batches = ledger[0].watching(batches)
    # One batch is placed ahead: here, or where several processes wait for each other.
    depth = 1 if jax.process_count() > 1 else 2
    placed = place_batches(batches, experiment.mesh, depth=depth)
    waits = Waits(hosts.end_together(placed, experiment.mesh))
    return Stream(waits, unreadable, ledger)
