"""Learning-rate schedule and step counts of the SimCLR papers."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import optax

from simclr_jax.core.ranges import NonNegative, Positive
from simclr_jax.core.run_facts import RunFacts


@dataclasses.dataclass(frozen=True)
class RunSchedule:
    """What changes over a run; each is a function of the optimizer step.

    Attributes:
      rate: the learning rate, which calling the schedule returns.
      held: the learning rate of parameters whose rate does not fall after warm-up.
      done: the share of the run that is over, in [0, 1].
    """

    rate: optax.Schedule
    held: optax.Schedule
    done: optax.Schedule

    def __call__(self, count: Any) -> Any:  # numbers and arrays of them
        """Returns the learning rate."""
        return self.rate(count)

    def after(self, steps: int) -> "RunSchedule":
        """Returns the schedule of what starts that many steps into the run."""
        late = lambda schedule: lambda count: schedule(count + steps)
        return RunSchedule(late(self.rate), late(self.held), late(self.done))


def num_train_steps(num_examples: int, batch_size: int, epochs: int) -> int:
    """Returns the optimizer steps of a run; the official code adds one to the full batches."""
    if epochs < 1:
        raise ValueError(f"epochs={epochs}; a run needs at least 1.")
    return num_examples * epochs // batch_size + 1


def num_warmup_steps(num_examples: int, batch_size: int, warmup_epochs: float) -> int:
    """Returns the steps of linear warm-up, rounded as the official code rounds them."""
    return round(warmup_epochs * num_examples // batch_size)


def peak_rate(base_lr: float, batch_size: int, scaling: str) -> float:
    """Returns the learning rate after warm-up.

    Args:
      base_lr: the rate as papers quote it.
      batch_size: images in the global batch.
      scaling: "linear", base_lr * batch_size / 256; "sqrt", base_lr * sqrt(batch_size)
        (SimCLR, Appendix B.1); "none", base_lr itself (usual for AdamW).

    Raises:
      ValueError: if scaling is none of the three.
    """
    if scaling == "linear":
        return base_lr * batch_size / 256
    if scaling == "sqrt":
        return base_lr * math.sqrt(batch_size)
    if scaling == "none":
        return base_lr
    raise ValueError(f"scaling={scaling!r}; it must be 'linear', 'sqrt' or 'none'.")


def warmup_cosine(*, peak: float, total_steps: int, warmup_steps: int) -> RunSchedule:
    """Linear warm-up from 0, then half a cosine down to 0 (Loshchilov & Hutter 2017).

    Step 0 has rate 0 when there is a warm-up, step `warmup_steps` has the peak, and
    every step from `total_steps` on has 0. All counts are optimizer steps.

    Raises:
      ValueError: if the warm-up is negative or not shorter than the run.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"A warm-up of {warmup_steps} steps does not fit into a run of {total_steps}; "
            "lower warmup_epochs or raise epochs."
        )

    def held(count):
        return jnp.where(count < warmup_steps, peak * count / max(warmup_steps, 1), peak)

    def rate(count):
        decayed = jnp.clip((count - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        return held(count) * 0.5 * (1.0 + jnp.cos(jnp.pi * decayed))

    return RunSchedule(rate, held, lambda count: jnp.clip(count / total_steps, 0.0, 1.0))


def recipe_schedule(
    facts: RunFacts,
    *,
    base_lr: Positive,
    scaling: str = "linear",
    warmup_epochs: NonNegative = 10.0,
) -> RunSchedule:
    """Returns the schedule of a run that is described in epochs; see the functions above.

    Args:
      facts: facts of the run.
      base_lr: the rate as papers quote it; see `peak_rate`.
      scaling: how it grows with the batch: "linear", "sqrt" or "none".
      warmup_epochs: epochs of linear warm-up from 0; half a cosine follows.

    Raises:
      ValueError: if an argument is out of range.
    """
    return warmup_cosine(
        peak=peak_rate(base_lr, facts.batch_size, scaling),
        total_steps=facts.num_steps,
        warmup_steps=num_warmup_steps(facts.num_images, facts.batch_size, warmup_epochs),
    )
