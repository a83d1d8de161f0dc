"""Colour operations on one planar image, and their random composition of SimCLR.

Images are float32 planes [h, w] for red, green and blue: an array [3, h, w], or three arrays,
which XLA fuses without repeating the work of one channel in the others.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import PRNGKey, Scalar

Plane: TypeAlias = Float[Array, "h w"]
Planes: TypeAlias = tuple[Plane, Plane, Plane]
Image: TypeAlias = Float[Array, "3 h w"]
Factor: TypeAlias = Scalar | float
Widths: TypeAlias = tuple[float, float, float, float]

JITTERS = ("v2", "v1")
# Half-widths at strength 1 of the ranges of brightness, contrast, saturation and hue.
WIDTHS = (0.8, 0.8, 0.8, 0.2)
# Contrast and saturation are drawn from 1 -/+ 0.8 * strength, which must not be negative.
MAX_STRENGTH = 1.25
JITTER_PROBABILITY = 0.8
GRAY_PROBABILITY = 0.2


def scale_brightness(image: Image | Planes, factor: Factor) -> Planes:
    """Multiplies the image (brightness of SimCLRv2's code)."""
    red, green, blue = image
    return red * factor, green * factor, blue * factor


def add_brightness(image: Image | Planes, delta: Factor) -> Planes:
    """Adds to the image (brightness of SimCLRv1's code)."""
    red, green, blue = image
    return red + delta, green + delta, blue + delta


def scale_contrast(image: Image | Planes, factor: Factor) -> Planes:
    """Moves each channel away from its own mean over the image (factor > 1) or towards it.

    torchvision takes one mean, that of the grey image, for all channels.
    """
    red, green, blue = image
    move = lambda plane: (plane - plane.mean()) * factor + plane.mean()
    return move(red), move(green), move(blue)


def scale_saturation(image: Image | Planes, factor: Factor) -> Planes:
    """Multiplies the saturation in HSV by `factor` >= 0, and cuts it at 1.

    At fixed hue and value, a pixel's distances to its largest channel grow in proportion
    to its saturation, so there is no need to compute the hue. torchvision blends with the
    grey image, which can differ by 0.5.
    """
    red, green, blue = image
    high, spread = _value_and_spread(image)
    new_spread = jnp.minimum(spread * factor, jnp.maximum(high, 0.0))
    ratio = new_spread / jnp.where(spread > 0, spread, 1.0)
    scale = lambda plane: high - (high - plane) * ratio
    return scale(red), scale(green), scale(blue)


def rotate_hue(image: Image | Planes, turns: Factor) -> Planes:
    """Adds `turns` to the hue in HSV, in full turns, at fixed value and saturation."""
    red, green, blue = image
    high, spread = _value_and_spread(image)
    # In sixths of a turn, red 0, green 2, blue 4, and times the spread: no division.
    hue = jnp.where(
        high == red,
        green - blue,
        jnp.where(high == green, 2 * spread + (blue - red), 4 * spread + (red - green)),
    )
    hue += spread * (6 * (turns - jnp.floor(turns)))  # from -1 to 11 times the spread

    def channel(offset: float) -> Plane:
        # Each channel follows the same trapezoid of the hue, a third of a turn apart.
        phase = hue + spread * offset
        for _ in range(2):
            phase = jnp.where(phase >= 6 * spread, phase - 6 * spread, phase)
        return high - jnp.clip(jnp.minimum(phase, 4 * spread - phase), 0, spread)

    return channel(5.0), channel(3.0), channel(1.0)


def _value_and_spread(image: Image | Planes) -> tuple[Plane, Plane]:
    """Returns the largest channel of each pixel, and its distance to the smallest."""
    red, green, blue = image
    high = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    return high, high - low


def to_gray(image: Image | Planes) -> Planes:
    """Replaces all three channels by their luminance (weights sum to 0.9999, as in TensorFlow)."""
    red, green, blue = image
    gray = 0.2989 * red + 0.587 * green + 0.114 * blue
    return gray, gray, gray


class Jitter(NamedTuple):
    """One draw of the colour jitter.

    Attributes:
      order: permutation in which the operations are applied: 0 brightness, 1 contrast,
        2 saturation, 3 hue.
      amounts: what each operation, by that number, is called with.
    """

    order: Int[Array, "4"]
    amounts: Float[Array, "4"]


def draw_jitter(
    key: PRNGKey, *, strength: float, jitter: str = "v2", widths: Widths = WIDTHS
) -> Jitter:
    """Draws one view's jitter: a uniform order, and an amount for each operation.

    At strength s and with SimCLR's widths: contrast and saturation in 1 -/+ 0.8 s, hue in
    -/+ 0.2 s turns, brightness in 1 -/+ 0.8 s ("v2", a factor) or in -/+ 0.8 s ("v1", a summand).
    0 < s <= 1.25.
    """
    center = jnp.array([1.0 if jitter == "v2" else 0.0, 1.0, 1.0, 0.0])
    width = strength * jnp.array(widths)
    unit = jax.random.uniform(key, (2, 4))  # one call: each costs 0.4 s of compile time
    return Jitter(jnp.argsort(unit[0]), center + width * (2 * unit[1] - 1))


def color_jitter(image: Image | Planes, draw: Jitter, *, jitter: str = "v2") -> Planes:
    """Applies the four operations in the drawn order, with a clip to [0, 1] after each.

    Each computes in float32, and its result has the type of the image.
    """
    red, green, blue = image
    dtype = red.dtype
    brightness = scale_brightness if jitter == "v2" else add_brightness
    operations = (brightness, scale_contrast, scale_saturation, rotate_hue)

    def apply(planes: Planes, step: tuple[Array, Array]) -> tuple[Planes, None]:
        index, amount = step
        changed = jax.lax.switch(index, operations, _as(jnp.float32, planes), amount)
        return _as(dtype, _clip(changed)), None

    # Under `vmap` the switch computes all four operations and selects, so 16 run instead of
    # 4. They are cheap as long as XLA does not fuse the rounds, which repeats the work of one
    # for each use in the next (100 times slower on a CPU): hence a scan, not a Python loop.
    steps = (draw.order, draw.amounts[draw.order])
    return jax.lax.scan(apply, (red, green, blue), steps)[0]


def _where(condition: Array, new: Planes, old: Planes) -> Planes:
    red, green, blue = (jnp.where(condition, a, b) for a, b in zip(new, old, strict=True))
    return red, green, blue


def _as(dtype: DTypeLike, planes: Planes) -> Planes:
    red, green, blue = (plane.astype(dtype) for plane in planes)
    return red, green, blue


def _clip(planes: Planes) -> Planes:
    red, green, blue = (jnp.clip(plane, 0, 1) for plane in planes)
    return red, green, blue


def require_colours(channels: int, setting: str, instead: str) -> None:
    """Makes sure that images have colours.

    Args:
      channels: how many channels images have.
      setting: what needs colours, for the message.
      instead: what to set.

    Raises:
      UserError: if they have other than three channels.
    """
    if channels != 3:
        raise UserError(
            f"{setting} needs the colours of RGB, and images have {channels} channels "
            f"(config.data.channels): set {instead}."
        )


def solarize(image: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
    """Inverts the pixels of 0.5 and above."""
    return jnp.where(image >= 0.5, 1 - image, image)


def random_color(
    key: PRNGKey,
    image: Image,
    *,
    strength: float,
    jitter: str = "v2",
    widths: Widths = WIDTHS,
    probability: float = JITTER_PROBABILITY,
) -> Image:
    """Jitters the colours of one view and turns it grey (p = 0.2), independently.

    On a grey image saturation and hue change nothing: brightness and contrast remain.

    Args:
      key: one key per image and view.
      image: planar floats, nominally in [0, 1]; a bicubic overshoot is welcome.
      strength: scales all four ranges, in (0, 1.25]; 1 on ImageNet, 0.5 on CIFAR-10.
      jitter: "v2" multiplies for brightness, as the released pipeline does; "v1" adds.
      widths: half-widths at strength 1 of the ranges of brightness, contrast, saturation and hue.
      probability: share of the views that are jittered; 0.8 in SimCLR.

    Returns:
      The view, not yet clipped where it was not jittered.

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix A, and the official
    code (google-research/simclr, tf2/data_util.py).
    """
    chance_key, draw_key = jax.random.split(key)
    chance = jax.random.uniform(chance_key, (2,))
    draw = draw_jitter(draw_key, strength=strength, jitter=jitter, widths=widths)
    planes = (image[0], image[1], image[2])
    jittered = color_jitter(planes, draw, jitter=jitter)
    planes = _where(chance[0] < probability, jittered, planes)
    gray = _as(image.dtype, to_gray(_as(jnp.float32, planes)))
    planes = _where(chance[1] < GRAY_PROBABILITY, gray, planes)
    return jnp.stack(planes)
