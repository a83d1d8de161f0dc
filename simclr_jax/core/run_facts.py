"""What a builder may need to know of the run that it builds for."""

import dataclasses


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
