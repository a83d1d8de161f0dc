"""Augmentation policies: where views are cut on the host, and what the device makes of the cuts.

A builder takes the settings and returns a `Policy`. Its `augment(key, batch) -> views` runs
inside the step and gives float32 [b, v, size, size, 3] in [0, 1], for any number of devices:
each image has its own key, from its row in the global batch, and no image looks at another.
Pixels are not normalised by a mean and standard deviation anywhere; the networks take them in
[0, 1].
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Int32, UInt8

from simclr_jax.augment import blur as blurring
from simclr_jax.augment import color, crop, geometry
from simclr_jax.core.rng import per_example
from simclr_jax.core.types import Batch, Cuts, PRNGKey, Scalar, Views

Augment: TypeAlias = Callable[[PRNGKey, Batch], Views]
Cut: TypeAlias = UInt8[Array, "size size 3"]
Size: TypeAlias = Int[Array, "2"]
View: TypeAlias = Float[Array, "3 h w"]
Index: TypeAlias = Int[Array, ""]
RandomBoxes: TypeAlias = Callable[..., Int32[np.ndarray, "v 4"]]
ViewFunction: TypeAlias = Callable[[PRNGKey, Cut, Size, Index], View]

# The official code neither crops nor resizes test images up to this size in pixels.
MAX_UNCROPPED = 32


@dataclasses.dataclass(frozen=True)
class Policy:
    """How views are made of an image.

    Attributes:
      cuts: what each view shows of it, for the host.
      augment: (key, batch of cuts) -> views, on the device.
    """

    cuts: Cuts
    augment: Augment


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
) -> Policy:
    """Returns SimCLR's policy: two views by random crop, mirror, colour and blur.

    Args:
      size: height and width of a view in pixels; at least 20 with blur.
      color_strength: scales the colour jitter, in [0, 1.25]; at 0 there is neither jitter
        nor grayscale.
      blur: whether to blur half of the views, with 2 * (size // 20) + 1 taps.
      min_area: smallest crop as a fraction of the image, in (0, 1]. Below 0.1 it makes small
        crops more frequent, but with "tf" none is smaller than 0.1 (`crop.random_crop_boxes`).
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
    if jitter not in color.JITTERS:
        raise ValueError(
            f"jitter={jitter!r} is unknown; it must be 'v2' (brightness is a factor) or 'v1' "
            f"(brightness is added)."
        )
    return _two_views(
        size=size,
        boxes=_random_boxes(min_area, max_area, crop_sampler),
        flip=flip,
        color_strength=color_strength,
        widths=color.WIDTHS,
        jitter=jitter,
        blur=(0.5, 0.5) if blur else (0.0, 0.0),
        solarize=(0.0, 0.0),
        dtype=dtype,
    )


def byol(
    *,
    size: int,
    color_strength: float = 1.0,
    blur: bool = True,
    solarize: bool = True,
    min_area: float = 0.08,
    max_area: float = 1.0,
    crop_sampler: str = "area",
    flip: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Policy:
    """Returns BYOL's policy: two views that differ in how often they are blurred and solarised.

    The first view is always blurred and never solarised, the second one blurred with p = 0.1 and
    solarised with p = 0.2. The jitter is half of SimCLR's, a quarter for saturation, and
    brightness is added. MoCo v3, Barlow Twins, VICReg and DINO take the same two views.

    Args:
      size: height and width of a view in pixels; at least 20 with blur.
      color_strength: scales the colour jitter, in [0, 1.25]; at 0 there is neither jitter
        nor grayscale.
      blur: whether views are blurred at all.
      solarize: whether views are solarised at all.
      min_area: smallest crop as a fraction of the image, in (0, 1].
      max_area: largest crop, likewise.
      crop_sampler: "area", of the official code, or "tf".
      flip: whether to mirror half of the views; not for digits or text.
      dtype: in which pixels are kept between operations; see `simclr`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Grill et al. 2020, https://arxiv.org/abs/2006.07733, Appendix B. Deviation: pixels
    are not normalised.
    """
    return _two_views(
        size=size,
        boxes=_random_boxes(min_area, max_area, crop_sampler),
        flip=flip,
        color_strength=color_strength,
        widths=(0.4, 0.4, 0.2, 0.1),
        jitter="v1",
        blur=(1.0, 0.1) if blur else (0.0, 0.0),
        solarize=(0.0, 0.2) if solarize else (0.0, 0.0),
        dtype=dtype,
    )


def simclr_cifar(
    *,
    size: int,
    color_strength: float = 0.5,
    min_area: float = 0.08,
    max_area: float = 1.0,
    crop_sampler: str = "tf",
    flip: bool = True,
) -> Policy:
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


def single(
    *,
    size: int,
    color_strength: float = 1.0,
    blur: bool = True,
    min_area: float = 0.08,
    max_area: float = 1.0,
    crop_sampler: str = "tf",
    flip: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Policy:
    """Returns one view as `simclr` makes its two, for methods that compare no views.

    Args:
      size: height and width of a view in pixels; at least 20 with blur.
      color_strength: scales the colour jitter, in [0, 1.25]; at 0 there is neither jitter
        nor grayscale.
      blur: whether to blur half of the views.
      min_area: smallest crop as a fraction of the image, in (0, 1].
      max_area: largest crop, likewise.
      crop_sampler: "tf", of the official code, or "area", of torchvision.
      flip: whether to mirror half of the views; not for digits or text.
      dtype: in which pixels are kept between operations; see `simclr`.

    Raises:
      ValueError: if an argument is out of range.
    """
    boxes = _random_boxes(min_area, max_area, crop_sampler)
    views = simclr(size=size, color_strength=color_strength, blur=blur, flip=flip, dtype=dtype)
    return Policy(Cuts(size, 1, functools.partial(boxes, num=1)), views.augment)


def finetune(
    *,
    size: int,
    min_area: float = 0.08,
    max_area: float = 1.0,
    crop_sampler: str = "tf",
    flip: bool = True,
) -> Policy:
    """Returns one view by random crop and mirror, for training with labels.

    Args:
      size: height and width of a view in pixels.
      min_area: smallest crop as a fraction of the image, in (0, 1].
      max_area: largest crop, likewise.
      crop_sampler: "tf", of the official code, or "area", of torchvision.
      flip: whether to mirror half of the views; not for digits or text.
    """
    _check_size(size)
    boxes = _random_boxes(min_area, max_area, crop_sampler)

    def view(key: PRNGKey, cut: Cut, valid: Size, index: Index) -> View:
        del index
        mirror = jax.random.bernoulli(key) if flip else False
        return jnp.clip(geometry.resize(cut, valid, shape=(size, size), mirror=mirror), 0, 1)

    return Policy(Cuts(size, 1, functools.partial(boxes, num=1)), _per_view(view))


def evaluation(*, size: int) -> Policy:
    """Returns one view that is always the same; key and random words are ignored.

    Args:
      size: height and width of the view in pixels. Above 32, the view is the central square
        of 87.5 % of the shorter side, resized. Up to 32, it is the whole image: pixel for
        pixel if the image is size x size, which the official code requires; another image
        is resized here, and loses its aspect ratio if it is not square.
    """
    _check_size(size)
    box = crop.center_crop_box if size > MAX_UNCROPPED else crop.whole_box

    def view(key: PRNGKey, cut: Cut, valid: Size, index: Index) -> View:
        del key, index
        return jnp.clip(geometry.resize(cut, valid, shape=(size, size)), 0, 1)

    cuts = Cuts(size, 1, lambda bits, whole: box(whole)[None])
    return Policy(cuts, _per_view(view))


POLICIES: dict[str, Callable[..., Policy]] = {
    "simclr": simclr,
    "simclr_cifar": simclr_cifar,
    "byol": byol,
    "single": single,
    "finetune": finetune,
    "eval": evaluation,
}


def _two_views(
    *,
    size: int,
    boxes: RandomBoxes,
    flip: bool,
    color_strength: float,
    widths: color.Widths,
    jitter: str,
    blur: tuple[float, float],
    solarize: tuple[float, float],
    dtype: DTypeLike,
) -> Policy:
    """Returns two views by crop, mirror, colour, blur and solarisation, in this order.

    `blur` and `solarize` are the probabilities for the first and the second view.
    """
    if not 0 <= color_strength <= color.MAX_STRENGTH:
        raise ValueError(
            f"color_strength={color_strength} must be between 0 (no colour change) and "
            f"{color.MAX_STRENGTH}, where contrast and saturation, drawn from "
            f"1 -/+ 0.8 * color_strength, would become negative; ImageNet uses 1, CIFAR-10 0.5."
        )
    _check_size(size)
    radius = size // 20  # half of the official kernel_size, a tenth of the view
    if any(blur) and radius < 1:
        raise ValueError(
            f"blur=True does nothing to views of size={size}: the kernel spans a tenth of the "
            f"view, which is less than 2 pixels. Use blur=False, or a size of at least 20."
        )

    def view(key: PRNGKey, cut: Cut, valid: Size, index: Index) -> View:
        flip_key, color_key, blur_key = jax.random.split(key, 3)
        mirror = jax.random.bernoulli(flip_key) if flip else False
        image = geometry.resize(cut, valid, shape=(size, size), mirror=mirror, dtype=dtype)
        if color_strength > 0:
            image = color.random_color(
                color_key, image, strength=color_strength, jitter=jitter, widths=widths
            )
        image = jnp.stack([jnp.clip(plane, 0, 1) for plane in image])  # see `apply_separably`
        if any(blur):
            chance = _of_view(blur, index)
            blurred = blurring.random_blur(blur_key, image, radius=radius, probability=chance)
            image = jnp.clip(blurred, 0, 1)
        if any(solarize):
            solarize_key = jax.random.fold_in(key, 1)
            inverts = jax.random.bernoulli(solarize_key, _of_view(solarize, index))
            image = jnp.where(inverts, color.solarize(image), image)
        return image

    return Policy(Cuts(size, 2, functools.partial(boxes, num=2)), _per_view(view))


def _of_view(chances: tuple[float, float], index: Index) -> Scalar | float:
    first, second = chances
    return first if first == second else jnp.asarray(chances)[index]


def _random_boxes(min_area: float, max_area: float, sampler: str) -> RandomBoxes:
    """Returns `crop.random_crop_boxes` with settings that have been checked."""
    if sampler not in crop.SAMPLERS:
        raise ValueError(
            f"crop_sampler={sampler!r} is unknown; it must be one of {[*crop.SAMPLERS]}."
        )
    if not 0 < min_area <= max_area <= 1:
        raise ValueError(
            f"min_area={min_area} and max_area={max_area} must be fractions of the image in "
            "(0, 1], the second not below the first; SimCLR uses 0.08 and 1."
        )
    if sampler == "tf" and max_area <= crop.MIN_OBJECT_COVERED:
        raise ValueError(
            f"max_area={max_area}: crop_sampler='tf' draws no crop below "
            f"{crop.MIN_OBJECT_COVERED} of the image; use crop_sampler='area'."
        )
    return functools.partial(
        crop.random_crop_boxes, min_area=min_area, max_area=max_area, sampler=sampler
    )


def _per_view(view: ViewFunction) -> Augment:
    """Lifts a function of one view, and of its number, to all views of a batch."""

    def augment(key: PRNGKey, batch: Batch) -> Views:
        images, sizes = batch["image"], batch["size"]
        if images.dtype != jnp.uint8 or images.ndim != 5 or images.shape[-1] != 3:
            raise ValueError(
                f"Augmentation needs uint8 images of shape [b, v, height, width, 3], got "
                f"{images.dtype} {list(images.shape)}."
            )
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        indices = jnp.arange(images.shape[1])
        keys = jax.vmap(fold, in_axes=(0, None))(per_example(key, images.shape[0]), indices)
        views = jax.vmap(jax.vmap(view), in_axes=(0, 0, 0, None))(keys, images, sizes, indices)
        return views.transpose(0, 1, 3, 4, 2)

    return augment


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size={size} must be a positive number of pixels, such as 32 or 224.")
