"""Three steps of each published recipe, against the same in NumPy float64.

The recipe keeps its own method, optimizer, rate, warm-up, decay and temperature; the encoder is
one dense layer with BatchNorm, so that its gradient can be written out here. What the golden
files do not have is tested this way: the 2-layer projector of v1, v2's memory, fine-tuning,
linear evaluation, the supervised baseline and distillation. Formulas are those of the papers
and of google-research/simclr; rows are ordered as there, all first views before all second ones.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import pytest

from simclr_jax.build.experiment import build_experiment, train_step
from simclr_jax.core.state import TrainState
from simclr_jax.data.records import Record
from simclr_jax.models.ssl import ENCODERS
from tests import helpers

pytestmark = pytest.mark.reference

B, SIZE, WIDTH, CLASSES, NUM_IMAGES, STEPS = 8, 20, 12, 5, 800, 3
QUEUE = 2 * 2 * B  # two batches of keys
ENCODER = [("encoder/dense", "encoder/norm", True)]


class OneLayer(nn.Module):
    """relu(BatchNorm(dense(pixels)))."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(WIDTH, use_bias=False, name="dense")(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return nn.relu(x)


class Images:
    """So many labelled images; the test puts the views in their place."""

    class_names, fingerprint, name = tuple("abcde"), "none", "numpy"

    def __len__(self):
        return NUM_IMAGES

    def __getitem__(self, index, /):
        return Record(np.zeros((SIZE, SIZE, 3), np.uint8), index % CLASSES, str(index))


# --- The network: layers (dense, norm, whether a relu follows), without a bias in the last norm.


def projector(num_layers):
    layers = [(f"projector/dense{i}", f"projector/norm{i}") for i in range(1, num_layers + 1)]
    return [(*layer, i < num_layers) for i, layer in enumerate(layers, start=1)]


def forward(p, layers, x, running=None):
    """Returns what the layers make of x, and (gradient of that) -> gradients of the parameters."""
    passed = []
    for dense, norm, relu in layers:
        y = x @ p[f"{dense}/kernel"]
        if running is None:
            mean, var = y.mean(axis=0), y.var(axis=0)
        else:
            mean, var = running[f"{norm}/mean"], running[f"{norm}/var"]
        unit = (y - mean) / np.sqrt(var + 1e-5)
        out = unit * p[f"{norm}/scale"] + p.get(f"{norm}/bias", 0)
        kept = (out > 0) if relu else np.ones_like(out)
        passed.append((dense, norm, x, unit, var, kept))
        x = out * kept

    def backward(d):
        grads = {}
        for dense, norm, x, unit, var, kept in reversed(passed):
            d = d * kept
            grads[f"{norm}/scale"], grads[f"{norm}/bias"] = (d * unit).sum(axis=0), d.sum(axis=0)
            d = d * p[f"{norm}/scale"]
            d = d - d.mean(axis=0) - unit * (d * unit).mean(axis=0)
            d = d / np.sqrt(var + 1e-5)
            grads[f"{dense}/kernel"], d = x.T @ d, d @ p[f"{dense}/kernel"].T
        return {path: g for path, g in grads.items() if path in p}

    return x, backward


def unit_rows(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


# --- Gradients: (params, running statistics, state of the method, images, labels) -> gradients.


def contrastive(num_layers, temperature, memory=False):
    """tf2/objective.py: the losses of both directions are added, and averaged over images."""
    layers = ENCODER + projector(num_layers)

    def gradient(p, running, method_state, images, labels):
        del running, labels
        rows = images.swapaxes(0, 1).reshape(2 * B, -1)
        z, backward = forward(p, layers, rows)
        q, keys, queue = unit_rows(z), None, np.zeros((0, z.shape[1]))
        if memory:
            keys = unit_rows(forward(method_state["target"], layers, rows)[0])
            queue = method_state["queue"]
        candidates = np.concatenate([q if keys is None else keys, queue])
        logits = q @ candidates.T / temperature
        logits[np.arange(2 * B), np.arange(2 * B)] = -1e9
        error = softmax(logits)
        error[np.arange(2 * B), (np.arange(2 * B) + B) % (2 * B)] -= 1
        error /= B * temperature
        dq = error @ candidates
        if keys is None:
            dq += error.T @ q
        else:
            method_state["keys"] = keys
        dz = (dq - q * (dq * q).sum(axis=1, keepdims=True)) / np.linalg.norm(
            z, axis=1, keepdims=True
        )
        return backward(dz)

    return gradient


def follow(p, method_state, step, ema=0.999):
    """v2's memory after an update: the target moves, and the oldest keys make room."""
    target = method_state["target"]
    for path in target:
        target[path] = ema * target[path] + (1 - ema) * p[path]
    slots = method_state["queue"].reshape(2, 2 * B, -1)  # a view: the order in it is free
    slots[step % 2] = method_state.pop("keys")


def classify(p, layers, rows, running=None):
    h, backward = forward(p, layers, rows, running)
    return h, h @ p["classifier/kernel"] + p["classifier/bias"], backward


def cross_entropy(layers, frozen=False):
    """Mean over images, of one-hot labels without smoothing."""

    def gradient(p, running, method_state, images, labels):
        del method_state
        rows = images[:, 0].reshape(B, -1)
        h, logits, backward = classify(p, layers, rows, running if frozen else None)
        error = (softmax(logits) - np.eye(CLASSES)[labels]) / B
        return head_and_body(p, h, error, backward, frozen)

    return gradient


def distillation(temperature):
    """The official notebook: mean cross entropy with the teacher's softmax, times T^2."""

    def gradient(p, running, method_state, images, labels):
        del running, labels
        rows = images[:, 0].reshape(B, -1)
        teacher = method_state["teacher"]
        _, taught, _ = classify(teacher["params"], ENCODER, rows, teacher["batch_stats"])
        h, logits, backward = classify(p, ENCODER, rows)
        error = softmax(logits / temperature) - softmax(taught / temperature)
        return head_and_body(p, h, error * temperature / B, backward)

    return gradient


def head_and_body(p, h, error, backward, frozen=False):
    head = {"classifier/kernel": h.T @ error, "classifier/bias": error.sum(axis=0)}
    return head if frozen else {**backward(error @ p["classifier/kernel"].T), **head}


# --- Optimizers: (params, gradients, velocities, rate) -> None, in place.


def is_norm(path):
    return "norm" in path.split("/")[-2]


def lars(decay, excluded=("norm", "bias", "classifier")):
    """tf2/lars_optimizer.py: what is excluded takes plain momentum, without decay."""

    def update(p, grads, velocity, rate):
        for path, g in grads.items():
            w, trust = p[path], 1.0
            if not any(name in path for name in excluded):
                g = g + decay * w
                trust = 0.001 * np.linalg.norm(w) / np.linalg.norm(g)
            velocity[path] = 0.9 * velocity.get(path, 0) + rate * trust * g
            p[path] = w - velocity[path]

    return update


def nesterov(decay):
    """TF1's MomentumOptimizer; tf2/model.py puts the L2 of all but BatchNorm into the loss."""

    def update(p, grads, velocity, rate):
        for path, g in grads.items():
            g = g if is_norm(path) else g + decay * p[path]
            velocity[path] = 0.9 * velocity.get(path, 0) + g
            p[path] = p[path] - rate * (g + 0.9 * velocity[path])

    return update


@dataclasses.dataclass
class Published:
    """What the papers and the official code say of a recipe."""

    recipe: str
    gradient: object
    optimizer: object
    peak: float  # learning rate at batch B
    epochs: int
    warmup: int = 0  # in epochs

    def rate(self, step):
        per_epoch = NUM_IMAGES // B
        warmup, total = self.warmup * per_epoch, self.epochs * per_epoch + 1
        if step < warmup:
            return self.peak * step / warmup
        return self.peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


SQRT = math.sqrt(B)
PUBLISHED = [
    Published(
        "simclr_imagenet:v1_r50_1x", contrastive(2, 0.1), lars(1e-6), 0.3 * B / 256, 1000, 10
    ),
    Published("simclr_imagenet:v2_r50_1x", contrastive(3, 0.1), lars(1e-4), 0.1 * SQRT, 800, 40),
    Published(
        "simclr_imagenet:v2_r50_1x,memory",
        *(contrastive(3, 0.1, memory=True), lars(1e-4), 0.1 * SQRT, 800, 40),
    ),
    Published("simclr_cifar10:r18", contrastive(3, 0.5), lars(1e-4), B / 256, 1000, 10),
    Published(
        "finetune:v2_r50_1x,fraction=0.01",
        *(cross_entropy([*ENCODER, *projector(3)[:1]]), lars(0.0), 0.005 * SQRT, 60),
    ),
    Published(
        "finetune:v1_r50_1x,fraction=0.1", cross_entropy(ENCODER), nesterov(0.0), 0.05 * B / 256, 30
    ),
    Published(
        "linear_probe:v1_r50_1x",
        *(cross_entropy(ENCODER, frozen=True), nesterov(0.0), 0.1 * B / 256, 90),
    ),
    Published("supervised:v2_r50_1x", cross_entropy(ENCODER), nesterov(1e-4), 0.1 * B / 256, 90, 5),
    # The notebook leaves out BatchNorm and biases alone.
    *(
        Published(
            f"distill:{variant},fraction=0.01",
            *(distillation(t), lars(1e-4, excluded=("norm", "bias")), 0.1 * SQRT, 400, 20),
        )
        for variant, t in (("v2_r50_1x", 1.0), ("v2_r152_3x_sk,self", 0.1))
    ),
]


def small(recipe):
    """Returns a recipe for images of this test, in float64."""
    name, _, variant = recipe.partition(":")
    config = helpers.recipe(name).get_config(variant).to_dict()
    config["encoder"] = {"name": "one_layer"}
    config["augment"]["size"] = config["data"]["canvas"] = SIZE
    config["data"]["batch_size"] = B
    config["parallel"] = {}
    config["warm_start"] = {}
    if "projector" in config["heads"]:
        config["heads"]["projector"] |= {"output_dim": WIDTH, "dtype": "float64"}
    if config["method"]["name"] == "distill":
        heads = {"classifier": {"num_classes": CLASSES}}
        teacher = {"checkpoint": "none", "encoder": config["encoder"], "heads": heads}
        config["method"]["teacher"] = {**teacher, "class_names": Images.class_names}
    if config["method"].get("memory"):
        config["method"]["memory"]["size"] = QUEUE
    return config


def flat(tree):
    leaves = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: np.array(leaf, np.float64) for path, leaf in leaves.items()}


def drawn(shapes, rng):
    """Returns arrays of these shapes in which nothing is zero or one, and variances positive."""

    def draw(path, x):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, x.shape)
        values = rng.normal(size=x.shape)
        return unit_rows(values) if name == "queue" else 0.3 * values

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.recipe)
def test_three_steps_of_a_recipe_are_the_published_ones(monkeypatch, published):
    monkeypatch.setitem(ENCODERS, "one_layer", OneLayer)
    rng = np.random.default_rng(0)
    views = rng.normal(size=(STEPS, B, 2, SIZE, SIZE, 3))
    labels = rng.integers(0, CLASSES, (STEPS, B)).astype(np.int32)
    with jax.enable_x64(True):
        devices = jax.devices()[:1]
        e = build_experiment(small(published.recipe), devices, train_source=Images())
        method = dataclasses.replace(e.method, augment=lambda key, batch: batch["views"])
        step = train_step(dataclasses.replace(e, method=method))
        shapes = e.abstract_state
        params, stats, memory = (
            drawn(tree, rng) for tree in (shapes.params, shapes.batch_stats, shapes.method_state)
        )
        start = TrainState(np.int32(0), params, stats, e.tx.init(params), memory)
        state = jax.device_put(start, devices[0])
        batches = [{"views": v, "label": y} for v, y in zip(views, labels, strict=True)]
        for batch in batches:
            state, _ = step(state, jax.device_put(batch, devices[0]))
        got = flat(jax.device_get(state.params))

    p, running, velocity = flat(params), flat(stats), {}
    method_state: dict[str, Any] = {}
    if "teacher" in memory:
        method_state = {"teacher": {name: flat(t) for name, t in memory["teacher"].items()}}
    if "queue" in memory:
        method_state["target"] = flat(memory["target"]["params"])
        method_state["queue"] = np.array(memory["queue"]).reshape(QUEUE, -1)
    for i in range(STEPS):
        grads = published.gradient(p, running, method_state, views[i], labels[i])
        published.optimizer(p, grads, velocity, published.rate(i))
        if "queue" in method_state:
            follow(p, method_state, i)
    moved = 0
    for path, before in flat(params).items():
        distance = np.linalg.norm(p[path] - before)
        assert np.linalg.norm(got[path] - p[path]) <= 1e-7 * distance, path
        moved += distance > 0
    assert moved == len(velocity)
