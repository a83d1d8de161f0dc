"""Colour operations on one planar image, and their random composition of SimCLR.

Images are float32 [3, h, w] (red, green, blue). Planes keep the inner loop contiguous on a
CPU and fill a TPU's lanes, where a trailing axis of 3 would leave most of them empty.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simclr_jax.core.types import PRNGKey, Scalar

Image: TypeAlias = Float[Array, "3 h w"]
Factor: TypeAlias = Scalar | float

JITTERS = ("v2", "v1")
# Half-widths at strength 1 of the ranges of brightness, contrast, saturation and hue.
WIDTHS = (0.8, 0.8, 0.8, 0.2)
# Contrast and saturation are drawn from 1 -/+ 0.8 * strength, which must not be negative.
MAX_STRENGTH = 1.25
JITTER_PROBABILITY = 0.8
GRAY_PROBABILITY = 0.2


def scale_brightness(image: Image, factor: Factor) -> Image:
    """Multiplies the image (brightness of SimCLRv2's code)."""
    return image * factor


def add_brightness(image: Image, delta: Factor) -> Image:
    """Adds to the image (brightness of SimCLRv1's code)."""
    return image + delta


def scale_contrast(image: Image, factor: Factor) -> Image:
    """Moves each channel away from its own mean over the image (factor > 1) or towards it.

    torchvision takes one mean, that of the grey image, for all channels.
    """
    mean = jnp.mean(image, axis=(1, 2), keepdims=True)
    return (image - mean) * factor + mean


def scale_saturation(image: Image, factor: Factor) -> Image:
    """Multiplies the saturation in HSV by `factor` >= 0, and cuts it at 1.

    At fixed hue and value, a pixel's distances to its largest channel grow in proportion
    to its saturation, so there is no need to compute the hue. torchvision blends with the
    grey image, which can differ by 0.5.
    """
    high, spread = _value_and_spread(image)
    new_spread = jnp.minimum(spread * factor, jnp.maximum(high, 0.0))
    ratio = new_spread / jnp.where(spread > 0, spread, 1.0)
    return high[None] - (high[None] - image) * ratio[None]


def rotate_hue(image: Image, turns: Factor) -> Image:
    """Adds `turns` to the hue in HSV, in full turns, at fixed value and saturation."""
    red, green, blue = image[0], image[1], image[2]
    high, spread = _value_and_spread(image)
    unit = 1 / jnp.where(spread > 0, spread, 1.0)
    hue = jnp.where(
        high == red,
        (green - blue) * unit,
        jnp.where(high == green, 2 + (blue - red) * unit, 4 + (red - green) * unit),
    )  # [h, w], in sixths of a turn: red 0, green 2, blue 4
    # Each channel follows the same trapezoid of the hue, a third of a turn apart. Computing
    # the three as one array is several times faster on a CPU than stacking them.
    phase = (hue + 6 * turns)[None] + jnp.array([5.0, 3.0, 1.0])[:, None, None]
    phase = phase - 6 * jnp.floor(phase / 6)
    below_high = jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)
    return high[None] - spread[None] * below_high


def _value_and_spread(image: Image) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Returns the largest channel of each pixel, and its distance to the smallest."""
    red, green, blue = image[0], image[1], image[2]
    high = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    return high, high - low


def to_gray(image: Image) -> Image:
    """Replaces all three channels by their luminance (weights sum to 0.9999, as in TensorFlow)."""
    gray = 0.2989 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    return jnp.broadcast_to(gray[None], image.shape)


class Jitter(NamedTuple):
    """One draw of the colour jitter.

    Attributes:
      order: permutation in which the operations are applied: 0 brightness, 1 contrast,
        2 saturation, 3 hue.
      amounts: what each operation, by that number, is called with.
    """

    order: Int[Array, "4"]
    amounts: Float[Array, "4"]


def draw_jitter(key: PRNGKey, *, strength: float, jitter: str = "v2") -> Jitter:
    """Draws one view's jitter: a uniform order, and an amount for each operation.

    At strength s: contrast and saturation in 1 -/+ 0.8 s, hue in -/+ 0.2 s turns, brightness
    in 1 -/+ 0.8 s ("v2", a factor) or in -/+ 0.8 s ("v1", a summand). 0 < s <= 1.25.
    """
    center = jnp.array([1.0 if jitter == "v2" else 0.0, 1.0, 1.0, 0.0])
    width = strength * jnp.array(WIDTHS)
    unit = jax.random.uniform(key, (2, 4))  # one call: each costs 0.4 s of compile time
    return Jitter(jnp.argsort(unit[0]), center + width * (2 * unit[1] - 1))


def color_jitter(image: Image, draw: Jitter, *, jitter: str = "v2") -> Image:
    """Applies the four operations in the drawn order, with a clip to [0, 1] after each."""
    brightness = scale_brightness if jitter == "v2" else add_brightness
    operations = (brightness, scale_contrast, scale_saturation, rotate_hue)

    def apply(image, step):
        index, amount = step
        return jnp.clip(jax.lax.switch(index, operations, image, amount), 0, 1), None

    # Under `vmap` the switch computes all four operations and selects, so 16 run instead of
    # 4. They are cheap as long as XLA does not fuse the rounds, which repeats the work of one
    # in each channel of the next (25 times slower on a CPU): hence a scan, not a Python loop.
    return jax.lax.scan(apply, image, (draw.order, draw.amounts[draw.order]))[0]


def random_color(key: PRNGKey, image: Image, *, strength: float, jitter: str = "v2") -> Image:
    """Jitters the colours of one view (p = 0.8) and turns it grey (p = 0.2), independently.

    On a grey image saturation and hue change nothing: brightness and contrast remain.

    Args:
      key: one key per image and view.
      image: planar floats, nominally in [0, 1]; a bicubic overshoot is welcome.
      strength: scales all four ranges, in (0, 1.25]; 1 on ImageNet, 0.5 on CIFAR-10.
      jitter: "v2" multiplies for brightness, as the released pipeline does; "v1" adds.

    Returns:
      The view, not yet clipped where it was not jittered.

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix A, and the official
    code (google-research/simclr, tf2/data_util.py).
    """
    chance_key, draw_key = jax.random.split(key)
    chance = jax.random.uniform(chance_key, (2,))
    draw = draw_jitter(draw_key, strength=strength, jitter=jitter)
    jittered = color_jitter(image, draw, jitter=jitter)
    image = jnp.where(chance[0] < JITTER_PROBABILITY, jittered, image)
    return jnp.where(chance[1] < GRAY_PROBABILITY, to_gray(image), image)
