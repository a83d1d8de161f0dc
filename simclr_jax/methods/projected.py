"""Methods without state, whose loss sees what the network puts out for one batch."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

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

OutputLoss: TypeAlias = Callable[[Mapping[str, Any], Views, Batch], tuple[Scalar, Metrics]]
ProjectionLoss: TypeAlias = Callable[[Projections, Batch], tuple[Scalar, Metrics]]


def from_outputs(
    model: SSLModel,
    augment: Augment,
    loss: OutputLoss,
    *,
    two_views: bool = False,
    gradient_scale: float = 1.0,
    views_apart: bool = False,
    negatives: int | None = None,
    needs_labels: bool = False,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns the method that minimises a loss of a network's outputs; it has no state.

    Args:
      model: encoder and heads, all of which are trained.
      augment: (key, batch) -> views of each image.
      loss: (outputs of `SSLModel.apply_heads`, views, batch) -> (value, what is logged beside it).
      two_views: whether the loss compares views of an image.
      gradient_scale: multiplies the gradient and not the loss that is logged.
      views_apart: whether BatchNorm sees each view by itself; see `base.apply_model`.
      negatives: rows that each row is contrasted with; see `base.Method`.
      needs_labels: whether the loss says nothing of images without a label.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the chunks are out of range.
    """
    check_grad_cache_chunks(grad_cache_chunks)

    def init(key: PRNGKey, views: Views) -> Variables:
        return init_model(model, key, views, two_views=two_views)

    def output_loss(
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
        value, metrics = loss(out, views, batch)
        return gradient_scale * value, StepOutput(batch_stats, {"loss": value, **metrics})

    return Method(
        init,
        augment,
        output_loss,
        negatives=negatives,
        needs_labels=needs_labels,
        grad_cache_chunks=grad_cache_chunks,
    )


def from_projections(
    name: str,
    model: SSLModel,
    augment: Augment,
    loss: ProjectionLoss,
    *,
    gradient_scale: float = 1.0,
    views_apart: bool = False,
    negatives: int | None = None,
    needs_labels: bool = False,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns the method that minimises a loss of projections; it has no state.

    Args:
      name: name of the method, for messages.
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      loss: (projections [b, v, d], batch) -> (value, what is logged beside it).
      gradient_scale: as for `from_outputs`; so are the arguments after it.
      views_apart: see `from_outputs`.
      negatives: see `from_outputs`.
      needs_labels: see `from_outputs`.
      grad_cache_chunks: see `from_outputs`.

    Raises:
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_heads(model, name, "projector")

    def projection_loss(
        out: Mapping[str, Any], views: Views, batch: Batch
    ) -> tuple[Scalar, Metrics]:
        z = by_image(out["projection"], views)
        value, metrics = loss(z, batch)
        return value, {**projection_metrics(z), **metrics}

    return from_outputs(
        model,
        augment,
        projection_loss,
        two_views=True,
        gradient_scale=gradient_scale,
        views_apart=views_apart,
        negatives=negatives,
        needs_labels=needs_labels,
        grad_cache_chunks=grad_cache_chunks,
    )


def projection_metrics(z: Projections) -> Metrics:
    """Returns how projections lie on the unit sphere: "projection_std" and `geometry`."""
    return {"projection_std": unit_std(z), **geometry(z)}
