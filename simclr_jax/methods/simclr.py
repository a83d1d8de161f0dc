"""SimCLR and SimCLRv2 pretraining: NT-Xent on two augmented views of each image.

Chen et al. 2020, https://arxiv.org/abs/2002.05709 (v1: 2-layer projector)
Chen et al. 2020, https://arxiv.org/abs/2006.10029 (v2: 3-layer projector, SK-ResNet, memory)
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.core.sections import build_section
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Collection, Labels, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.contrastive import contrastive_metrics, nt_xent
from simclr_jax.methods.base import (
    Method,
    StepOutput,
    Variables,
    apply_model,
    check_grad_cache_chunks,
    init_model,
    keep_method_state,
)
from simclr_jax.methods.memory import Keys, Memory, negatives


def simclr(
    model: nn.Module,
    augment: Callable[[PRNGKey, Batch], Views],
    *,
    temperature: float = 0.1,
    memory: Mapping[str, Any] | None = None,
    gradient_scale: float = 1.0,
    loss_tile: int | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns SimCLR for `model`.

    Args:
      model: its output has an entry "projection" of shape [n, d].
      augment: (key, batch) -> two views of each image.
      temperature: of NT-Xent, > 0.
      memory: settings of `Memory`, SimCLRv2's; None to contrast the views of one batch only.
      gradient_scale: multiplies the gradient, > 0; the loss that is logged stays the mean over
        views, in nats. The official code sums the losses of an image's two views
        (tf2/objective.py), and its rates and weight decays were tuned with that: 2 goes with
        them in LARS recipes, where another rate would not do. The trust ratio cancels a factor
        of the gradient alone, not of the sum with the decay, and BatchNorm has none.
      loss_tile: candidates that the loss compares with at a time; memory grows with it. None
        or 0: all at once, or tiles of a good size for a batch above 4096 images.
      grad_cache_chunks: parts of the batch that go through the network one after the other, so
        that more fits; the loss sees all of it. See `base.apply_model`.

    Raises:
      ValueError: if temperature or gradient_scale is not positive, the tile or the chunks are
        out of range, or a setting of the memory is wrong; `init` raises one if the model has no
        projection.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}; it must be > 0. The papers use 0.1 to 0.5.")
    if not 0 < gradient_scale < math.inf:
        raise ValueError(
            f"gradient_scale={gradient_scale}; it must be > 0: 1 for the gradient of the loss, "
            "2 for the official one."
        )
    if loss_tile is not None and loss_tile < 0:
        raise ValueError(
            f"loss_tile={loss_tile}; it must be at least 1, or 0 or None to choose by size."
        )
    check_grad_cache_chunks(grad_cache_chunks)
    tile = loss_tile or None
    momentum_memory = (
        None if memory is None else build_section("config.method.memory", Memory, memory)
    )

    def project(params: Params, batch_stats: Collection, views: Views) -> tuple[Keys, Collection]:
        out, stats = apply_model(
            model, params, batch_stats, views, grad_cache_chunks=grad_cache_chunks
        )
        if "projection" not in out:
            raise ValueError("method simclr needs heads.projector, and no heads.classifier.")
        return out["projection"].reshape(*views.shape[:2], -1), stats  # [b, v, d]

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views)
        network = (variables.params, variables.batch_stats)
        keys, _ = jax.eval_shape(functools.partial(project, *network), views)
        if momentum_memory is None:
            return variables
        start = momentum_memory.start(jax.random.fold_in(key, 1), variables, keys.shape)
        return variables._replace(method_state=start)

    def loss(
        params: Params, state: TrainState, views: Views, labels: Labels, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del labels, key
        z, batch_stats = project(params, state.batch_stats, views)
        keys, queue, carry = None, None, ()
        if momentum_memory is not None:
            target, queue = state.method_state["target"], negatives(state.method_state["queue"])
            keys, target_stats = project(target["params"], target["batch_stats"], views)
            carry = (keys, target_stats)
        value = nt_xent(z, temperature=temperature, keys=keys, queue=queue, tile=tile)
        num_past = 0 if queue is None else queue.shape[0]
        metrics = {
            "loss": value,
            # All similarities equal: nothing learned.
            "loss_chance": jnp.log(2.0 * z.shape[0] - 1.0 + num_past),
            **contrastive_metrics(z, temperature=temperature, tile=tile),
        }
        return gradient_scale * value, StepOutput(batch_stats, metrics, carry)

    after_update = momentum_memory.after_update if momentum_memory else keep_method_state
    return Method(init, augment, loss, after_update, grad_cache_chunks=grad_cache_chunks)
