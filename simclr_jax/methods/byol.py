"""BYOL: a network predicts what a slowly moving copy of itself makes of the other view.

Grill et al. 2020, https://arxiv.org/abs/2006.07733, Equations 1 to 3
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Metrics, Params, PRNGKey, Projections, Scalar, Views
from simclr_jax.losses.siamese import byol as byol_loss
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
from simclr_jax.methods.memory import Target, cosine_ema
from simclr_jax.models.ssl import SSLModel

PredictionLoss: TypeAlias = Callable[[Projections, Projections], tuple[Scalar, Metrics]]


def byol(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    ema: float = 0.996,
    gradient_scale: Positive = 1.0,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns BYOL for `model`; its state is {"target": {"params", "batch_stats"}}.

    The target has the encoder and the projector. It starts as a copy of theirs, while the official
    code draws it anew; its authors found no difference.

    Args:
      model: network with a projector and a predictor that has the projector's output width.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run; the EMA rises over all its steps.
      ema: share of itself that the target keeps at first, in [0, 1]; it rises to 1 on half a
        cosine. The paper uses 0.996 for 1000 epochs, and less for fewer.
      gradient_scale: multiplies the gradient and not the loss that is logged, > 0. The official
        loss is the sum over both views, which corresponds to 2.
      grad_cache_chunks: parts of the batch that go through the networks one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if `ema` or the chunks are out of range, or the model has other heads.
    """
    return predict_target(
        "byol",
        model,
        augment,
        lambda prediction, target: (byol_loss(prediction, target), {}),
        target=Target(cosine_ema(ema, facts.num_steps), parts=("encoder", "projector")),
        gradient_scale=gradient_scale,
        grad_cache_chunks=grad_cache_chunks,
    )


def predict_target(
    name: str,
    model: SSLModel,
    augment: Augment,
    loss: PredictionLoss,
    *,
    target: Target,
    gradient_scale: float,
    grad_cache_chunks: int,
    negatives: int | None = None,
) -> Method:
    """Returns a method whose predictions are compared with the projections of a target.

    Args:
      name: name of the method, for messages.
      model: network with a projector and a predictor.
      augment: (key, batch) -> two views of each image.
      loss: (predictions [b, v, d], target's projections [b, v, d]) -> (value, what is logged
        beside it); no gradient may reach the second.
      target: settings of the copy of encoder and projector.
      gradient_scale: multiplies the gradient and not the loss that is logged.
      grad_cache_chunks: parts of the batch that go through the networks one after the other.
      negatives: rows that each row is contrasted with; see `base.Method`.

    Raises:
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_heads(model, name, "projector", "predictor")
    check_grad_cache_chunks(grad_cache_chunks)
    target_model = model.clone(predictor=None)
    apply = functools.partial(apply_model, views_apart=True, grad_cache_chunks=grad_cache_chunks)

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views, two_views=True)
        return variables._replace(method_state={"target": target.init(variables)})

    def prediction_loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del batch
        out, batch_stats = apply(model, params, state.batch_stats, views, key=key)
        old = state.method_state["target"]
        target_out, target_stats = apply(
            target_model, old["params"], old["batch_stats"], views, key=None
        )
        prediction = by_image(out["prediction"], views)
        value, metrics = loss(prediction, by_image(target_out["projection"], views))
        metrics = {"loss": value, "projection_std": unit_std(out["projection"]), **metrics}
        return gradient_scale * value, StepOutput(batch_stats, metrics, carry=target_stats)

    def after_update(state: TrainState, carry: Any) -> Any:
        return {"target": target.update(state.method_state["target"], state, carry)}

    return Method(
        init,
        augment,
        prediction_loss,
        after_update,
        negatives=negatives,
        grad_cache_chunks=grad_cache_chunks,
    )
