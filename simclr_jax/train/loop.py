"""The one loop: pretraining, fine-tuning and distillation differ only in `step`."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import jax

from simclr_jax.core.ranges import Count, Seed
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Metrics
from simclr_jax.train.health import THEN
from simclr_jax.train.step import TrainStep

Hook: TypeAlias = Callable[[int, TrainState, Metrics], None]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How long a run is, how often it reports, and from which seed it starts.

    Attributes:
      epochs: passes over the training images.
      seed: seed of the parameters, the order of images and the augmentations.
      log_every: steps between two lines of metrics.
      checkpoint_every: steps between two checkpoints; the last step is always saved.
      keep_checkpoints: how many of the newest checkpoints stay.
      keep_best: a metric, such as "knn_top1"; the checkpoint with its best value stays, too. The
        largest is the best, but of the loss the smallest. Values of an evaluation all count, and
        are saved; of the loss, those at checkpoints.
      non_finite: what happens after a step whose loss or gradient is not finite; it is never
        applied. "stop"; "skip": the run goes on with the next batch; "roll back": with the next
        batch, from the last checkpoint. The optimizer's schedule counts updates, so that it lags.
      ledger: note ids, key, loss and a hash of the parameters of each step in D/ledger.jsonl.
      extended: (step, epochs that it had until then) of each time that the run was made longer;
        the program writes it.
    """

    epochs: Count
    seed: Seed = 0
    log_every: Count = 50
    checkpoint_every: Count = 1000
    keep_checkpoints: Count = 2
    keep_best: str = ""
    non_finite: str = "stop"
    ledger: bool = False
    extended: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        if self.non_finite not in THEN:
            raise ValueError(f"non_finite={self.non_finite!r} must be one of {', '.join(THEN)}.")


def fit(
    state: TrainState,
    step: TrainStep,
    batches: Iterator[Batch],
    *,
    num_steps: int,
    hooks: Sequence[Hook] = (),
) -> TrainState:
    """Runs `step` until `num_steps` optimizer steps have been taken in total.

    Args:
      state: a fresh or a restored state; the loop starts at `state.step`.
      step: compiled train step, which may donate its state.
      batches: global batches from step `state.step` on, already placed on the mesh.
      num_steps: total steps of the run, counted from step 0, not from `state`.
      hooks: called in order after every step with (steps taken, state, metrics).
        A hook reads; only the step writes. Metrics are still on the device. A hook
        stops the run by raising.
    """
    first = int(jax.device_get(state.step))
    for i in range(first, num_steps):
        with jax.profiler.StepTraceAnnotation("train", step_num=i):
            state, metrics = step(state, next(batches))
        for hook in hooks:
            hook(i + 1, state, metrics)
    return state
