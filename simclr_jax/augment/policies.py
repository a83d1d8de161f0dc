"""Augmentation policies: from a batch of canvases to its views, on device, inside the step.

A builder takes the settings and returns `augment(key, batch) -> views`, float32
[b, v, size, size, 3] in [0, 1], for any number of devices: each image has its own key,
from its row in the global batch, and no image looks at another. Pixels are not
normalised by a mean and standard deviation anywhere; the networks take them in [0, 1].
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from simclr_jax.augment import blur as blurring
from simclr_jax.augment import color, geometry
from simclr_jax.core.rng import per_example
from simclr_jax.core.types import Batch, PRNGKey, Views

Augment: TypeAlias = Callable[[PRNGKey, Batch], Views]
Canvas: TypeAlias = UInt8[Array, "canvas_h canvas_w 3"]
Size: TypeAlias = Int[Array, "2"]
View: TypeAlias = Float[Array, "3 h w"]
RandomBox: TypeAlias = Callable[[PRNGKey, Size], Int[Array, "4"]]

# The official code neither crops nor resizes test images up to this size in pixels.
MAX_UNCROPPED = 32


def simclr(
    *,
    size: int,
    color_strength: float = 1.0,
    blur: bool = True,
    min_area: float = 0.08,
    max_area: float = 1.0,
    crop_sampler: str = "tf",
    flip: bool = True,
    jitter: str = "v2",
    dtype: DTypeLike = jnp.float32,
) -> Augment:
    """Returns SimCLR's policy: two views by random crop, mirror, colour and blur.

    Args:
      size: height and width of a view in pixels; at least 20 with blur.
      color_strength: scales the colour jitter, in [0, 1.25]; at 0 there is neither jitter
        nor grayscale.
      blur: whether to blur half of the views, with 2 * (size // 20) + 1 taps.
      min_area: smallest crop as a fraction of the image, in (0, 1]. Below 0.1 it makes small
        crops more frequent, but with "tf" none is smaller than 0.1 (`geometry.random_crop_box`).
      max_area: largest crop, likewise.
      crop_sampler: "tf", of the official code, or "area", of torchvision: larger crops, on
        average 0.54 instead of 0.42 of a square image.
      flip: whether to mirror half of the views; not for digits or text.
      jitter: brightness of SimCLRv2's code ("v2", a factor) or of v1's ("v1", a summand).
      dtype: in which pixels are kept between operations, each of which computes in float32.
        bfloat16 moves half the bytes, and rounds about as much as PIL-based pipelines, which
        keep 8 bits.

    Raises:
      ValueError: if an argument is out of range.

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix A, and the official
    code (google-research/simclr, tf2/data_util.py). Deviation: `blur.random_blur`.
    """
    _check_size(size)
    random_box = _random_box(min_area, max_area, crop_sampler)
    if not 0 <= color_strength <= color.MAX_STRENGTH:
        raise ValueError(
            f"color_strength={color_strength} must be between 0 (no colour change) and "
            f"{color.MAX_STRENGTH}, where contrast and saturation, drawn from "
            f"1 -/+ 0.8 * color_strength, would become negative; ImageNet uses 1, CIFAR-10 0.5."
        )
    if jitter not in color.JITTERS:
        raise ValueError(
            f"jitter={jitter!r} is unknown; it must be 'v2' (brightness is a factor) or 'v1' "
            f"(brightness is added)."
        )
    radius = size // 20  # half of the official kernel_size, a tenth of the view
    if blur and radius < 1:
        raise ValueError(
            f"blur=True does nothing to views of size={size}: the kernel spans a tenth of the "
            f"view, which is less than 2 pixels. Use blur=False, or a size of at least 20."
        )

    def view(key: PRNGKey, canvas: Canvas, valid: Size) -> View:
        cut_key, color_key, blur_key = jax.random.split(key, 3)
        image = _random_cut(cut_key, canvas, valid, random_box, size=size, flip=flip, dtype=dtype)
        if color_strength > 0:
            image = color.random_color(color_key, image, strength=color_strength, jitter=jitter)
        image = jnp.stack([jnp.clip(plane, 0, 1) for plane in image])  # see `apply_separably`
        if blur:
            image = jnp.clip(blurring.random_blur(blur_key, image, radius=radius), 0, 1)
        return image

    return _per_view(view, num_views=2)


def simclr_cifar(
    *,
    size: int,
    color_strength: float = 0.5,
    min_area: float = 0.08,
    max_area: float = 1.0,
    crop_sampler: str = "tf",
    flip: bool = True,
) -> Augment:
    """Returns SimCLR's policy for images of about 32 pixels: weaker colours and no blur.

    The crop is that of `simclr`, with no padding before it.

    Args:
      size: height and width of a view in pixels.
      color_strength: scales the colour jitter, in [0, 1.25].
      min_area: smallest crop as a fraction of the image, in (0, 1].
      max_area: largest crop, likewise.
      crop_sampler: "tf", of the official code, or "area", of torchvision.
      flip: whether to mirror half of the views; not for digits or text.

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix B.9.
    """
    return simclr(
        size=size,
        color_strength=color_strength,
        blur=False,
        min_area=min_area,
        max_area=max_area,
        crop_sampler=crop_sampler,
        flip=flip,
    )


def finetune(
    *,
    size: int,
    min_area: float = 0.08,
    max_area: float = 1.0,
    crop_sampler: str = "tf",
    flip: bool = True,
) -> Augment:
    """Returns one view by random crop and mirror, for training with labels.

    Args:
      size: height and width of a view in pixels.
      min_area: smallest crop as a fraction of the image, in (0, 1].
      max_area: largest crop, likewise.
      crop_sampler: "tf", of the official code, or "area", of torchvision.
      flip: whether to mirror half of the views; not for digits or text.
    """
    _check_size(size)
    random_box = _random_box(min_area, max_area, crop_sampler)

    def view(key: PRNGKey, canvas: Canvas, valid: Size) -> View:
        image = _random_cut(key, canvas, valid, random_box, size=size, flip=flip)
        return jnp.clip(image, 0, 1)

    return _per_view(view, num_views=1)


def evaluation(*, size: int) -> Augment:
    """Returns one view that is always the same; the key is ignored.

    Args:
      size: height and width of the view in pixels. Above 32, the view is the central square
        of 87.5 % of the shorter side, resized. Up to 32, it is the whole image: pixel for
        pixel if the image is size x size, which the official code requires; another image
        is resized here, and loses its aspect ratio if it is not square.
    """
    _check_size(size)
    box = geometry.center_crop_box if size > MAX_UNCROPPED else geometry.whole_box

    def view(key: PRNGKey, canvas: Canvas, valid: Size) -> View:
        del key
        return jnp.clip(geometry.crop_resize(canvas, box(valid), shape=(size, size)), 0, 1)

    return _per_view(view, num_views=1)


POLICIES: dict[str, Callable[..., Augment]] = {
    "simclr": simclr,
    "simclr_cifar": simclr_cifar,
    "finetune": finetune,
    "eval": evaluation,
}


def _random_cut(
    key: PRNGKey,
    canvas: Canvas,
    valid: Size,
    random_box: RandomBox,
    *,
    size: int,
    flip: bool,
    dtype: DTypeLike = jnp.float32,
) -> View:
    crop_key, flip_key = jax.random.split(key)
    box = random_box(crop_key, valid)
    mirror = jax.random.bernoulli(flip_key) if flip else False
    return geometry.crop_resize(canvas, box, shape=(size, size), mirror=mirror, dtype=dtype)


def _per_view(view: Callable[[PRNGKey, Canvas, Size], View], *, num_views: int) -> Augment:
    """Lifts a function of one image to all views of a batch."""

    def augment(key: PRNGKey, batch: Batch) -> Views:
        images, sizes = batch["image"], batch["size"]
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"Augmentation needs uint8 images of shape [b, height, width, 3], got "
                f"{images.dtype} {list(images.shape)}."
            )
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        keys = jax.vmap(fold, in_axes=(0, None))(
            per_example(key, images.shape[0]), jnp.arange(num_views)
        )  # [b, v]
        views = jax.vmap(jax.vmap(view, in_axes=(0, None, None)))(keys, images, sizes)
        return views.transpose(0, 1, 3, 4, 2)

    return augment


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size={size} must be a positive number of pixels, such as 32 or 224.")


def _random_box(min_area: float, max_area: float, sampler: str) -> RandomBox:
    """Returns `geometry.random_crop_box` with settings that have been checked."""
    if sampler not in geometry.SAMPLERS:
        raise ValueError(
            f"crop_sampler={sampler!r} is unknown; it must be one of {[*geometry.SAMPLERS]}."
        )
    if not 0 < min_area <= max_area <= 1:
        raise ValueError(
            f"min_area={min_area} and max_area={max_area} must be fractions of the image in "
            "(0, 1], the second not below the first; SimCLR uses 0.08 and 1."
        )
    if sampler == "tf" and max_area <= geometry.MIN_OBJECT_COVERED:
        raise ValueError(
            f"max_area={max_area}: crop_sampler='tf' draws no crop below "
            f"{geometry.MIN_OBJECT_COVERED} of the image; use crop_sampler='area'."
        )
    return functools.partial(
        geometry.random_crop_box, min_area=min_area, max_area=max_area, sampler=sampler
    )
