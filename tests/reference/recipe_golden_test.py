"""Two steps of the recipes from the official weights, against two of the official code.

What is compared is the step that a recipe builds: its method, gradient and optimizer. Views,
width, rate, decay and temperature are those with which the official code ran, see `about` in
tests/golden/two_steps.npz. Differences are relative to how far a tensor moves in the two steps;
the files hold float32, which is 2e-4 to 3e-4 of that for kernels.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from simclr_jax.build.experiment import build_experiment, train_step
from simclr_jax.core.state import TrainState
from simclr_jax.core.tree import select
from simclr_jax.data.records import Record
from tests import helpers

pytestmark = pytest.mark.reference

ROOT = Path(__file__).parents[2]
RECIPES = {
    "r18_cifar": ("simclr_cifar10", "r18"),
    "r50": ("simclr_imagenet", "v2_r50_1x"),
}
TOLERANCES = {"scale": 1e-4, "bias": 1e-4, "kernel": 4e-4}


class Images:
    """So many images; the test puts the views in their place."""

    class_names, fingerprint, name = (), "none", "golden"

    def __init__(self, num_images):
        self.num_images = num_images

    def __len__(self):
        return self.num_images

    def __getitem__(self, index, /):
        return Record(np.zeros((32, 32, 3), np.uint8), -1, str(index))


def golden_recipe(name, num_images, size_px):
    """Returns a recipe with what the golden run says of size, rate, decay and temperature."""
    recipe, variant = RECIPES[name]
    config = helpers.recipe(recipe).get_config(variant)
    config.data.update(batch_size=num_images, canvas=size_px)
    config.encoder.update(width=0.125, dtype="float64")
    config.augment.update(size=size_px)
    config.heads.projector.update(dtype="float64")
    config.method.update(temperature=0.5)
    config.optim.update(weight_decay=1e-4)
    # A cosine of a million epochs: in two steps it stays what it is.
    config.run.update(epochs=1_000_000)
    config.schedule.update(base_lr=0.05, scaling="none", warmup_epochs=0.0)
    return config.to_dict()


def two_steps(config, network):
    """Returns the params after two steps on the golden views, and the loss of each."""
    views, devices = network.views, jax.devices()[:1]
    e = build_experiment(config, devices, train_source=Images(len(views)))
    method = dataclasses.replace(e.method, augment=lambda key, batch: batch["views"])
    step = train_step(dataclasses.replace(e, method=method))
    params, batch_stats = network.variables["params"], network.variables["batch_stats"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, e.abstract_state.params)
    state = TrainState(np.int32(0), params, batch_stats, e.tx.init(params), ())
    labels = np.full(len(views), -1, np.int32)
    state, batch = jax.device_put((state, {"views": views, "label": labels}), devices[0])
    losses = []
    for _ in range(2):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return jax.device_get(state.params), losses


@pytest.mark.parametrize("name", ["r18_cifar", pytest.param("r50", marks=pytest.mark.thorough)])
def test_two_steps_of_a_recipe_end_at_the_official_parameters(golden_network, name):
    network = golden_network(name, "float64")
    with np.load(ROOT / "tests" / "golden" / "two_steps.npz") as file:
        official = {k.removeprefix(f"{name}/"): file[k] for k in file.files if k.startswith(name)}
    config = golden_recipe(name, len(network.views), network.views.shape[2])
    with jax.enable_x64(True):
        params, losses = two_steps(config, network)
    np.testing.assert_allclose(losses, official.pop("loss") / 2, rtol=1e-9)  # a mean over views
    compared = {"after2": 0, "norm2": 0}
    for key, want in official.items():
        kind, _, variable = key.partition("/")
        path = network.ours[variable].removeprefix("params/")
        start, got = select(network.variables["params"], path), select(params, path)
        compared[kind] += 1
        if kind == "norm2":  # in float64
            moved = np.linalg.norm(got - start)
            assert abs(np.linalg.norm(got) - want) < 1e-9 * moved, path
        else:
            moved = np.linalg.norm(want - start)
            assert np.linalg.norm(got - want) < TOLERANCES[path.rpartition("/")[2]] * moved, path
    assert compared["norm2"] == len(jax.tree.leaves(params))
    assert compared["after2"] == {"r18_cifar": 71, "r50": 122}[name]
