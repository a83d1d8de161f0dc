"""Augmentation policies: the settings of `views` that the methods of the field use.

A builder takes the settings and returns a `Policy`. Pixels are not normalised by a mean and
standard deviation anywhere; the networks take them in [0, 1].
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from simclr_jax.augment import audio, color, crop, geometry, texts
from simclr_jax.augment.views import (
    Augment,
    Cut,
    Index,
    Policy,
    Size,
    View,
    check_size,
    joined,
    per_view,
    random_boxes,
    random_views,
)
from simclr_jax.core.ranges import Count, Range, Share
from simclr_jax.core.types import Cuts, PRNGKey

__all__ = ["EVALUATIONS", "POLICIES", "Augment", "Policy"]

# The official code neither crops nor resizes test images up to this size in pixels.
MAX_UNCROPPED = 32
Hue: TypeAlias = Annotated[float, Range(least=0, most=0.8)]


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
    jitter_probability: Share = color.JITTER_PROBABILITY,
    hue: Hue = color.WIDTHS[3],
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
      jitter_probability: share of the views whose colours are jittered; 1 in MoCo v1.
      hue: largest change of hue at strength 1, in turns; 0.8 in MoCo v1.
      dtype: type that pixels have between operations, each of which computes in float32.
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
    return random_views(
        size=size,
        boxes=random_boxes(min_area, max_area, crop_sampler),
        flip=flip,
        color_strength=color_strength,
        widths=(*color.WIDTHS[:3], hue),
        jitter=jitter,
        jitter_probability=jitter_probability,
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
      dtype: type that pixels have between operations; see `simclr`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Grill et al. 2020, https://arxiv.org/abs/2006.07733, Appendix B. Deviation: pixels
    are not normalised.
    """
    return random_views(
        size=size,
        boxes=random_boxes(min_area, max_area, crop_sampler),
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
    jitter_probability: Share = color.JITTER_PROBABILITY,
    hue: Hue = color.WIDTHS[3],
    dtype: DTypeLike = jnp.float32,
) -> Policy:
    """Returns one view, made like the two of `simclr`, for methods that compare no views.

    Args:
      size: height and width of a view in pixels; at least 20 with blur.
      color_strength: scales the colour jitter, in [0, 1.25]; at 0 there is neither jitter
        nor grayscale.
      blur: whether to blur half of the views.
      min_area: smallest crop as a fraction of the image, in (0, 1].
      max_area: largest crop, likewise.
      crop_sampler: "tf", of the official code, or "area", of torchvision.
      flip: whether to mirror half of the views; not for digits or text.
      jitter_probability: share of the views whose colours are jittered; see `simclr`.
      hue: largest change of hue at strength 1, in turns; see `simclr`.
      dtype: type that pixels have between operations; see `simclr`.

    Raises:
      ValueError: if an argument is out of range.
    """
    return random_views(
        size=size,
        boxes=random_boxes(min_area, max_area, crop_sampler),
        flip=flip,
        color_strength=color_strength,
        widths=(*color.WIDTHS[:3], hue),
        jitter="v2",
        jitter_probability=jitter_probability,
        blur=(0.5 if blur else 0.0,),
        solarize=(0.0,),
        dtype=dtype,
    )


def multi_crop(
    *,
    size: int,
    local_size: int = 96,
    num_local: Count = 6,
    min_area: float = 0.14,
    max_area: float = 1.0,
    local_min_area: float = 0.05,
    local_max_area: float = 0.14,
    crop_sampler: str = "area",
    flip: bool = True,
    color_strength: float = 1.0,
    jitter: color.Widths = color.WIDTHS,
    blur: tuple[float, float] = (0.5, 0.5),
    local_blur: float = 0.5,
    solarize: tuple[float, float] = (0.0, 0.0),
    dtype: DTypeLike = jnp.float32,
) -> Policy:
    """Returns SwAV's multi-crop: two global views, and several small ones of small parts.

    The views are a tuple of two arrays, global and local ones. Defaults are SwAV's on ImageNet.

    Args:
      size: height and width of a global view in pixels.
      local_size: height and width of a local view, at most `size`; with blur, both are at least 20.
      num_local: local views of an image.
      min_area: smallest crop of a global view as a fraction of the image, in (0, 1].
      max_area: largest crop of a global view, likewise.
      local_min_area: smallest crop of a local view, likewise.
      local_max_area: largest crop of a local view, likewise.
      crop_sampler: "area", of the released code, or "tf", which draws no crop below 0.1.
      flip: whether to mirror half of the views; not for digits or text.
      color_strength: scales the colour jitter, in [0, 1.25]; at 0 there is neither jitter
        nor grayscale.
      jitter: half-widths, at strength 1, of the ranges of brightness, which is a factor,
        contrast, saturation and hue; at most 0.8, so that none becomes negative.
      blur: probabilities that the first and the second global view are blurred.
      local_blur: probability that a local view is.
      solarize: probabilities that the first and the second global view are solarised.
      dtype: type that pixels have between operations; see `simclr`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Caron et al. 2020, https://arxiv.org/abs/2006.09882, Section 3.3 and Appendix A.
    Deviation: pixels are not normalised.
    """
    check_size(size)
    if local_size > size:
        raise ValueError(
            f"local_size={local_size} is larger than size={size}; local views are the smaller "
            "ones, such as 96 of 224."
        )
    if not all(0 <= width <= 0.8 for width in jitter):
        raise ValueError(
            f"jitter={jitter} must be four numbers in [0, 0.8]: SwAV's are {color.WIDTHS}, DINO's "
            "(0.4, 0.4, 0.2, 0.1)."
        )
    common: dict[str, Any] = dict(
        flip=flip, color_strength=color_strength, widths=jitter, jitter="v2", dtype=dtype
    )
    return joined(
        random_views(
            size=size,
            boxes=random_boxes(min_area, max_area, crop_sampler),
            blur=blur,
            solarize=solarize,
            no_blur="(0.0,0.0)",
            **common,
        ),
        random_views(
            size=local_size,
            boxes=random_boxes(local_min_area, local_max_area, crop_sampler, prefix="local_"),
            blur=(local_blur,) * num_local,
            solarize=(0.0,) * num_local,
            prefix="local_",
            no_blur="0",
            **common,
        ),
    )


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
    check_size(size)
    boxes = random_boxes(min_area, max_area, crop_sampler)

    def view(key: PRNGKey, cut: Cut, valid: Size, index: Index) -> View:
        del index
        mirror = jax.random.bernoulli(key) if flip else False
        return jnp.clip(geometry.resize(cut, valid, shape=(size, size), mirror=mirror), 0, 1)

    cuts = Cuts(size, 1, functools.partial(boxes, num=1))
    return Policy(cuts, per_view(view), (size, size, 3))


def evaluation(*, size: int) -> Policy:
    """Returns one view that is always the same; key and random words are ignored.

    Args:
      size: height and width of the view in pixels. Above 32, the view is the central square
        of 87.5 % of the shorter side, resized. Up to 32, it is the whole image: pixel for
        pixel if the image is size x size, which the official code requires; another image
        is resized here, and loses its aspect ratio if it is not square.
    """
    check_size(size)
    box = crop.center_crop_box if size > MAX_UNCROPPED else crop.whole_box

    def view(key: PRNGKey, cut: Cut, valid: Size, index: Index) -> View:
        del key, index
        return jnp.clip(geometry.resize(cut, valid, shape=(size, size)), 0, 1)

    cuts = Cuts(size, 1, lambda bits, whole: box(whole)[None])
    return Policy(cuts, per_view(view), (size, size, 3))


POLICIES: dict[str, Callable[..., Policy]] = {
    "simclr": simclr,
    "simclr_cifar": simclr_cifar,
    "byol": byol,
    "single": single,
    "multi_crop": multi_crop,
    "finetune": finetune,
    "eval": evaluation,
    "audio": audio.audio,
    "texts": texts.texts,
}
# What the views of a policy are judged by, with those of its settings that this takes, too; by
# `evaluation` where nothing else is named.
EVALUATIONS: dict[str, Callable[..., Policy]] = {
    "audio": audio.evaluation,
    "texts": texts.texts,
}
