"""A run of 11 steps that takes a second, and what it must leave."""

import jax
import numpy as np

from simclr_jax import run as runs
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.loop import fit
from simclr_jax.train.metrics import read_metrics

STEPS = 11
CONFIG = {
    "run": {"epochs": 1, "seed": 0, "log_every": 1, "checkpoint_every": 4, "keep_checkpoints": 2},
    "data": {
        "name": "digits", "split": "train", "test_split": "test", "fraction": 0.04,
        "batch_size": 16, "canvas": 28,
    },
    "augment": {"name": "simclr_cifar", "size": 12},
    "encoder": {"name": "tiny"},
    "heads": {"projector": {"num_layers": 2, "output_dim": 8}},
    "method": {"name": "simclr", "temperature": 0.5},
    "optim": {"name": "adamw"},
    "schedule": {"base_lr": 0.01, "scaling": "none", "warmup_epochs": 0.1},
    "parallel": {"preset": "replicated"},
    "evals": {},
}  # fmt: skip


def train(workdir, plan=None, run=None, **data):
    """Trains with changes of the sections `run` and `data`; returns the last state."""
    config = CONFIG | {"data": CONFIG["data"] | data, "run": CONFIG["run"] | (run or {})}
    with runs.open_run(config, str(workdir)) as it:
        hooks = [plan.hook, *it.hooks] if plan else it.hooks
        state = fit(it.state, it.step, it.batches, num_steps=it.num_steps, hooks=hooks)
        return jax.device_get(state)


def assert_nothing_lost(workdir, got, want):
    """The state is that of a run without faults, to the bit, and each step is logged once."""
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert [row["step"] for row in read_metrics(workdir)] == list(range(1, STEPS + 1))
    assert not any(stored.condition.damage for stored in Checkpoints(workdir).survey())
