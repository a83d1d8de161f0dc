"""Network, config and run of tests that train: a second to compile, and a few to train."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import pytest

from simclr_jax import run as runs
from simclr_jax.build.experiment import build_experiment
from simclr_jax.core.state import TrainState
from simclr_jax.models.ssl import ENCODERS
from simclr_jax.train.loop import fit


class TinyEncoder(nn.Module):
    """One convolution and BatchNorm: compiles in a second, and has all that a step touches."""

    width: int = 8
    norm: bool = True

    def __call__(self, images, *, train):
        return self.maps(images, train=train).mean(axis=(1, 2))

    @nn.compact
    def maps(self, images, *, train):
        x = nn.Conv(self.width, (3, 3), strides=2, use_bias=False, name="conv")(images)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return nn.relu(x)


@contextlib.contextmanager
def tiny_is_known() -> Iterator[None]:
    """Makes encoder.name="tiny" mean `TinyEncoder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "tiny", TinyEncoder)
        yield


@contextlib.contextmanager
def runs_on(num_devices: int) -> Iterator[None]:
    """Makes runs train on as many of this process's devices; on few cores, one is the fastest."""
    build = functools.partial(build_experiment, devices=jax.devices()[:num_devices])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "build_experiment", build)
        yield


def tiny_settings() -> dict[str, Any]:
    """Returns a whole config whose run takes seconds: 62 steps on a quarter of the digits."""
    return {
        "run": {"epochs": 1, "seed": 0, "log_every": 5, "checkpoint_every": 20},
        "data": {
            "name": "digits",
            "split": "train",
            "test_split": "test",
            "fraction": 0.25,
            "batch_size": 16,
            "canvas": 28,
        },
        "augment": {"name": "simclr_cifar", "size": 12, "color_strength": 0.0},  # crops alone
        "encoder": {"name": "tiny"},
        "heads": {"projector": {"num_layers": 2, "output_dim": 8}},
        "method": {"name": "simclr", "temperature": 0.5},
        "optim": {"name": "adamw"},
        "schedule": {"base_lr": 0.01, "scaling": "none", "warmup_epochs": 0.1},
        "parallel": {"preset": "replicated"},
        "evals": {"knn": {"every_epochs": 0.51, "k": 5, "max_train": 100}},  # after 32 and 63 steps
    }


def write_recipe(path: Path, config: Mapping[str, Any]) -> Path:
    """Writes a recipe that gives a config; returns its path."""
    lines = ("from ml_collections import ConfigDict", "def get_config():")
    path.write_text("\n".join((*lines, f"    return ConfigDict({config!r})\n")))
    return path


class KilledError(Exception):
    """Stands for a process that dies between two steps."""


def train(config: Mapping[str, Any], workdir: Path, *, kill_at: int | None = None) -> TrainState:
    """Trains on one device, or goes on; returns the last state.

    Raises:
      KilledError: after the step `kill_at`.
    """

    def harm(step: int, *_: object) -> None:
        if step == kill_at:
            raise KilledError

    with runs_on(1), runs.open_run(config, str(workdir)) as run:
        hooks = [harm, *run.hooks]
        state = fit(run.state, run.step, run.batches, num_steps=run.num_steps, hooks=hooks)
        return jax.device_get(state)
