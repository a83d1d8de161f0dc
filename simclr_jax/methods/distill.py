"""Distillation: a student learns a teacher's class probabilities on unlabelled images.

Chen et al. 2020, https://arxiv.org/abs/2006.10029, Section 2, the last of SimCLRv2's three steps
"""

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.classification import cross_entropy, distillation
from simclr_jax.methods.base import (
    FrozenNetwork,
    Method,
    StepOutput,
    Variables,
    apply_model,
    check_grad_cache_chunks,
    init_model,
    one_view,
    zero_variables,
)
from simclr_jax.methods.supervised import require_classifier
from simclr_jax.models.ssl import SSLModel


def distill(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    teacher: FrozenNetwork,
    temperature: float = 1.0,
    alpha: float = 1.0,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns training of `model` on a teacher's class probabilities for one view of each image.

    The loss is alpha times the distillation loss on all images plus 1 - alpha times the cross
    entropy on those with a label. The teacher sees the student's view, in inference mode.

    Args:
      model: the student, with logits [n, k] in its output.
      augment: (key, batch) -> one view of each image; crop and flip alone in the paper.
      facts: facts of the run; not used.
      teacher: workdir of a run with a classifier of the same classes.
      temperature: temperature of both softmaxes, > 0. The paper uses 0.1 for self-distillation
        and 1 for a smaller student.
      alpha: weight of the teacher, in [0, 1]; 1, the paper's choice, needs no label.
      grad_cache_chunks: parts of the batch that go through the networks one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the temperature, alpha or chunks are out of range, or the student has no
        classifier.
    """
    del facts
    require_classifier(model)
    check_grad_cache_chunks(grad_cache_chunks)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}; it must be > 0. The paper uses 0.1 and 1.")
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha={alpha}; it must be in [0, 1]: 1 is the teacher alone, 0 the labels alone."
        )

    def init(key: PRNGKey, views: Views) -> Variables:
        state = {"teacher": zero_variables(teacher)}
        return init_model(model, key, views)._replace(method_state=state)

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        views = one_view(views, 0)
        teacher_vars = state.method_state["teacher"]
        teacher_out, _ = apply_model(
            teacher.model,
            teacher_vars["params"],
            teacher_vars["batch_stats"],
            views,
            key=None,
            train=False,
            grad_cache_chunks=grad_cache_chunks,
        )
        out, batch_stats = apply_model(
            model, params, state.batch_stats, views, key=key, grad_cache_chunks=grad_cache_chunks
        )
        logits, teacher_logits = out["logits"], teacher_out["logits"]
        value = alpha * distillation(logits, teacher_logits, temperature=temperature)
        if alpha < 1:
            value += (1 - alpha) * cross_entropy(logits, batch["label"])
        agreement = (jnp.argmax(logits, axis=-1) == jnp.argmax(teacher_logits, axis=-1)).mean()
        metrics = {"loss": value, "agreement": agreement}
        return value, StepOutput(batch_stats, metrics)

    return Method(init, augment, loss, grad_cache_chunks=grad_cache_chunks)
