"""What the metrics of health add to training: FLOPs and bytes, as XLA counts them.

  python tests/benchmarks/health.py [--config=configs/simclr_digits.py]

Compiles the step of a recipe for this machine as it is, and without the metrics that nothing but
a line of metrics needs, which the compiler then leaves out; and what runs for each line that is
due beside the step. Nothing is run.
"""

import argparse

import jax

from simclr_jax.build.experiment import build_experiment
from simclr_jax.cli.recipe import load
from simclr_jax.train.norms import copied, norms_of_update
from simclr_jax.train.step import make_train_step

NEEDED = ("loss", "health/finite")
MOST = 0.02
UNITS = {"flops": ("GFLOP", 1e9), "bytes accessed": ("GB", 1e9)}


def main() -> None:
    """Prints the counts; fails if one grows by more than 2 % with a line at the usual interval."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/simclr_digits.py")
    config, overrides = parser.parse_known_args()
    experiment = build_experiment(load(config.config, overrides).config, jax.devices()[:1])
    step = make_train_step(experiment.method, experiment.tx, jax.random.key(0))

    def without(state, batch):
        state, metrics = step(state, batch)
        return state, {name: metrics[name] for name in NEEDED}

    arguments = experiment.abstract_state, experiment.abstract_batch
    params = experiment.abstract_state.params
    whole, bare = (_counts(jax.jit(one, donate_argnums=0), *arguments) for one in (step, without))
    of_lines = _counts(copied, params), _counts(norms_of_update, params, params)
    every, growth = experiment.run.log_every, {}
    for name, (unit, scale) in UNITS.items():
        line = sum(count[name] for count in of_lines)
        rows = {
            "without metrics": bare[name],
            "with metrics": whole[name],
            "with a line, too": whole[name] + line,
            f"a line in {every}": whole[name] + line / every,
        }
        for what, count in rows.items():
            more = count / bare[name] - 1
            print(f"{name:15} of a step {what:17}{count / scale:8.4f} {unit:6}{more:+.2%}")
        growth[name] = rows[f"a line in {every}"] / bare[name] - 1
    if max(growth.values()) > MOST:
        raise SystemExit(f"That is more than {MOST:.0%}.")


def _counts(program, *arguments) -> dict[str, float]:
    return {"flops": 0.0, **(program.lower(*arguments).compile().cost_analysis() or {})}


if __name__ == "__main__":
    main()
