"""Checks that the parts of an experiment fit together, each with what would work instead."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from simclr_jax.build.network import Network
from simclr_jax.build.resolve import num_classes_of
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import config_errors_at
from simclr_jax.core.types import CutsBySize
from simclr_jax.data.records import Source, examples_of
from simclr_jax.data.subsets import any_label
from simclr_jax.methods.base import Method
from simclr_jax.parallel.mesh import check_batch_size


def check_views(cuts: CutsBySize, net: Network) -> None:
    """Checks that the encoder takes views of every size; that of the first is known already.

    Raises:
      UserError: with what the encoder says.
    """
    encode = functools.partial(net.model.apply, method="encode")
    for group in jax.tree.leaves(cuts)[1:]:
        images = jax.ShapeDtypeStruct((1, group.size, group.size, net.channels), jnp.float32)
        with config_errors_at(f"config.augment, views of {group.size} px, and config.encoder"):
            jax.eval_shape(encode, net.shapes, images)


def check_batch(batch_size: int, source: Source, mesh: Mesh, method: Method) -> None:
    """Checks that a batch can be drawn, split over the devices and cut into the method's parts.

    Raises:
      UserError: with sizes that work.
    """
    if batch_size > len(source):
        raise UserError(
            f"config.data.batch_size={batch_size} is more than the {len(source)} "
            f"{examples_of(source)} of {source.name}: one would be in a batch twice. Use "
            f"{len(source)} or less."
        )
    with config_errors_at("config.data"):
        check_batch_size(batch_size, mesh)
    per_device = batch_size // mesh.size
    if per_device % method.grad_cache_chunks:
        divisors = [n for n in range(1, per_device + 1) if per_device % n == 0]
        raise UserError(
            f"config.method.grad_cache_chunks={method.grad_cache_chunks} does not divide the "
            f"{per_device} {examples_of(source)} of a device; use one of {divisors}."
        )


def check_needed_labels(method: str, source: Source) -> None:
    """Checks that an image has a label, where only labels teach; it reads until it finds one.

    Raises:
      UserError: if none has.
    """
    if not any_label(source):
        raise UserError(
            f"config.method.name={method!r} learns from labels, and none of the {len(source)} "
            f"{examples_of(source)} of {source.name} has one: every label is -1. Name a "
            "split with labels, --config.data.split=train; --config.method.name=simclr needs none."
        )


def check_num_classes(source: Source, test: Source | None, heads: Mapping[str, Any]) -> None:
    """Checks that a classifier has the classes of the images.

    Args:
      source: training images.
      test: test images, or None.
      heads: section of the config.

    Raises:
      UserError: with the number that the images have.
    """
    classes = num_classes_of(heads)
    for labelled in (source, test):
        if classes and labelled and labelled.class_names:
            num_classes = len(labelled.class_names)
            if classes != num_classes:
                raise UserError(
                    f"config.heads.classifier.num_classes={classes}, but "
                    f"{labelled.name} has {num_classes} classes; use {num_classes}, or None."
                )
