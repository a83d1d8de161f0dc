"""Compares the cost of other methods' steps with that of SimCLR's, with the same passes.

  python launch/methods_overhead.py            # FLOPs, of 512 pairs
  python launch/methods_overhead.py --time     # and CPU time, of 64 pairs; minutes

The network is a ResNet-18 on CIFAR-10 images, configs/simclr_cifar10.py:r18. Barlow Twins and
VICReg have their three layers, 2,048 wide.
"""

import argparse
import statistics
import time
from typing import Any

import jax

from simclr_jax.build import recipe
from simclr_jax.build.experiment import Experiment, build_experiment, train_step
from simclr_jax.plan.dataset_spec import DatasetSpec

RECIPE = "simclr_cifar10:r18"
WIDE = {"num_layers": 3, "hidden_dim": 2048, "output_dim": 2048, "last_norm": "none"}
OTHERS: dict[str, dict[str, Any]] = {
    "simclr": {},
    "supcon": {"method": {"name": "supcon", "temperature": 0.5}},
    "dcl": {"method": {"name": "dcl", "temperature": 0.5}},
    "hard_negatives": {"method": {"name": "hard_negatives", "temperature": 0.5}},
    "barlow_twins": {"method": {"name": "barlow_twins"}, "heads": {"projector": WIDE}},
    "vicreg": {"method": {"name": "vicreg"}, "heads": {"projector": WIDE}},
}


def experiment(name: str, pairs: int) -> Experiment:
    """Returns the experiment of a method on one device, with images that need not be there."""
    config = {**recipe.load(RECIPE, {"data": {"batch_size": pairs}}), **OTHERS[name]}
    images = DatasetSpec("images", 50_000, tuple("0123456789"))
    return build_experiment(config, jax.devices()[:1], train_source=images)


def flops(name: str) -> float:
    """Returns the FLOPs of a step, before the compiler changes anything."""
    built = experiment(name, pairs=512)
    program = train_step(built).lower(built.abstract_state, built.abstract_batch)
    return (program.cost_analysis() or {})["flops"]


def cpu_seconds(samples: int) -> dict[str, float]:
    """Returns the median CPU time of a step of each method; the methods take turns."""
    steps = {}
    for name in OTHERS:
        built = experiment(name, pairs=64)
        state = jax.jit(built.init)()
        batch = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), built.abstract_batch)
        steps[name] = [train_step(built), state, batch]
    times: dict[str, list[float]] = {name: [] for name in OTHERS}
    for _ in range(samples + 1):
        for name, parts in steps.items():
            step, state, batch = parts
            start = time.process_time()
            parts[1], metrics = step(state, batch)
            jax.block_until_ready((parts[1], metrics))
            times[name].append(time.process_time() - start)
    return {name: statistics.median(all_times[1:]) for name, all_times in times.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--time", action="store_true", help="measure the CPU time, too")
    parser.add_argument("--samples", type=int, default=5, help="steps of each method")
    flags = parser.parse_args()
    columns = {"FLOPs": {name: flops(name) for name in OTHERS}}
    if flags.time:
        columns["CPU time"] = cpu_seconds(flags.samples)
    print(f"| step of | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for name in OTHERS:
        cells = [f"{column[name] / column['simclr']:.3f}" for column in columns.values()]
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
