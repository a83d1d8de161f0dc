"""What the metrics of health add to a train step: FLOPs and bytes, as XLA counts them.

  python tests/benchmarks/health.py [--config=configs/simclr_digits.py]

Compiles the step of a recipe for this machine as it is, and without the metrics that nothing but
a line of metrics needs, which the compiler then leaves out. Nothing is run.
"""

import argparse

import jax

from simclr_jax.build.experiment import build_experiment
from simclr_jax.cli.recipe import load
from simclr_jax.train.step import make_train_step

NEEDED = ("loss", "health/finite")
MOST = 0.02


def main() -> None:
    """Prints both counts and their ratio; fails if one grows by more than 2 %."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/simclr_digits.py")
    config, overrides = parser.parse_known_args()
    experiment = build_experiment(load(config.config, overrides).config, jax.devices()[:1])
    step = make_train_step(experiment.method, experiment.tx, jax.random.key(0))

    def without(state, batch):
        state, metrics = step(state, batch)
        return state, {name: metrics[name] for name in NEEDED}

    arguments = experiment.abstract_state, experiment.abstract_batch
    whole, bare = (
        jax.jit(one, donate_argnums=0).lower(*arguments).compile().cost_analysis() or {}
        for one in (step, without)
    )
    growth = {}
    for name, unit, scale in (("flops", "GFLOP", 1e9), ("bytes accessed", "GB", 1e9)):
        growth[name] = whole[name] / bare[name] - 1
        print(
            f"{name}: {whole[name] / scale:.4f} {unit} with metrics of health, "
            f"{bare[name] / scale:.4f} without: {growth[name]:+.2%}"
        )
    if max(growth.values()) > MOST:
        raise SystemExit(f"That is more than {MOST:.0%}.")


if __name__ == "__main__":
    main()
