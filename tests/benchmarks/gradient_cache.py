"""What the gradient cache costs: the train step in 8 parts of the batch and in one.

  python tests/benchmarks/gradient_cache.py [--batch_size=256] [--chunks=8]

Both train a ResNet-18 of a quarter of the width on random images. Steps alternate, so that other
load on the machine meets both; medians are compared. The forward pass runs twice, so 4/3 is what
the arithmetic alone costs. Peak memory is what `plan` prints for
--config.method.grad_cache_chunks=N.
"""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
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

BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images, each with two views.")
CHUNKS = flags.DEFINE_integer("grad_cache_chunks", 8, "Parts of the batch.")
SIZE_PX, ROUNDS = 32, 7


def main(argv: Sequence[str]) -> None:
    """Times both steps and prints the ratio."""
    del argv
    b, root, tx = BATCH_SIZE.value, jax.random.key(0), optax.sgd(0.1)
    pixels = np.random.default_rng(0).integers(0, 256, (b, 2, SIZE_PX, SIZE_PX, 3), np.uint8)
    batch = {
        "image": jnp.asarray(pixels),
        "size": jnp.full((b, 2, 2), SIZE_PX, jnp.int32),
        "label": jnp.full((b,), -1, jnp.int32),
    }
    model = SSLModel(ResNet(18, width=0.25), projector=MLP())
    facts = RunFacts(num_steps=1, num_images=b, num_classes=0, batch_size=b)
    steps, states = {}, {}
    for grad_cache_chunks in (1, CHUNKS.value):
        method = simclr(
            model, simclr_cifar(size=SIZE_PX).augment, facts, grad_cache_chunks=grad_cache_chunks
        )
        steps[grad_cache_chunks] = jax.jit(make_train_step(method, tx, root), donate_argnums=0)
        states[grad_cache_chunks] = jax.jit(init_state, static_argnums=(0, 1))(
            method, tx, root, batch
        )
    seconds: dict[int, list[float]] = {grad_cache_chunks: [] for grad_cache_chunks in steps}
    for _ in range(ROUNDS + 1):
        for grad_cache_chunks, step in steps.items():
            start = time.perf_counter()
            states[grad_cache_chunks], _ = jax.block_until_ready(
                step(states[grad_cache_chunks], batch)
            )
            seconds[grad_cache_chunks].append(time.perf_counter() - start)
    plain, cached = (float(np.median(times[1:])) for times in seconds.values())
    print(
        f"{b} images at once {1e3 * plain:.0f} ms, in {CHUNKS.value} parts {1e3 * cached:.0f} ms:"
    )
    print(f"{cached / plain:.2f} times as long")


if __name__ == "__main__":
    app.run(main)
