"""What every method promises to the train step; a new one is tested by being in METHODS.

Each is built from its recipe for data that are here, made small and given an encoder that compiles
at once.
"""

import dataclasses
import functools
from unittest import mock

import jax
import numpy as np
import optax
import pytest

from simclr_jax.build.experiment import build_experiment
from simclr_jax.build.schema import complete
from simclr_jax.core.tree import select
from simclr_jax.core.types import Sentences
from simclr_jax.methods import METHODS
from simclr_jax.models.vit import SIZES, Size
from simclr_jax.parallel.sharding import PRESETS, batch_sharding
from simclr_jax.train.step import make_train_step
from simclr_jax.verify.shrunk import perturb_constants, shrink
from tests.helpers import CONFIGS, recipe
from tests.tiny import tiny_is_known

BATCH_SIZE = 16
ROOT = jax.random.key(0)
# What a method needs in place of the encoder with BatchNorm, and the first of its layers.
ENCODERS_OF = {
    "cpc": {"name": "tiny", "norm": False},
    "mae": {"name": "vit", "size": "tiny", "patch": 4},
    "simcse": {"name": "none"},
}
# Settings that views of 20 px need.
SETTINGS_OF = {"cpc": {"patch": 8, "stride": 6}}
# An array of what is trained, and its shape, where it is not that of the tiny encoder on images.
FIRST_ARRAY = {
    "mae": ("encoder/patches/kernel", (48, 32)),
    "clap": ("encoder/conv/kernel", (3, 3, 1, 8)),
    "simcse": ("text/positions", (20, 64)),
}
# All tests of a method one after the other: what one has built and traced, the next one takes.
pytestmark = pytest.mark.parametrize("name", METHODS, scope="module")


@functools.cache
def recipes():
    """Returns, for each method, the config of the first recipe for it that takes the digits.

    Where none does, it is that for CIFAR-10, for sounds, or for texts.
    """
    found = {"digits": {}, "tfds/cifar10": {}, "midi_instruments": {}, "openmoji": {}}
    for path in sorted(CONFIGS.glob("*.py")):
        module = recipe(path.stem)
        for variant in ("digits", "cifar10", "midi", "openmoji", ""):
            try:
                config = module.get_config(variant).to_dict()
            except ValueError:  # it has no such variant
                continue
            if (data := config["data"]["name"]) in found:
                found[data].setdefault(config["method"]["name"], config)
    others = found["openmoji"] | found["midi_instruments"]
    return others | found["tfds/cifar10"] | found["digits"]


@pytest.fixture(scope="module")
def build(name):
    """Returns what builds the experiment of a method on some devices."""
    views = []  # their shapes, which are alike in all experiments

    def build(optimizer, rate, devices=None, **parallel):
        config = recipes()[name] | {
            "encoder": ENCODERS_OF.get(name, {"name": "tiny"}),
            "method": recipes()[name]["method"] | SETTINGS_OF.get(name, {}),
            "evals": {},
            "optim": {"name": optimizer},
            "schedule": {"base_lr": rate, "scaling": "none", "warmup_epochs": 0.0},
        }
        config["data"] = config["data"] | {"batch_size": BATCH_SIZE}
        if "size" in complete(config)["augment"]:
            config["augment"] = config["augment"] | {"size": 20}
        small = shrink(config, multiple=8, num_steps=1)
        if "dtype" in small.config["encoder"]:
            small.config["encoder"]["dtype"] = "float32"
        heads = small.config["heads"].items()
        small.config["heads"] = {
            head: {**settings, "dtype": "float32"}
            if isinstance(settings, dict) and "dtype" in settings
            else settings
            for head, settings in heads
        }
        small.config["parallel"] = parallel
        experiment = build_experiment(small.config, devices, train_source=small.source)
        if isinstance(experiment.policy.cuts, Sentences):
            return experiment  # texts are their own views
        # Augmentation, which takes longest to compile, has tests of its own.
        method = dataclasses.replace(experiment.method, augment=lambda key, batch: batch["views"])
        if not views:
            first = jax.eval_shape(
                experiment.method.augment, jax.random.key(0), experiment.abstract_batch
            )
            views.append(first)
        batch = {**experiment.abstract_batch, "views": views[0]}
        return dataclasses.replace(experiment, method=method, abstract_batch=batch)

    with tiny_is_known(), mock.patch.dict(SIZES, tiny=Size(width=32, depth=2, num_heads=2)):
        yield build


@pytest.fixture(scope="module")
def on_one_device(build):
    """The experiment with SGD, which shows a wrong gradient scale, and its jitted step."""
    experiment = build("sgd", 1.0, jax.devices()[:1])
    return experiment, jitted_step(experiment)


@pytest.fixture(scope="module")
def fresh(on_one_device):
    """The first state of the experiment with SGD."""
    return jax.jit(on_one_device[0].init)()


def jitted_step(experiment):
    """Returns the step from where the state and the batch lie to where the state lies."""
    placement = jax.tree.map(lambda x: x.sharding, experiment.abstract_state)
    return jax.jit(
        make_train_step(experiment.method, experiment.tx, ROOT),
        in_shardings=(placement, batch_sharding(experiment.mesh)),
        out_shardings=(placement, None),
    )


def first_batch(experiment):
    """Returns random views of random labels, or texts, alike on any number of devices."""
    rng = np.random.default_rng(0)
    cuts = experiment.policy.cuts
    (batch,) = experiment.dataset.eval_batches(experiment.source, cuts, indices=range(BATCH_SIZE))
    wanted = {name: x for name, x in experiment.abstract_batch.items() if name != "views"}
    given = {name: batch[name] for name in wanted}
    made = jax.tree.map(lambda like, rows: rows.astype(like.dtype), wanted, given)
    if "views" not in experiment.abstract_batch:
        return made
    views = jax.tree.map(
        lambda x: rng.uniform(size=x.shape).astype(np.float32), experiment.abstract_batch["views"]
    )
    return {**made, "views": views}


def start(experiment, fresh):
    """Returns the first state, or where parameters are frozen at first, the last with them frozen.

    Zeros, which a warm start would replace, become a network with opinions.

    Args:
      experiment: what the state is for.
      fresh: the first state with any optimizer.
    """
    fresh = fresh.replace(opt_state=jax.jit(experiment.tx.init)(fresh.params))
    state = perturb_constants(jax.device_get(fresh))
    if until := max((x.until_step or 0 for x in experiment.method.frozen_params), default=0):
        last = np.int32(until - 1)
        state = state.replace(step=last, opt_state=optax.tree.set(state.opt_state, step=last))
    return jax.tree.map(lambda x: np.asarray(x, np.float32) if x.dtype == np.float64 else x, state)


def with_queue_of(first, state):
    """Returns the state with an older queue: from one batch alone it would fill with positives."""
    if "queue" not in state.method_state:
        return state
    kept = {"queue": first.method_state["queue"]}
    return state.replace(method_state={**state.method_state, **kept})


def test_init_runs_without_a_device_and_puts_what_is_trained_in_its_place(on_one_device, name):
    state = on_one_device[0].abstract_state
    path, shape = FIRST_ARRAY.get(name, ("encoder/conv/kernel", (3, 3, 3, 8)))
    assert select(state.params, path).shape == shape
    if name not in ENCODERS_OF:
        assert state.batch_stats["encoder"]["norm"]["mean"].shape == (8,)


def test_step_keeps_the_structure_of_the_state(on_one_device):
    experiment, step = on_one_device
    after, _ = jax.eval_shape(step, experiment.abstract_state, experiment.abstract_batch)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(experiment.abstract_state) == shapes(after)


def test_eight_devices_take_the_step_of_one(build, on_one_device, fresh):
    compare_layouts(build, on_one_device, fresh, ["fsdp"])  # which splits most


@pytest.mark.thorough
def test_eight_devices_take_the_step_of_one_in_every_other_layout(build, on_one_device, fresh):
    others = [preset for preset in PRESETS if preset != "fsdp"]
    compare_layouts(build, on_one_device, fresh, others)


def compare_layouts(build, on_one_device, fresh, presets):
    experiment, step = on_one_device
    begin = start(experiment, fresh), first_batch(experiment)  # alike on all devices
    results = [jax.device_get(step(*begin))]
    for preset in presets:
        experiment = build("sgd", 1.0, preset=preset, fsdp=4)
        results.append(jax.device_get(jitted_step(experiment)(*begin)))
    as_floats = lambda tree: [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    for one, *eight in zip(*map(as_floats, results), strict=True):
        # Of whole arrays: small temperatures multiply what single values are rounded by.
        tolerance = 2e-4 * np.linalg.norm(one) + 2e-5 * np.sqrt(np.size(one))
        for other in eight:
            assert np.linalg.norm(other - one) <= tolerance


@pytest.mark.thorough
def test_thirty_steps_lower_the_loss_and_move_all_of_the_tower(build, fresh, name):
    experiment = build("adamw", 0.01, jax.devices()[:1])
    state, batch = start(experiment, fresh), first_batch(experiment)
    tower = FIRST_ARRAY.get(name, ("encoder",))[0].split("/")[0]
    before = state.params[tower]
    step = jax.jit(make_train_step(experiment.method, experiment.tx, ROOT))
    losses = []
    first = state
    for _ in range(30):
        state, metrics = step(with_queue_of(first, state), batch)
        losses.append(float(metrics["loss"]))
    begin, end = np.mean(losses[:5]), np.mean(losses[-5:])
    assert end < max(begin - 0.05, begin / 2)  # a loss may be small from the start
    assert int(state.step) == int(first.step) + 30
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, state.params[tower])
    assert min(jax.tree.leaves(moved)) > 0
