"""What a builder may need to know of the run that it builds for."""

import dataclasses

MOST_STEPS = 2**30  # steps are counted in 32 bits, and some are added to


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """The size of a run, for schedules and memories whose length depends on it.

    Attributes:
      num_steps: optimizer steps of the whole run.
      num_images: training images.
      num_classes: classes of their labels; 0 without labels.
      batch_size: images in the global batch.
    """

    num_steps: int
    num_images: int
    num_classes: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the images, at least 1."""
        return max(1, self.num_images // self.batch_size)

    def steps_in(self, setting: str, epochs: float | int) -> int:
        """Returns how many steps some epochs are, rounded.

        Args:
          setting: what says so, for the message, such as "warmup_epochs".
          epochs: passes over the images, >= 0.

        Raises:
          ValueError: if they are more than can be counted.
        """
        steps = epochs * self.steps_per_epoch
        if steps > MOST_STEPS:
            raise ValueError(
                f"{setting}={epochs:g} is {steps:.3g} steps, of which at most {MOST_STEPS:,} can "
                f"be counted; the run has {self.num_steps:,}, and to last to its end, use "
                f"{-(-self.num_steps // self.steps_per_epoch)}."
            )
        return round(steps)
