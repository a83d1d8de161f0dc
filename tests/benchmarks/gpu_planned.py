"""Memory and arithmetic of a recipe's step on a GPU that is not there, by the GPU's own compiler.

python tests/benchmarks/gpu_planned.py

Compiles with several batches and settings that save memory, and prints a table. Needs
`pip install 'jax[cuda12]'` (Linux, 6 GB) in an environment of its own, and no GPU: kernels are
not tried out, so that where there is one `plan --topology=here` may differ by their workspaces.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags
from jax.experimental import topologies

from simclr_jax.build import recipe
from simclr_jax.build.experiment import build_experiment, train_step
from simclr_jax.plan.aot import Program, compile_step
from simclr_jax.plan.dataset_spec import open_or_describe
from simclr_jax.plan.text import gib

RECIPE = flags.DEFINE_string("config", "simclr_imagenet:v1_r50_1x", "Recipe[:variant].")
# An H100 with 80 GB, by NVIDIA's data sheet and CUDA's device properties; XLA wants to know them.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000 device_memory_size: 84929347584 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Name in the table -> what is changed of the recipe.
STEPS = {
    "float32": {"precision": "f32"},
    "bf16": {},
    "bf16, half the batch": {"data": {"batch_size": 128}},
    "bf16, twice the batch": {"data": {"batch_size": 512}},
    "bf16, `encoder.remat=convs`": {"encoder": {"remat": "convs"}},
    "bf16, `encoder.remat=blocks`": {"encoder": {"remat": "blocks"}},
    "bf16, `method.grad_cache_chunks=4`": {"method": {"grad_cache_chunks": 4}},
    "bf16, 4 times the batch, `method.grad_cache_chunks=16`": {
        "data": {"batch_size": 1024},
        "method": {"grad_cache_chunks": 16},
    },
}


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    jax.config.update("jax_platforms", "cuda,cpu")
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # which asks the driver
    gpu = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    print("| step | batch | memory | temporaries | TFLOP | GB moved |\n|---|---|---|---|---|---|")
    for name, changes in STEPS.items():
        changes = {"data": {"batch_size": 256}, "precision": "bf16"} | changes
        program = _compiled(gpu.devices, changes)
        print(
            f"| {name} | {changes['data']['batch_size']} | {gib(program.total_bytes)} "
            f"| {gib(program.temporaries_bytes)} | {program.flops / 1e12:.2f} "
            f"| {program.hbm_bytes / 1e9:.0f} |",
            flush=True,
        )


def _compiled(devices: Sequence[Any], changes: Mapping[str, Any]) -> Program:
    config = recipe.load(RECIPE.value, changes)
    source, _ = open_or_describe(config, None)
    experiment = build_experiment(config, devices, train_source=source)
    program = compile_step(
        train_step(experiment), experiment.abstract_state, experiment.abstract_batch
    )
    assert isinstance(program, Program), program.message
    return program


if __name__ == "__main__":
    app.run(main)
