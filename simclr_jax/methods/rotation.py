"""Rotation: tell by how many quarter turns an image was rotated.

Gidaris et al. 2018, https://arxiv.org/abs/1803.07728
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, PRNGKey, Scalar, ViewArray, Views
from simclr_jax.losses.classification import cross_entropy, top1
from simclr_jax.methods.base import Method, check_heads, one_view
from simclr_jax.methods.projected import from_outputs
from simclr_jax.models.heads import classifier
from simclr_jax.models.ssl import SSLModel

NUM_TURNS = 4


def rotation(
    model: SSLModel, augment: Augment, facts: RunFacts, *, grad_cache_chunks: int = 1
) -> Method:
    """Returns the pretext task of rotation for `model`, with a linear classifier of its own.

    All four rotations of a view are in the batch, as in the released code. A view is square, and
    turned after it was cut, so that no pixel is interpolated and nothing but its content tells.

    Args:
      model: an encoder without heads.
      augment: (key, batch) -> one view of each image.
      facts: facts of the run; not used.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the model has heads, or the chunks are out of range.
    """
    del facts
    check_heads(model, "rotation")
    network = model.clone(classifier=classifier(num_classes=NUM_TURNS, zero_init=False))

    def augment_and_turn(key: PRNGKey, batch: Batch) -> Views:
        return quarter_turns(one_view(augment(key, batch), 0))

    def loss(out: Mapping[str, Any], views: Views, batch: Batch) -> tuple[Scalar, Metrics]:
        del views
        labels = jnp.tile(jnp.arange(NUM_TURNS), batch["id"].shape[0])
        return cross_entropy(out["logits"], labels), {
            "loss_chance": jnp.log(float(NUM_TURNS)),
            "pretext_accuracy": top1(out["logits"], labels),
        }

    return from_outputs(network, augment_and_turn, loss, grad_cache_chunks=grad_cache_chunks)


def quarter_turns(views: ViewArray) -> ViewArray:
    """Returns each square view [b, 1, s, s, c] turned by 0 to 3 quarters, counter-clockwise."""
    turned = [jnp.rot90(views[:, 0], turns, axes=(1, 2)) for turns in range(NUM_TURNS)]
    return jnp.stack(turned, axis=1)
