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

from simclr_jax.build.experiment import Experiment, build_experiment, train_step
from simclr_jax.parallel.sharding import batch_sharding
from simclr_jax.plan.aot import Program, compile_step, slice_devices
from simclr_jax.plan.chips import find_slice
from simclr_jax.plan.dataset_spec import open_or_describe

CONFIG = config_flags.DEFINE_config_file("config", "configs/simclr_imagenet.py:v1_r50_1x", "Recipe")
TOPOLOGY = flags.DEFINE_string("topology", "v3:4x4", "Slice, as `plan` takes it.")


def main(argv: Sequence[str]) -> None:
    """Prints both counts and what the step has more with augmentation."""
    del argv
    jax.config.update("jax_platforms", "cpu")
    config = CONFIG.value.to_dict()
    devices = slice_devices(find_slice(TOPOLOGY.value))
    source, _ = open_or_describe(config, None)
    experiment = build_experiment(config, devices, train_source=source)
    whole, rest = _compiled(experiment), _compiled(_from_views(experiment))
    print(f"{TOPOLOGY.value}, a device       whole   given views   augmentation")
    for name, unit, giga in (
        ("flops", "GFLOP", 1e9),
        ("bytes_accessed", "GB", 1e9),
        ("hbm_bytes", "GB", 1e9),
    ):
        a, b = (getattr(program, name) / giga for program in (whole, rest))
        print(f"{name:16} {a:10.2f}    {b:10.2f} {unit:5} {a / b - 1:+10.1%}")


def _from_views(experiment: Experiment) -> Experiment:
    views = jax.eval_shape(experiment.method.augment, jax.random.key(0), experiment.abstract_batch)
    views = jax.ShapeDtypeStruct(views.shape, views.dtype, sharding=batch_sharding(experiment.mesh))
    method = dataclasses.replace(experiment.method, augment=lambda key, batch: batch["views"])
    batch = {"views": views, "label": experiment.abstract_batch["label"]}
    return dataclasses.replace(experiment, method=method, abstract_batch=batch)


def _compiled(experiment: Experiment) -> Program:
    program = compile_step(
        train_step(experiment), experiment.abstract_state, experiment.abstract_batch
    )
    assert isinstance(program, Program), program.message
    return program


if __name__ == "__main__":
    app.run(main)
