"""BYOL: a network predicts what a slowly moving copy of itself makes of the other view.

Grill et al. 2020, https://arxiv.org/abs/2006.07733, Equations 1 to 3
"""

from typing import Any

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.siamese import byol as byol_loss
from simclr_jax.losses.similarity import l2_normalize
from simclr_jax.methods.base import (
    Method,
    StepOutput,
    Variables,
    apply_model,
    by_image,
    check_grad_cache_chunks,
    init_model,
)
from simclr_jax.methods.memory import Target, cosine_ema
from simclr_jax.models.ssl import SSLModel


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
      model: with a projector and a predictor that has the projector's output width.
      augment: (key, batch) -> two views of each image.
      facts: of the run; the EMA rises over all its steps.
      ema: share of itself that the target keeps at first, in [0, 1]; it rises to 1 on half a
        cosine. The paper uses 0.996 for 1000 epochs, and less for fewer.
      gradient_scale: multiplies the gradient and not the loss that is logged, > 0. The official
        loss is the sum over both views, which 2 stands for.
      grad_cache_chunks: parts of the batch that go through the networks one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if `ema` or the chunks are out of range, or the model has no predictor.
    """
    if model.predictor is None:
        raise ValueError("method byol needs heads with a projector and a predictor.")
    check_grad_cache_chunks(grad_cache_chunks)
    target = Target(cosine_ema(ema, facts.num_steps), parts=("encoder", "projector"))
    target_model = model.clone(predictor=None)

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views)
        return variables._replace(method_state={"target": target.init(variables)})

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del batch
        out, batch_stats = apply_model(
            model, params, state.batch_stats, views, key=key, grad_cache_chunks=grad_cache_chunks
        )
        old = state.method_state["target"]
        target_out, target_stats = apply_model(
            target_model,
            old["params"],
            old["batch_stats"],
            views,
            key=None,
            grad_cache_chunks=grad_cache_chunks,
        )
        prediction = by_image(out["prediction"], views)
        value = byol_loss(prediction, by_image(target_out["projection"], views))
        metrics = {
            "loss": value,
            # Of each coordinate of unit projections: 0 when all are equal, 1 / sqrt(d) at best.
            "projection_std": l2_normalize(out["projection"]).std(axis=0).mean(),
        }
        return gradient_scale * value, StepOutput(batch_stats, metrics, carry=target_stats)

    def after_update(state: TrainState, carry: Any) -> Any:
        return {"target": target.update(state.method_state["target"], state, carry)}

    return Method(init, augment, loss, after_update, grad_cache_chunks=grad_cache_chunks)
