"""A run for each value of a setting, trained and judged: what the setting does to what is learned.

Everything stands in the directories of the runs, so a sweep that was stopped goes on where it was.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from simclr_jax.build.experiment import Experiment, build_experiment
from simclr_jax.build.recipe import changed
from simclr_jax.build.schema import complete
from simclr_jax.core.errors import UserError
from simclr_jax.evals.results import read_results
from simclr_jax.report.comparison import read_runs
from simclr_jax.report.sweep import Point, write_sweep
from simclr_jax.run import train
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.trained.evaluate import FRACTIONS, evaluate

log = logging.getLogger(__name__)
PAGE = "sweep.html"


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A run of a sweep, before it is trained."""

    value: Any
    seed: int
    workdir: str
    config: Mapping[str, Any]


def sweep(
    config_at: Callable[[Any], Mapping[str, Any]],
    *,
    key: str,
    values: Sequence[Any],
    seeds: Sequence[int],
    workdir: str,
    fractions: Sequence[float] = FRACTIONS,
) -> list[Point]:
    """Trains and judges a run for each value and seed, those that are done left as they are.

    The page D/sweep.html is written anew after each run.

    Args:
      config_at: value -> complete config.
      key: path of the setting, such as "augment.color_strength".
      values: at least one, all different.
      seeds: values of run.seed; that of the recipe if there are none.
      workdir: directory of the directories of the runs.
      fractions: shares of the labels for kNN and linear probe, if there are labels.

    Raises:
      UserError: if a config is wrong, before anything is trained; or as `run.train` does.
      TryAgainError, NonFiniteError, Terminated: as of `run.train`; the same call goes on.
    """
    plans = _plans(config_at, key, values, seeds, workdir)
    for plan in plans:
        build_experiment(plan.config)
    points: list[Point] = []
    for i, plan in enumerate(plans, 1):
        log.info("Run %d of %d: %s=%s, seed %d.", i, len(plans), key, plan.value, plan.seed)
        _train_and_judge(plan, build_experiment(plan.config), fractions)
        points = _points(plans[:i])
        write_sweep(key, points, epath.Path(workdir) / PAGE)
    return points


def _plans(
    config_at: Callable[[Any], Mapping[str, Any]],
    key: str,
    values: Sequence[Any],
    seeds: Sequence[int],
    workdir: str,
) -> list[_Plan]:
    if not values:
        raise UserError("--values is empty: give the values to try, such as --values=0,0.5,1.")
    plans = []
    for value in values:
        config = config_at(value)
        found: Any = config
        for name in key.split("."):
            found = found[name]
        for seed in seeds or [config["run"]["seed"]]:
            text = re.sub(r"[^\w.,+-]", "_", f"{found}")
            name = f"{key.rpartition('.')[2]}={text}" + (f",seed={seed}" if seeds else "")
            seeded = changed(config, {"run.seed": seed})
            plans.append(_Plan(found, seed, str(epath.Path(workdir) / name), seeded))
    if len({plan.workdir for plan in plans}) < len(plans):
        raise UserError(
            f"Two of --values={','.join(map(str, values))}, or of --seeds, are the same: give each "
            "once."
        )
    return plans


def _train_and_judge(plan: _Plan, experiment: Experiment, fractions: Sequence[float]) -> None:
    step = Checkpoints(plan.workdir).last()
    if step < experiment.num_steps:
        train(plan.config, plan.workdir)
    else:  # raises if it is another run's
        workdirs.continued(plan.workdir, experiment.config, complete=complete, step=step)
    test = experiment.test_source
    if test is None or not test.class_names:
        log.info("Nothing is judged by labels: config.data has no labelled test_split.")
        return
    if not _is_judged(plan.workdir, experiment.num_steps, test.name, fractions):
        evaluate(plan.workdir, features=["encoder"], fractions=fractions)


def _is_judged(workdir: str, step: int, test_data: str, fractions: Sequence[float]) -> bool:
    rows = [
        row
        for row in read_results(workdir)
        if (row["features"], row["step"], row["test_data"]) == ("encoder", step, test_data)
    ]
    judged = {row["label_fraction"] for row in rows if row["protocol"] != "classifier"}
    return bool(rows) and (not judged or judged >= set(fractions))


def _points(plans: Sequence[_Plan]) -> list[Point]:
    runs = read_runs([plan.workdir for plan in plans])
    return [Point(plan.value, plan.seed, run) for plan, run in zip(plans, runs, strict=True)]
