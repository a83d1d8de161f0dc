"""Our side of each comparison: a function that prepares, and returns what is timed."""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.augment.policies import Policy, simclr
from simclr_jax.bench import inputs
from simclr_jax.build.experiment import build_experiment, train_step
from simclr_jax.core.types import Cuts
from simclr_jax.data.cut import cut
from simclr_jax.data.decode import decode
from simclr_jax.data.order import random_words
from simclr_jax.evals.knn import knn_predict
from simclr_jax.evals.logistic import Solution, minimise, prepare
from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import batch_sharding
from simclr_jax.plan.dataset_spec import DatasetSpec

FIRST_STEP = "step 1/"  # what the log of training says of it
Run = Callable[[], object]


def step(*, depth: int, stem: str, width: float, size: int, pairs: int) -> Run:
    """Forward and backward pass, NT-Xent and SGD, from views on."""
    config = {
        "run": {"epochs": 1},
        "data": {"name": "digits", "split": "train", "batch_size": pairs, "canvas": size},
        "augment": {"name": "simclr_cifar", "size": size},
        "encoder": {"name": "resnet", "depth": depth, "stem": stem, "width": width},
        "heads": {"projector": {"num_layers": 2, "hidden_dim": 512, "output_dim": 128}},
        "method": {"name": "simclr", "temperature": 0.5},
        "optim": {"name": "sgd", "momentum": 0.9},
        "schedule": {"base_lr": 0.1, "scaling": "none", "warmup_epochs": 0.0},
    }
    images = DatasetSpec("images", 50_000, ())
    experiment = build_experiment(config, jax.devices()[:1], train_source=images)
    state = jax.jit(experiment.init)()
    method = dataclasses.replace(experiment.method, augment=lambda key, batch: batch["views"])
    compiled = train_step(dataclasses.replace(experiment, method=method))
    views = inputs.pixels(pairs * 2, size, size).reshape(pairs, 2, size, size, 3) / np.float32(255)
    ids = np.arange(pairs, dtype=np.int32)
    batch = {"views": views, "label": ids, "id": ids}
    placed = jax.device_put(batch, batch_sharding(experiment.mesh))

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, placed)
        jax.block_until_ready(metrics)

    return run


def augment(*, images: int, height: int, width: int, size: int, blur: bool) -> Run:
    """Two views of each image, cut on the host one after the other; all else on the device."""
    policy, pixels = simclr(size=size, blur=blur), inputs.pixels(images, height, width)
    views = jax.jit(policy.augment)
    label, key = np.full(images, -1, np.int32), jax.random.key(0)

    def run() -> None:
        shown = np.zeros((images, 2, size, size, 3), np.uint8)
        sizes = np.zeros((images, 2, 2), np.int32)
        for i, image in enumerate(pixels):
            for view, part in enumerate(_cuts(policy, image, i)):
                sizes[i, view] = part.shape[:2]
                shown[i, view, : part.shape[0], : part.shape[1]] = part
        batch = {"image": shown, "size": sizes, "label": label}
        jax.block_until_ready(views(key, batch))

    return run


def _cuts(policy: Policy, image: np.ndarray, row: int) -> list[np.ndarray]:
    cuts = policy.cuts
    assert isinstance(cuts, Cuts)
    boxes = cuts.boxes(random_words(0, 0, row), (image.shape[0], image.shape[1]))
    return [cut(image, box, cuts.size) for box in boxes]


def loss(*, pairs: int) -> Run:
    """NT-Xent and its gradient."""
    z = jax.device_put(inputs.projections(pairs), batch_sharding(make_mesh()))
    both = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, temperature=inputs.TEMPERATURE)))
    return lambda: jax.block_until_ready(both(z))


def decode_file(*, size: int, files: list[str]) -> Run:
    """Each file read, decoded and cut into two views."""
    policy = simclr(size=size)

    def run() -> None:
        for i, file in enumerate(files):
            _cuts(policy, decode(Path(file).read_bytes(), canvas=8192).pixels, i)

    return run


def startup() -> Run:
    """A process that trains on the digits until its first step; what it compiles is kept."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as workdir:
            arguments = ["train", "--config=simclr_digits", f"--workdir={workdir}"]
            _until([sys.executable, "-m", "simclr_jax", *arguments], FIRST_STEP)

    return run


def _until(command: list[str], words: str) -> None:
    """Starts a process, waits for a line of its log with these words, and ends it."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    if not any(words in line for line in process.stderr):
        raise RuntimeError(f"{command} ended before it said {words!r}.")
    process.kill()
    process.communicate()


def knn(*, num_train: int, num_test: int, dim: int) -> Run:
    """The classes that the nearest neighbours vote for."""
    train, labels = inputs.features(num_train, dim, seed=1)
    test, _ = inputs.features(num_test, dim, seed=2)
    settings: dict[str, Any] = {"k": inputs.K, "temperature": inputs.TEMPERATURE}
    settings["num_classes"] = inputs.NUM_CLASSES
    return lambda: jax.block_until_ready(knn_predict(train, labels, test, **settings))


def probe(*, num_train: int, dim: int) -> Run:
    """Logistic regression of one strength, as the last fit of a linear probe."""
    x, labels = inputs.features(num_train, dim, seed=1)
    x = inputs.standardised(x)
    columns, classes = jnp.asarray(x.T), inputs.NUM_CLASSES
    start = Solution(jnp.zeros((classes, dim)), jnp.zeros(classes))
    use = jnp.ones(num_train, bool)

    def fit(tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        examples = prepare(columns, jnp.asarray(labels))
        weights, bias = minimise(examples, use, inputs.L2, start, tolerance)
        return np.asarray(weights), np.asarray(bias)

    tolerance = inputs.loosest(fit, x, labels)
    return lambda: fit(tolerance)


KINDS: dict[str, Callable[..., Run]] = {
    "step": step,
    "augment": augment,
    "loss": loss,
    "decode": decode_file,
    "startup": startup,
    "knn": knn,
    "probe": probe,
}
