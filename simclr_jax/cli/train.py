"""Trains what a config describes; resumes a run that was stopped.

python -m simclr_jax train --config=configs/simclr_digits.py --workdir=runs/digits
python -m simclr_jax train --config=configs/simclr_cifar10.py:small --workdir=runs/cifar

On several hosts, start the same command on each, with a --workdir that all of them see. The hosts
of a Cloud TPU slice and the tasks of SLURM's srun find each other; elsewhere, say who is who:
--coordinator=10.0.0.2:8476 --num_processes=2 --process_id=0, and 1 on the other.
"""

import logging
from collections.abc import Sequence

from absl import flags

from simclr_jax.bench.profile import ProfileSteps
from simclr_jax.cli import app, recipe
from simclr_jax.parallel.hosts import init_distributed, is_primary
from simclr_jax.run import train

CONFIG = recipe.define("simclr_digits")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; Cloud TPU and SLURM need none of these three."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the whole run.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of this process, from 0 on.")
STARTUP_TIMEOUT = flags.DEFINE_integer(
    "startup_timeout", 300, "Seconds to wait until all processes have started.", lower_bound=1
)
WORKDIR = app.define_workdir("Directory of the run: checkpoints, metrics.")

PROFILE = app.define_path(
    "profile", "Directory for a trace of a few steps; prints the most expensive operations."
)


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_train, argv, required=("config", "workdir"))


def _train() -> None:
    config = CONFIG().config
    init_distributed(
        COORDINATOR.value,
        NUM_PROCESSES.value,
        PROCESS_ID.value,
        timeout_seconds=STARTUP_TIMEOUT.value,
    )
    if not is_primary():  # what goes well is told once
        logging.getLogger("simclr_jax").setLevel(logging.WARNING)
    directory = PROFILE.value
    watch = lambda run: [ProfileSteps(directory, run)] if directory else []
    train(config, WORKDIR.value, watch=watch)
