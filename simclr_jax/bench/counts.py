"""Exact counts of compiled train steps, beside those that are kept: what grew, without a clock.

A count is the same on every machine with the same compiler, so the table is keyed by its version:
jaxlib compiles for the CPU, libtpu for a TPU that need not be there.
"""

import dataclasses
import importlib.metadata
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax

from simclr_jax.build import recipe
from simclr_jax.build.experiment import build_experiment, train_step
from simclr_jax.core.files import write_text
from simclr_jax.plan.aot import TooLarge, compile_step, slice_devices
from simclr_jax.plan.chips import find_slice
from simclr_jax.plan.dataset_spec import DatasetSpec

log = logging.getLogger(__name__)
Counts: TypeAlias = dict[str, int]
KEPT = Path(__file__).with_name("counts.json")
GROWTH = 0.02  # above it, a count has grown
NUM_CPU_DEVICES = 8
# Code that is not made fast compiles in half the time. What is counted stands before that, and
# must not depend on the instructions that this machine's CPU has.
_ON_CPU = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_max_isa": "AVX2",
}


@dataclasses.dataclass(frozen=True)
class Step:
    """A train step that is counted.

    Attributes:
      recipe: NAME[:VARIANT].
      where: number of virtual CPU devices, or a TPU slice.
      sections: what is changed of the recipe.
    """

    recipe: str
    where: int | str
    sections: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        if isinstance(self.where, str):
            return f"{self.recipe} on {self.where}"
        return f"{self.recipe} on {self.where} CPU device{'s' * (self.where > 1)}"


# One of the published recipe of v2, with all that its step is made of.
_TINY = {
    "data": {"batch_size": 16},
    "augment": {"size": 32},
    "encoder": {"depth": 18, "width": 0.125},
    "method": {"memory": {"size": 256}},
}
ON_CPU = (
    Step("simclr_digits", 1),
    Step("simclr_digits", 8),
    Step("moco_v2:digits", 8),
    Step("simclr_imagenet:v2_r50_1x_sk,memory", 1, _TINY),
)
ON_TPU = (
    Step("simclr_digits", "v3:2x2"),
    Step("simclr_digits", "v5e:2x2"),
    Step("simclr_imagenet:v1_r50_1x", "v5e:8x8"),
)


@dataclasses.dataclass(frozen=True)
class Change:
    """A count that is not what it was.

    Attributes:
      step: name of the step, in words.
      what: one of its counts; 0 where there is none.
    """

    step: str
    what: str
    was: int
    now: int

    @property
    def grew(self) -> bool:
        """Whether it is too much."""
        return self.now > self.was * (1 + GROWTH)

    def __str__(self) -> str:
        share = f" ({self.now / self.was - 1:+.1%})" if self.was else ""
        return f"{self.step}: {self.what} {self.was:,} -> {self.now:,}{share}"


def compiler(steps: Sequence[Step]) -> str:
    """Returns the name and version of what compiles the steps, the key of their counts.

    Raises:
      UserError: if it is not installed.
    """
    name, where = "jaxlib", steps[0].where
    if isinstance(where, str):
        name = "libtpu"
        slice_devices(find_slice(where))
    return f"{name} {importlib.metadata.version(name)}"


def counts_of(step: Step) -> Counts:
    """Compiles a step, which needs neither images nor the devices, and counts one device's share.

    Returns:
      FLOPs, bytes in memory, runs of fusions; of each kind of transfer between devices, how many
      and how many bytes.
    """
    if isinstance(step.where, int):
        devices = jax.devices("cpu")[: step.where]
    else:
        devices = slice_devices(find_slice(step.where))
    log.info("Compiling %s.", step)
    config = recipe.load(step.recipe, step.sections)
    images = DatasetSpec("images", 100_000, ())
    experiment = build_experiment(config, devices, train_source=images)
    program = compile_step(
        train_step(experiment),
        experiment.abstract_state,
        experiment.abstract_batch,
        options=_ON_CPU if isinstance(step.where, int) else None,
    )
    if isinstance(program, TooLarge):
        raise RuntimeError(f"{step} does not fit: {program.message}")
    counts = {"flops": program.flops, "bytes": program.hbm_bytes, "fusions": program.fusions}
    for kind, transfers in program.collectives.items():
        counts |= {kind: transfers["count"], f"bytes of {kind}": transfers["bytes"]}
    return {name: round(value) for name, value in counts.items()}


def kept() -> dict[str, dict[str, Counts]]:
    """Returns the table: compiler -> step in words -> its counts."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def keep(name: str, steps: Mapping[str, Counts]) -> None:
    """Replaces what the table has of these steps by one compiler."""
    table = kept()
    table[name] = {**table.get(name, {}), **steps}
    write_text(KEPT, json.dumps(table, indent=1, sort_keys=True) + "\n")


def changes(step: str, was: Counts, now: Counts) -> list[Change]:
    """Returns what differs between two counts of a step."""
    both = [Change(step, what, was.get(what, 0), now.get(what, 0)) for what in {**was, **now}]
    return [change for change in both if change.was != change.now]
