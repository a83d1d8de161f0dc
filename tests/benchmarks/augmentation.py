"""What augmentation costs: alone, and as a share of the train step of a CIFAR ResNet-18.

python tests/benchmarks/augmentation.py [--batch_size=64]
"""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax
from absl import app, flags

from simclr_jax.augment.policies import simclr_cifar
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.methods.simclr import simclr
from simclr_jax.models.heads import MLP
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import SSLModel
from simclr_jax.train.step import init_state, make_train_step

BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images, each with two views.")
REPEATS = 5


def median_ms(fn: Callable[[], object]) -> float:
    """Returns the median time of a call in milliseconds, compilation left out."""
    jax.block_until_ready(fn())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def main(argv: Sequence[str]) -> None:
    """Prints both times and their ratio."""
    del argv
    b, key = BATCH_SIZE.value, jax.random.key(0)
    pixels = np.random.default_rng(0).integers(0, 256, (b, 2, 32, 32, 3), np.uint8)
    sizes, labels = np.full((b, 2, 2), 32, np.int32), np.full(b, -1, np.int32)
    batch = jax.device_put({"image": pixels, "size": sizes, "label": labels})
    augment = simclr_cifar(size=32).augment
    model = SSLModel(encoder=ResNet(18, stem="cifar"), projector=MLP())
    facts = RunFacts(num_steps=1, num_images=b, num_classes=0, batch_size=b)
    method, tx = simclr(model, augment, facts), optax.sgd(0.1)
    state = jax.jit(init_state, static_argnums=(0, 1))(method, tx, key, batch)
    step = jax.jit(make_train_step(method, tx, key))
    augment = jax.jit(augment)
    augment_ms = median_ms(lambda: augment(key, batch))
    step_ms = median_ms(lambda: step(state, batch))
    print(f"CIFAR ResNet-18, {b} images, 2 views of 32 px, medians of {REPEATS} on this machine")
    print(f"augmentation     {augment_ms:8.1f} ms")
    print(f"whole train step {step_ms:8.1f} ms")
    print(f"share            {augment_ms / step_ms:8.1%}")


if __name__ == "__main__":
    app.run(main)
