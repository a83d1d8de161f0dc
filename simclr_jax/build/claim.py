"""Makes a workdir a run's own: its lease, its config, its list of images, its last checkpoint."""

import contextlib
import functools

from simclr_jax.build.experiment import Experiment
from simclr_jax.build.schema import complete
from simclr_jax.data import listing as listings
from simclr_jax.data.records import examples_of
from simclr_jax.data.text import tokenizer_of
from simclr_jax.parallel import hosts
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.lease import acquire
from simclr_jax.train.loop import Hook


def claim(experiment: Experiment, workdir: str, stack: contextlib.ExitStack) -> list[Hook]:
    """Claims the workdir, the primary process first, or checks that it is this run's already.

    Args:
      experiment: the run.
      workdir: directory of the run, which need not be there yet.
      stack: gives the workdir back when it closes.

    Returns:
      The hook that stops the run if another has taken the workdir over; none but in the primary
      process.

    Raises:
      TryAgainError: if a run trains in `workdir` already.
      UserError: if `workdir` is another run's, cannot be written, or has lost images.
    """
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
    data, examples = experiment.dataset, examples_of(experiment.source)
    listing = listings.list_images(experiment.source, hashed=data.hash_images)
    kept = None
    if step and listing:
        kept = listings.continued(
            workdir, listing, step=step, accept=data.accept_images, examples=examples
        )
    if not kept:
        checkpoints.require_listing(step, experiment.source.fingerprint, examples)
    claim(step=step)
    if listing:
        listings.write(workdir, kept or listing)
    if (tokenizer := tokenizer_of(experiment.source)) is not None:
        tokenizer.write(workdir)
    checkpoints.set_aside_after(step)
