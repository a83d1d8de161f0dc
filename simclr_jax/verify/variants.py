"""Ways to run one config that must learn the same, and what two of them differ in."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from simclr_jax.parallel.sharding import PRESETS

# What is compared, as named in `_Steps`.
QUANTITIES = ("views", "loss", "gradients", "batch_stats", "method_state", "update")
TOLERANCE = 1e-9
VIEWS_TOLERANCE = 1e-5  # of float32
# Error of a count of negatives, which is a whole number but for the rounding of its logarithm.
COUNT_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to run a config.

    Attributes:
      num_devices: 1, or all that are compared with it.
      preset: preset of `Layout`.
      tiled: the loss compares in tiles; or else all at once.
      cached: the network sees the batch in `num_chunks` parts; or else all of it.
      frozen: every BatchNorm normalises with its running statistics.
    """

    num_devices: int
    preset: str = "replicated"
    tiled: bool = False
    cached: bool = False
    frozen: bool = False

    def __str__(self) -> str:
        devices = f"{self.num_devices} device{'s' if self.num_devices > 1 else ''}"
        options = [name for name in ("tiled", "cached", "frozen") if getattr(self, name)]
        return ", ".join([devices, self.preset, *options])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A variant beside its reference.

    Attributes:
      differences: each of `QUANTITIES` that there is -> the largest relative difference.
      worst: quantity -> path of the array in which it is, "" for the loss.
      negatives: negatives that each row saw; None if the method contrasts nothing.
      expected_negatives: negatives that each row should see.
      compile_seconds: seconds that the step of this variant took to compile.
    """

    variant: Variant
    reference: Variant
    differences: dict[str, float]
    worst: dict[str, str]
    negatives: float | None
    expected_negatives: int | None
    compile_seconds: float

    def failures(self, tolerance: float = TOLERANCE) -> list[str]:
        """Returns a sentence for each quantity that differs by more than the tolerance.

        Args:
          tolerance: bound for all but the views, which have their own.
        """
        limits = dict.fromkeys(self.differences, tolerance) | {"views": VIEWS_TOLERANCE}
        failed = [
            f"{self.variant}: {name} off by {value:.2g} from {self.reference}"
            + (f", most at {self.worst[name]}" if self.worst[name] else "")
            + f"; the tolerance is {limits[name]:.2g}."
            for name, value in self.differences.items()
            if not value <= limits[name]  # a NaN is no agreement
        ]
        seen, expected = self.negatives, self.expected_negatives
        if seen is None or expected is None:
            return failed
        if not abs(seen - expected) <= COUNT_TOLERANCE:
            failed.append(
                f"{self.variant}: each row saw {seen:.2f} negatives; it should see {expected}."
            )
        return failed


def variants(num_devices: int, *, tiles: bool) -> list[list[Variant]]:
    """Returns groups of variants that must agree; the first of each is the reference.

    Parts of a batch have their own BatchNorm statistics, so cached variants agree with the others
    only where statistics are frozen.

    Args:
      num_devices: devices to compare with one.
      tiles: whether the method has a loss that can be tiled.
    """
    spread = functools.partial(Variant, num_devices)
    plain = [Variant(1), *(spread(preset) for preset in PRESETS)]
    cached = [
        Variant(1, cached=True),
        *(spread(preset, tiled=tiles, cached=True) for preset in PRESETS),
    ]
    if tiles:
        plain += [Variant(1, tiled=True), spread(tiled=True)]
    return [plain, cached, [Variant(1, frozen=True), Variant(1, cached=True, frozen=True)]]


def num_chunks(config: Mapping[str, Any]) -> int:
    """Returns in how many parts cached variants take the batch: as many as the config, or two."""
    return max(2, {"grad_cache_chunks": 2, **config["method"]}["grad_cache_chunks"])


def fsdp_size(num_devices: int) -> int:
    """Returns the length of mesh axis "fsdp", a power of two, that leaves some for "data"."""
    power = num_devices & -num_devices
    return power // 2 if power == num_devices else power
