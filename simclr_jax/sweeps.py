"""A run for each value of a setting, trained and judged: what the setting does to what is learned.

Everything stands in the directories of the runs, so a sweep that was stopped goes on where it was.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from simclr_jax.build.experiment import Experiment, build_experiment
from simclr_jax.build.recipe import changed
from simclr_jax.build.schema import complete
from simclr_jax.core.errors import UserError, is_out_of_memory
from simclr_jax.core.files import reason, require_writable
from simclr_jax.core.ranges import Fraction
from simclr_jax.core.sections import checked
from simclr_jax.evals.results import read_results
from simclr_jax.report.comparison import Run, read_runs
from simclr_jax.report.sweep import Point, write_sweep
from simclr_jax.run import train
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.health import NonFiniteError
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
    fractions: Sequence[float | int] = FRACTIONS,
) -> list[Point]:
    """Trains and judges a run for each value and seed, those that are done left as they are.

    The page D/sweep.html is written anew after each run. A run that fails, as one that diverges or
    has no room in memory, does not keep the others from being made; the same call tries it again.

    Args:
      config_at: value -> complete config.
      key: path of the setting, such as "augment.color_strength".
      values: at least one, all different.
      seeds: values of run.seed; that of the recipe if there are none.
      workdir: directory of the directories of the runs.
      fractions: shares of the labels for kNN and linear probe, if there are labels.

    Raises:
      UserError: before anything is trained, if a config or a share is wrong, or a directory holds
        another run or cannot be written to.
      StorageError, TryAgainError, Terminated: as of `run.train`; the same call goes on.
    """
    fractions = [checked("--fractions", float(share), Fraction) for share in fractions]
    plans = _plans(config_at, key, values, seeds, workdir)
    for plan in plans:
        experiment, steps = build_experiment(plan.config), Checkpoints(plan.workdir).steps()
        _require_same(plan, experiment, max(steps, default=0))
    page = epath.Path(workdir) / PAGE
    _make_directory(page.parent)
    require_writable(page, "--workdir")
    failed: dict[str, str] = {}
    points: list[Point] = []
    for i, plan in enumerate(plans, 1):
        log.info("Run %d of %d: %s=%s, seed %d.", i, len(plans), key, plan.value, plan.seed)
        try:
            _train_and_judge(plan, build_experiment(plan.config), fractions)
        except (UserError, NonFiniteError, MemoryError, jax.errors.JaxRuntimeError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and not is_out_of_memory(error):
                raise
            failed[plan.workdir] = f"{error}" or "out of memory"
            log.error("Run %d of %d failed: %s", i, len(plans), failed[plan.workdir])
        points = _points(plans[:i], failed)
        write_sweep(key, points, page)
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
    if key == "precision":
        raise UserError(
            "--key=precision stands for several settings; sweep one of them: --key=encoder.dtype "
            "--values=float32,bfloat16."
        )
    if key == "run.seed" and seeds:
        raise UserError(
            f"--key=run.seed and --seeds={','.join(map(str, seeds))} both set the seed: leave out "
            "--seeds."
        )
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


def _make_directory(path: epath.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={path} cannot be made: {reason(error)}.") from error


def _train_and_judge(plan: _Plan, experiment: Experiment, fractions: Sequence[float]) -> None:
    step = Checkpoints(plan.workdir).last()
    if step < experiment.num_steps:
        train(plan.config, plan.workdir)
    else:
        _require_same(plan, experiment, step)
    test = experiment.test_source
    if test is None or not test.class_names:
        log.info("Nothing is judged by labels: config.data has no labelled test_split.")
        return
    if not _is_judged(plan.workdir, experiment.num_steps, test.name, fractions):
        evaluate(plan.workdir, features=["encoder"], fractions=fractions)


def _require_same(plan: _Plan, experiment: Experiment, step: int) -> None:
    """Raises a UserError if the directory holds another run."""
    workdirs.continued(plan.workdir, experiment.config, complete=complete, step=step)


def _is_judged(workdir: str, step: int, test_data: str, fractions: Sequence[float]) -> bool:
    rows = [
        row
        for row in read_results(workdir)
        if (row["features"], row["step"], row["test_data"]) == ("encoder", step, test_data)
    ]
    judged = {row["label_fraction"] for row in rows if row["protocol"] != "classifier"}
    return bool(rows) and (not judged or judged >= set(fractions))


def _points(plans: Sequence[_Plan], failed: Mapping[str, str]) -> list[Point]:
    """Returns runs in order; one that failed, which may have no files, as empty."""
    done = [plan.workdir for plan in plans if plan.workdir not in failed]
    runs = {run.workdir: run for run in (read_runs(done) if done else [])}
    runs |= {path: Run(path, epath.Path(path).name, {}, [], []) for path in failed}
    return [Point(p.value, p.seed, runs[p.workdir], failed.get(p.workdir, "")) for p in plans]
