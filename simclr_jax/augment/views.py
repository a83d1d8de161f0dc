"""The builder of views: where they are cut on the host, and what the device makes of the cuts.

`augment(key, batch) -> views` of a policy runs inside the step and gives float32
[b, v, size, size, c] in [0, 1], for any number of devices: each image has its own key, from its
row in the global batch, and no image looks at another. Views of several sizes are a tuple of such
arrays, and so are then the cuts and their sizes in a batch.
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
from simclr_jax.core.types import Batch, Cuts, CutsBySize, PRNGKey, Scalar, Views

Augment: TypeAlias = Callable[[PRNGKey, Batch], Views]
Cut: TypeAlias = UInt8[Array, "size size c"]
Size: TypeAlias = Int[Array, "2"]
View: TypeAlias = Float[Array, "c h w"]
Index: TypeAlias = Int[Array, ""]
RandomBoxes: TypeAlias = Callable[..., Int32[np.ndarray, "v 4"]]
ViewFunction: TypeAlias = Callable[[PRNGKey, Cut, Size, Index], View]


@dataclasses.dataclass(frozen=True)
class Policy:
    """How views are made of an image, a sound or texts.

    Attributes:
      cuts: part of the image that each view shows, for the host; a tuple for views of several
        sizes, the largest first. Or which part of a sound, or which texts.
      augment: (key, batch of cuts) -> views, on the device.
      shape: height, width and channels of the largest views; zeros for texts.
    """

    cuts: CutsBySize
    augment: Augment
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Height of the largest views in pixels; their width, too, if they are of images."""
        return self.shape[0]


def joined(*policies: Policy) -> Policy:
    """Returns the views of several policies, each of one size, as a tuple."""

    def augment(key: PRNGKey, batch: Batch) -> Views:
        groups = zip(policies, batch["image"], batch["size"], strict=True)
        views = [
            policy.augment(jax.random.fold_in(key, i), {"image": images, "size": sizes})
            for i, (policy, images, sizes) in enumerate(groups)
        ]
        return tuple(jax.tree.leaves(views))

    cuts = tuple(jax.tree.leaves([policy.cuts for policy in policies]))
    return Policy(cuts, augment, policies[0].shape)


def random_views(
    *,
    size: int,
    boxes: RandomBoxes,
    flip: bool,
    color_strength: float,
    widths: color.Widths,
    jitter: str,
    blur: tuple[float, ...],
    solarize: tuple[float, ...],
    dtype: DTypeLike,
    jitter_probability: float = color.JITTER_PROBABILITY,
    prefix: str = "",
    no_blur: str = "False",
) -> Policy:
    """Returns views of one size by crop, mirror, colour, blur and solarisation, in this order.

    Args:
      size: height and width of a view in pixels; at least 20 with blur.
      boxes: boxes of the views in the images, see `random_boxes`.
      flip: whether to mirror half of the views.
      color_strength: scales the colour jitter; at 0 there is neither jitter nor grayscale.
      widths: half-widths of the jitter at strength 1, see `color.WIDTHS`.
      jitter: brightness, one of `color.JITTERS`.
      blur: probability that a view is blurred, for each view.
      solarize: probability that a view is solarised, for each view.
      dtype: type that pixels have between operations.
      jitter_probability: probability that a view is jittered.
      prefix: what the names of these settings begin with in a config, for messages.
      no_blur: what switches the blur off there, for messages.

    Raises:
      ValueError: if an argument is out of range.
    """
    if not 0 <= color_strength <= color.MAX_STRENGTH:
        raise ValueError(
            f"color_strength={color_strength} must be between 0 (no colour change) and "
            f"{color.MAX_STRENGTH}, where contrast and saturation, drawn from "
            f"1 -/+ 0.8 * color_strength, would become negative; ImageNet uses 1, CIFAR-10 0.5."
        )
    check_size(size, prefix)
    radius = size // 20  # half of the official kernel_size, a tenth of the view
    _check_chances(blur, solarize, size, prefix, no_blur)

    def view(key: PRNGKey, cut: Cut, valid: Size, index: Index) -> View:
        flip_key, color_key, blur_key = jax.random.split(key, 3)
        mirror = jax.random.bernoulli(flip_key) if flip else False
        image = geometry.resize(cut, valid, shape=(size, size), mirror=mirror, dtype=dtype)
        if color_strength > 0:
            color.require_colours(
                image.shape[0],
                f"config.augment.color_strength={color_strength:g}",
                "--config.augment.color_strength=0 (crop, mirror, blur and solarize take any)",
            )
            image = color.random_color(
                color_key,
                image,
                strength=color_strength,
                jitter=jitter,
                widths=widths,
                probability=jitter_probability,
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

    num_views = len(blur)
    cuts = Cuts(size, num_views, functools.partial(boxes, num=num_views))
    return Policy(cuts, per_view(view), (size, size, 3))


def _check_chances(
    blur: tuple[float, ...], solarize: tuple[float, ...], size: int, prefix: str, no_blur: str
) -> None:
    if not all(0 <= chance <= 1 for chance in (*blur, *solarize)):
        raise ValueError(
            f"{prefix}blur={blur} and {prefix}solarize={solarize} must be probabilities, in [0, 1]."
        )
    if any(blur) and size < 20:
        raise ValueError(
            f"{prefix}blur does nothing to views of {prefix}size={size}: the kernel spans a tenth "
            f"of the view, which is less than 2 pixels. Use {prefix}blur={no_blur}, or a "
            f"{prefix}size of at least 20."
        )


def _of_view(chances: tuple[float, ...], index: Index) -> Scalar | float:
    return chances[0] if len({*chances}) == 1 else jnp.asarray(chances)[index]


def random_boxes(min_area: float, max_area: float, sampler: str, prefix: str = "") -> RandomBoxes:
    """Returns `crop.random_crop_boxes` with these settings.

    Args:
      min_area: smallest crop as a fraction of the image.
      max_area: largest crop.
      sampler: one of `crop.SAMPLERS`.
      prefix: what the names of the areas begin with in a config, for messages.

    Raises:
      ValueError: if one of them is out of range.
    """
    if sampler not in crop.SAMPLERS:
        raise ValueError(
            f"crop_sampler={sampler!r} is unknown; it must be one of {[*crop.SAMPLERS]}."
        )
    if not 0 < min_area <= max_area <= 1:
        raise ValueError(
            f"{prefix}min_area={min_area} and {prefix}max_area={max_area} must be fractions of the "
            "image in (0, 1], the second not below the first; SimCLR uses 0.08 and 1."
        )
    if sampler == "tf" and max_area <= crop.MIN_OBJECT_COVERED:
        raise ValueError(
            f"{prefix}max_area={max_area}: crop_sampler='tf' draws no crop below "
            f"{crop.MIN_OBJECT_COVERED} of the image; use crop_sampler='area'."
        )
    return functools.partial(
        crop.random_crop_boxes, min_area=min_area, max_area=max_area, sampler=sampler
    )


def per_view(view: ViewFunction) -> Augment:
    """Lifts a function of one view, and of its number, to all views of a batch."""

    def augment(key: PRNGKey, batch: Batch) -> Views:
        images, sizes = batch["image"], batch["size"]
        if images.dtype != jnp.uint8 or images.ndim != 5:
            raise ValueError(
                f"Augmentation needs uint8 images of shape [b, v, height, width, c], got "
                f"{images.dtype} {list(images.shape)}."
            )
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        indices = jnp.arange(images.shape[1])
        keys = jax.vmap(fold, in_axes=(0, None))(per_example(key, images.shape[0]), indices)
        views = jax.vmap(jax.vmap(view), in_axes=(0, 0, 0, None))(keys, images, sizes, indices)
        return views.transpose(0, 1, 3, 4, 2)

    return augment


def check_size(size: int, prefix: str = "") -> None:
    """Raises a ValueError if a view cannot have this size; `prefix` as for `random_boxes`."""
    if size < 1:
        raise ValueError(
            f"{prefix}size={size} must be a positive number of pixels, such as 32 or 224."
        )
