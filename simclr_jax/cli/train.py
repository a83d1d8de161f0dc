"""Trains what a config describes; resumes a run that was stopped.

python -m simclr_jax train --config=configs/simclr_digits.py --workdir=runs/digits
python -m simclr_jax train --config=configs/simclr_cifar10.py:small --workdir=runs/cifar
"""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from simclr_jax.cli import app
from simclr_jax.core.errors import UserError
from simclr_jax.run import open_run
from simclr_jax.train.loop import fit

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Recipe, such as configs/simclr_digits.py[:variant]."
)
WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run: checkpoints, metrics.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_train, argv, required=("config", "workdir"))


def _train() -> None:
    try:
        config = CONFIG.value.to_dict()
    except OSError as error:  # a recipe that is not there is noticed only when it is read
        raise UserError(str(error)) from error
    with open_run(config, WORKDIR.value) as run:
        fit(run.state, run.step, run.batches, num_steps=run.num_steps, hooks=run.hooks)
