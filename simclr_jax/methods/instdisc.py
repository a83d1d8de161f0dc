"""Instance discrimination: each image is a class of its own, told by a bank of past projections.

Wu et al. 2018, https://arxiv.org/abs/1805.01978
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simclr_jax.augment.policies import Augment
from simclr_jax.core.errors import UserError
from simclr_jax.core.ranges import CountOrZero, Decay, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.instance import bank_logits, instance_nce, instance_softmax, nce_chance
from simclr_jax.losses.similarity import l2_normalize, unit_std
from simclr_jax.methods.bank import BANK_RULE, num_bank_rows, read_bank, write_bank
from simclr_jax.methods.base import (
    ApplyModel,
    Method,
    StepOutput,
    Variables,
    apply_model,
    check_grad_cache_chunks,
    check_heads,
    init_model,
    one_view,
    projection_width,
)
from simclr_jax.models.ssl import SSLModel

Rows: TypeAlias = Float[Array, "b d"]


def instdisc(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.07,
    bank_momentum: Decay = 0.5,
    num_noise: CountOrZero = 0,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns instance discrimination for `model`; its state is {"bank"} and more.

    The bank [rows, d], float32, holds a unit projection of each training image: 4 d bytes an
    image, 656 MB for ImageNet with d = 128. They are split over all devices, stand in every
    checkpoint, and count in what `plan` says of memory. It starts with random directions, where
    the released code has vectors of unit length on average. After each step the images of the
    batch get a mean of their old row and the new projection, at unit length. There is no proximal
    term, as in the released code. With noise, the constant Z that makes similarities into
    probabilities is that of the first batch, and the state has its "log_normalizer": -inf before.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> one view of each image.
      facts: facts of the run.
      temperature: divides the cosine similarity, > 0; 0.07 on ImageNet, 0.1 on CIFAR-10.
      bank_momentum: weight of the old row in the new one, in [0, 1); 0 replaces it.
      num_noise: random images that each is contrasted with, by noise-contrastive estimation;
        4096 in the paper. 0: all images, by a softmax, which is better where it fits: the bank
        stays where it is if it is compared with at once, while the rows of random images have to
        travel.
      loss_tile: rows of the bank that the softmax compares with at a time, for which each device
        gathers the whole bank; None or 0: all at once, or tiles of a good size if they are many.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if there are fewer images than are drawn as noise, or only one.
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_heads(model, "instdisc", "projector")
    check_grad_cache_chunks(grad_cache_chunks)
    _check_num_noise(num_noise, facts.num_images)
    settings = {"temperature": temperature, "num_images": facts.num_images}
    if num_noise:
        contrast = functools.partial(_contrast_with_noise, num_noise=num_noise, **settings)
    else:
        contrast = functools.partial(_contrast_with_all, tile=loss_tile or None, **settings)

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views)
        shape = (num_bank_rows(facts), projection_width(model))
        bank = l2_normalize(jax.random.normal(jax.random.fold_in(key, 1), shape, jnp.float32))
        rest = {"log_normalizer": jnp.array(-jnp.inf)} if num_noise else {}
        return variables._replace(method_state={"bank": bank, **rest})

    loss = functools.partial(
        _loss,
        apply=functools.partial(apply_model, model, grad_cache_chunks=grad_cache_chunks),
        contrast=contrast,
        bank_momentum=bank_momentum,
    )

    def after_update(state: TrainState, carry: Any) -> Any:
        ids, rows, rest = carry
        return {"bank": write_bank(state.method_state["bank"], ids, rows), **rest}

    return Method(
        init,
        augment,
        loss,
        after_update,
        state_rules=(BANK_RULE,),
        negatives=None if num_noise else facts.num_images - 1,
        grad_cache_chunks=grad_cache_chunks,
    )


def _loss(
    params: Params,
    state: TrainState,
    views: Views,
    batch: Batch,
    key: PRNGKey,
    *,
    apply: ApplyModel,
    contrast: Callable[..., tuple[Scalar, Scalar, dict[str, Array]]],
    bank_momentum: float,
) -> tuple[Scalar, StepOutput]:
    """Contrasts each image with its row of the bank and with others."""
    out, batch_stats = apply(params, state.batch_stats, one_view(views, 0), key=key)
    z, ids = out["projection"], batch["id"]
    own = read_bank(state.method_state["bank"], ids)
    value, chance, rest = contrast(z, own, ids, state, jax.random.fold_in(key, 1))
    u = jax.lax.stop_gradient(l2_normalize(z))
    metrics = {
        "loss": value,
        "loss_chance": chance,
        "projection_std": unit_std(u),
        "bank_similarity": (u * own).sum(axis=-1).mean(),
    }
    moved = l2_normalize(bank_momentum * own + (1 - bank_momentum) * u)
    return value, StepOutput(batch_stats, metrics, carry=(ids, moved, rest))


def _contrast_with_noise(
    z: Rows,
    own: Rows,
    ids: Int[Array, " b"],
    state: TrainState,
    key: PRNGKey,
    *,
    temperature: float,
    num_images: int,
    num_noise: int,
) -> tuple[Scalar, Scalar, dict[str, Array]]:
    """Returns the loss against random images, its chance, and the normalizer to remember."""
    del own  # the first of each image's indices
    noise = jax.random.randint(key, (ids.shape[0], num_noise), 0, num_images)
    indices = jnp.concatenate([jnp.maximum(ids, 0)[:, None], noise], axis=1)
    logits = bank_logits(z, state.method_state["bank"], indices, temperature=temperature)
    first = jax.lax.stop_gradient(_log_mean_exp(logits)) + jnp.log(float(num_images))
    log_z = state.method_state["log_normalizer"]
    log_z = jnp.where(jnp.isneginf(log_z), first, log_z)  # until a step has counted
    value = instance_nce(logits - log_z, num_images=num_images, known=ids >= 0)
    return value, nce_chance(num_noise), {"log_normalizer": log_z}


def _contrast_with_all(
    z: Rows,
    own: Rows,
    ids: Int[Array, " b"],
    state: TrainState,
    key: PRNGKey,
    *,
    temperature: float,
    num_images: int,
    tile: int | None,
) -> tuple[Scalar, Scalar, dict[str, Array]]:
    """Returns the loss against all images, its chance, and nothing to remember."""
    del key
    bank = state.method_state["bank"]
    value = instance_softmax(
        z,
        own,
        bank,
        temperature=temperature,
        known=ids >= 0,
        candidate_mask=jnp.arange(len(bank)) < num_images if len(bank) > num_images else None,
        tile=tile,
    )
    return value, jnp.log(float(num_images)), {}


def _check_num_noise(num_noise: int, num_images: int) -> None:
    if num_images <= max(num_noise, 1):
        raise UserError(
            f"config.data has {num_images} images, and config.method.num_noise={num_noise} "
            f"contrasts each with {max(num_noise, 1)} others; use num_noise=0 and 2 images or more."
        )


def _log_mean_exp(x: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(x) - jnp.log(float(x.size))
