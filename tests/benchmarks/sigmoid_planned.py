"""What devices send each other for SigLIP's loss on a TPU slice that is not there: ring or gather.

python tests/benchmarks/sigmoid_planned.py [--topology=v5p:8x8x16] [--batch=32768] [--width=512]

Compiles value and gradients of `sigmoid_pairs`, with rows in float32, by the TPU's own compiler.
Needs requirements-tpu.txt.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.sharding import NamedSharding, PartitionSpec

from simclr_jax.losses.two_towers import EXCHANGES, sigmoid_pairs
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import batch_sharding
from simclr_jax.plan.aot import Program, compile_step, slice_devices
from simclr_jax.plan.chips import find_slice

TOPOLOGY = flags.DEFINE_string("topology", "v5p:8x8x16", "Slice, as `plan` takes it.")
BATCH = flags.DEFINE_integer("batch", 32768, "Pairs in the global batch.")
WIDTH = flags.DEFINE_integer("width", 512, "Numbers in a row.")


def main(argv: Sequence[str]) -> None:
    """Prints a line for each exchange."""
    del argv
    jax.config.update("jax_platforms", "cpu")
    mesh = make_mesh(slice_devices(find_slice(TOPOLOGY.value)))
    place = lambda sharding, *shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    rows = place(batch_sharding(mesh), BATCH.value, WIDTH.value)
    scalar = place(NamedSharding(mesh, PartitionSpec()))
    print(f"{TOPOLOGY.value}, {mesh.size} devices, {BATCH.value} pairs, d = {WIDTH.value}")
    for exchange in EXCHANGES:

        def loss(first: Any, second: Any, log_scale: Any, bias: Any, exchange: str = exchange):
            scalars = {"log_scale": log_scale, "bias": bias}
            return sigmoid_pairs(first, second, exchange=exchange, **scalars)

        gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
        program = compile_step(gradients, rows, rows, scalar, scalar)
        assert isinstance(program, Program), program.message
        sent = ", ".join(
            f"{found['count']} {kind} {found['bytes'] / 1e6:.1f} MB"
            for kind, found in sorted(program.collectives.items())
        )
        print(
            f"{exchange:7s} temporaries {program.temporaries_bytes / 1e6:8.1f} MB, "
            f"HBM traffic {program.hbm_bytes / 1e6:8.1f} MB, "
            f"{program.flops / 1e9:6.2f} GFLOP; {sent}"
        )


if __name__ == "__main__":
    app.run(main)
