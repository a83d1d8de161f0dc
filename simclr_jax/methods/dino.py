"""DINO: match, from any view, what a slowly moving teacher makes of the large views.

Caron et al. 2021, https://arxiv.org/abs/2104.14294, Equations 1 to 4 and Algorithm 1
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import CountOrZero, Decay, NonNegative, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.clusters import centered_targets, cross_view_entropy
from simclr_jax.losses.similarity import unit_std
from simclr_jax.methods.base import (
    ApplyModel,
    Method,
    StepOutput,
    Variables,
    apply_model,
    by_image,
    check_global_views,
    check_grad_cache_chunks,
    check_heads,
    frozen_prototypes,
    init_model,
    prototypes_of,
)
from simclr_jax.methods.memory import Target, cosine_ema
from simclr_jax.models.ssl import SSLModel


def dino(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.1,
    teacher_temperature: Positive = 0.04,
    first_teacher_temperature: Positive = 0.04,
    teacher_warmup_epochs: CountOrZero = 0,
    center_decay: Decay = 0.9,
    ema: float = 0.996,
    freeze_epochs: NonNegative = 1.0,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns DINO for `model`; its state is {"target": {"params", "batch_stats"}, "center"}.

    The teacher is a moving average of the whole network, and it is what is evaluated. It sees the
    two global views alone. Its outputs are centred and sharpened, each of which prevents one of the
    two collapses: one prototype for all images, and all prototypes alike.

    Args:
      model: network with a projector and prototypes, whose `normalize_kernel` should be on.
      augment: (key, batch) -> views, the first array of which has the two global ones.
      facts: facts of the run; the EMA rises over all its steps.
      temperature: divides the student's scores, > 0.
      teacher_temperature: divides the teacher's scores, > 0; smaller than the student's.
      first_teacher_temperature: the teacher's in the first epoch, from which it changes linearly,
        epoch by epoch.
      teacher_warmup_epochs: epochs of that change; 0 for none.
      center_decay: share of itself that the centre keeps in a step, in [0, 1).
      ema: share of itself that the teacher keeps at first, in [0, 1]; it rises to 1 on half a
        cosine. 0.996; 0.9995 for batches of 256.
      freeze_epochs: how long the prototypes stay as they were initialised.
      grad_cache_chunks: parts of the batch that go through the networks one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if `ema` or the chunks are out of range, the model has other heads, or the
        teacher is not sharper than the student.
    """
    check_heads(model, "dino", "projector", "prototypes")
    check_grad_cache_chunks(grad_cache_chunks)
    _check_sharper(teacher_temperature, first_teacher_temperature, temperature)
    target = Target(cosine_ema(ema, facts.num_steps))
    warm_until = facts.steps_in("teacher_warmup_epochs", teacher_warmup_epochs)

    def sharpness(step: Int[Array, ""]) -> Float[Array, ""]:
        """Returns the teacher's temperature: that of np.linspace over the first epochs."""
        rise = (teacher_temperature - first_teacher_temperature) / max(teacher_warmup_epochs - 1, 1)
        warm = first_teacher_temperature + rise * (step // facts.steps_per_epoch)
        return jnp.where(step < warm_until, warm, teacher_temperature)

    def init(key: PRNGKey, views: Views) -> Variables:
        check_global_views(views, "dino")
        variables = init_model(model, key, views, several_sizes=True)
        center = jnp.zeros(prototypes_of(model).num_prototypes)
        return variables._replace(method_state={"target": target.init(variables), "center": center})

    loss = functools.partial(
        _loss,
        apply=functools.partial(apply_model, model, grad_cache_chunks=grad_cache_chunks),
        sharpness=sharpness,
        temperature=temperature,
        center_decay=center_decay,
    )

    def after_update(state: TrainState, carry: Any) -> Any:
        teacher_stats, center = carry
        moved = target.update(state.method_state["target"], state, teacher_stats)
        return {"target": moved, "center": center}

    return Method(
        init,
        augment,
        loss,
        after_update,
        frozen_params=frozen_prototypes(facts, freeze_epochs),
        evaluated="method_state/target",
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
    sharpness: Callable[[Int[Array, ""]], Float[Array, ""]],
    temperature: float,
    center_decay: float,
) -> tuple[Scalar, StepOutput]:
    """Compares the scores of all views with those that the teacher gives the global ones."""
    del batch
    out, batch_stats = apply(params, state.batch_stats, views, key=key)
    old, center = (state.method_state[name] for name in ("target", "center"))
    large = views[0] if isinstance(views, tuple) else views
    teacher_out, teacher_stats = apply(old["params"], old["batch_stats"], large, key=None)
    teacher = jax.lax.stop_gradient(by_image(teacher_out["scores"], large))
    targets = centered_targets(teacher, center, temperature=sharpness(state.step))
    value = cross_view_entropy(targets, by_image(out["scores"], views), temperature=temperature)
    metrics = {
        "loss": value,
        "loss_chance": jnp.log(float(center.shape[0])),
        "target_entropy": jax.scipy.special.entr(targets).sum(axis=-1).mean(),
        "projection_std": unit_std(out["projection"]),
    }
    center = center_decay * center + (1 - center_decay) * teacher.mean(axis=(0, 1))
    return value, StepOutput(batch_stats, metrics, carry=(teacher_stats, center))


def _check_sharper(last: float, first: float, temperature: float) -> None:
    if not max(last, first) < temperature:
        raise ValueError(
            f"teacher_temperature={last} and first_teacher_temperature={first} must be below "
            f"temperature={temperature}: a teacher that is not sharper than the student lets all "
            "scores become equal. The paper uses 0.04 to 0.07, and 0.1."
        )
