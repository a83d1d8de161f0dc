"""What augmentation adds to a step on a TPU that is not there, by the TPU's own compiler.

python tests/benchmarks/augmentation_planned.py [--topology=v3:4x4]

Compiles the train step of a recipe as it is, and once more with views for input. Needs
requirements-tpu.txt.
"""

import dataclasses
from collections.abc import Sequence

import jax
from absl import app, flags
from ml_collections import config_flags

from simclr_jax.build.parts import Parts, parts, train_step
from simclr_jax.cli.stand_in import open_or_stand_in
from simclr_jax.parallel.aot import Program, compile_step, slice_devices
from simclr_jax.parallel.chips import find_slice
from simclr_jax.parallel.sharding import batch_sharding

CONFIG = config_flags.DEFINE_config_file("config", "configs/simclr_imagenet.py:v1_r50_1x", "Recipe")
TOPOLOGY = flags.DEFINE_string("topology", "v3:4x4", "Slice, as `plan` takes it.")


def main(argv: Sequence[str]) -> None:
    """Prints both counts and what the step has more with augmentation."""
    del argv
    jax.config.update("jax_platforms", "cpu")
    config = CONFIG.value.to_dict()
    devices = slice_devices(find_slice(TOPOLOGY.value))
    source, _ = open_or_stand_in(config, None)
    p = parts(config, devices, stand_in=source)
    whole, rest = _compiled(p), _compiled(_from_views(p))
    print(f"{TOPOLOGY.value}, a device       whole   given views   augmentation")
    for name, unit, giga in (
        ("flops", "GFLOP", 1e9),
        ("bytes_accessed", "GB", 1e9),
        ("hbm_bytes", "GB", 1e9),
    ):
        a, b = (getattr(program, name) / giga for program in (whole, rest))
        print(f"{name:16} {a:10.2f}    {b:10.2f} {unit:5} {a / b - 1:+10.1%}")


def _from_views(p: Parts) -> Parts:
    views = jax.eval_shape(p.method.augment, jax.random.key(0), p.abstract_batch)
    views = jax.ShapeDtypeStruct(views.shape, views.dtype, sharding=batch_sharding(p.mesh))
    method = dataclasses.replace(p.method, augment=lambda key, batch: batch["views"])
    batch = {"views": views, "label": p.abstract_batch["label"]}
    return dataclasses.replace(p, method=method, abstract_batch=batch)


def _compiled(p: Parts) -> Program:
    program = compile_step(train_step(p), p.abstract_state, p.abstract_batch)
    assert isinstance(program, Program), program.message
    return program


if __name__ == "__main__":
    app.run(main)
