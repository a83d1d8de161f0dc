"""Methods whose loss sees the projections of one batch: what they share is all but the loss."""

from collections.abc import Callable
from typing import TypeAlias

from simclr_jax.augment.policies import Augment
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Metrics, Params, PRNGKey, Projections, Scalar, Views
from simclr_jax.losses.geometry import geometry
from simclr_jax.losses.similarity import unit_std
from simclr_jax.methods.base import (
    Method,
    StepOutput,
    Variables,
    apply_model,
    by_image,
    check_grad_cache_chunks,
    check_heads,
    init_model,
)
from simclr_jax.models.ssl import SSLModel

ProjectionLoss: TypeAlias = Callable[[Projections, Batch], tuple[Scalar, Metrics]]


def from_projections(
    name: str,
    model: SSLModel,
    augment: Augment,
    loss: ProjectionLoss,
    *,
    gradient_scale: float = 1.0,
    views_apart: bool = False,
    needs_labels: bool = False,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns the method that minimises a loss of projections; it has no state.

    Args:
      name: name of the method, for messages.
      model: with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      loss: (projections [b, v, d], batch) -> (value, what is logged beside it).
      gradient_scale: multiplies the gradient and not the loss that is logged.
      views_apart: whether BatchNorm sees each view by itself; see `base.apply_model`.
      needs_labels: whether the loss says nothing of images without a label.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_heads(model, name, "projector")
    check_grad_cache_chunks(grad_cache_chunks)

    def init(key: PRNGKey, views: Views) -> Variables:
        return init_model(model, key, views)

    def projection_loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        out, batch_stats = apply_model(
            model,
            params,
            state.batch_stats,
            views,
            key=key,
            views_apart=views_apart,
            grad_cache_chunks=grad_cache_chunks,
        )
        z = by_image(out["projection"], views)
        value, metrics = loss(z, batch)
        metrics = {"loss": value, "projection_std": unit_std(z), **geometry(z), **metrics}
        return gradient_scale * value, StepOutput(batch_stats, metrics)

    return Method(
        init,
        augment,
        projection_loss,
        needs_labels=needs_labels,
        grad_cache_chunks=grad_cache_chunks,
    )
