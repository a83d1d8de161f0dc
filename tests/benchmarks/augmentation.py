"""Times augmentation alone, jitted, on random images of full canvas size.

python tests/benchmarks/augmentation.py
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.augment.policies import Augment, simclr, simclr_cifar


def augment_ms(augment: Augment, *, batch_size: int, canvas: int, repeats: int = 10) -> float:
    """Returns the median time of one batch in milliseconds, compilation left out."""
    shape = (batch_size, canvas, canvas, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batch = jax.device_put({"image": image, "size": jnp.full((batch_size, 2), canvas)})
    run, key = jax.jit(augment), jax.random.key(0)
    jax.block_until_ready(run(key, batch))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(key, batch))
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


if __name__ == "__main__":
    cifar = augment_ms(simclr_cifar(size=32), batch_size=256, canvas=32)
    print(f"simclr_cifar, 256 images of 32 px, 2 views: {cifar:.1f} ms")
    imagenet = augment_ms(simclr(size=224), batch_size=8, canvas=320)
    print(f"simclr, 8 images of 320 px, 2 views of 224 px: {imagenet:.1f} ms")
