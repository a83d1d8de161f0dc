"""Peak memory of importing a checkpoint, over the size of its weights; by default the largest.

A process writes random weights in the official format, and another one imports them. The first
needs TensorFlow, about 4 GB of disk twice and 1 GB of memory.

python tests/benchmarks/import_memory.py [--depth=152] [--width=3]
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

DEPTH = flags.DEFINE_integer("depth", 152, "Of the ResNet, which has selective kernels.")
WIDTH = flags.DEFINE_integer("width", 3, "Of the ResNet.")
WRITE = flags.DEFINE_string("write", None, "Only writes the checkpoint; its prefix.")
PART_BYTES = 2**28


def write_checkpoint(prefix: str) -> None:
    """Writes a checkpoint in parts, so that no more than one is in memory."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import tensorflow as tf

    from simclr_jax.core.tree import path_name
    from simclr_jax.interop.names import official_names
    from simclr_jax.models.heads import MLP
    from simclr_jax.models.resnet import ResNet
    from simclr_jax.models.ssl import SSLModel

    encoder, projector = ResNet(DEPTH.value, WIDTH.value, sk_ratio=0.0625), MLP()
    model = SSLModel(encoder, projector)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    names = official_names(encoder, projector)
    parts: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    for path, x in jax.tree_util.tree_leaves_with_path(variables):
        if 4 * sum(math.prod(shape) for _, shape in parts[-1]) > PART_BYTES:
            parts.append([])
        parts[-1].append((names[path_name(path)], x.shape))
    rng = np.random.default_rng(0)
    for i, part in enumerate(parts):
        tf.raw_ops.SaveV2(
            prefix=f"{prefix}.part{i}",
            tensor_names=[name for name, _ in part],
            shape_and_slices=[""] * len(part),
            tensors=[tf.constant(rng.standard_normal(shape, np.float32)) for _, shape in part],
        )
    prefixes = [f"{prefix}.part{i}" for i in range(len(parts))]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=prefixes, destination_prefix=prefix)


def main(argv: Sequence[str]) -> None:
    """Prints the peak, the size of the weights and their ratio."""
    del argv
    if WRITE.value is not None:
        write_checkpoint(WRITE.value)
        return
    with tempfile.TemporaryDirectory() as directory:
        prefix, workdir = f"{directory}/model.ckpt-1", f"{directory}/run"
        shape = (f"--depth={DEPTH.value}", f"--width={WIDTH.value}")
        subprocess.run([sys.executable, __file__, *shape, f"--write={prefix}"], check=True)
        weights = sum(file.stat().st_size for file in Path(directory).glob("*.data-*"))
        start = time.perf_counter()
        arguments = (f"--checkpoint={prefix}", f"--workdir={workdir}")
        process = subprocess.Popen([sys.executable, "-m", "simclr_jax", "import", *arguments])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("The import failed.")
        seconds = time.perf_counter() - start
        encoder = json.loads(Path(workdir, "config.json").read_text())["encoder"]
    peak = 1024 * usage.ru_maxrss
    print(f"ResNet-{encoder['depth']} {encoder['width']}x with selective kernels, and projector")
    print(f"weights              {weights / 1e9:6.2f} GB")
    print(f"peak resident memory {peak / 1e9:6.2f} GB = {peak / weights:.2f} times the weights")
    print(f"time                 {seconds:6.1f} s")


if __name__ == "__main__":
    app.run(main)
