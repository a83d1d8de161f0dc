"""Training with labels: linear evaluation, fine-tuning, and the supervised baseline.

The three differ in where they start (`config.warm_start`), which layers they train
(`train_from`) and which features the classifier sees (`SSLModel.select`).

Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix B.5 to B.7
Chen et al. 2020, https://arxiv.org/abs/2006.10029, Section 3 and Appendix B
"""

from simclr_jax.augment.policies import Augment
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.tree import stop_gradient_at
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.classification import cross_entropy, top1
from simclr_jax.methods.base import (
    Frozen,
    Method,
    StepOutput,
    Variables,
    apply_model,
    check_grad_cache_chunks,
    init_model,
    one_view,
)
from simclr_jax.models.ssl import SSLModel

# What comes before each part, in the order of computation: frozen when training starts there.
FROZEN_BEFORE = {
    "stem": "",
    "stage1": r"encoder/stem.*",
    "stage2": r"encoder/(stem|stage1/).*",
    "stage3": r"encoder/(stem|stage[12]/).*",
    "stage4": r"encoder/(stem|stage[123]/).*",
    "classifier": r"(encoder|projector)/.*",
}


def supervised(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    train_from: str = "stem",
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns training of `model` with cross entropy on one view of each labelled image.

    The loss is the official code's: a mean over images, of one-hot labels without smoothing.
    Weight decay is the optimizer's; where the official code has it in the loss, the gradient is
    the same.

    With train_from="classifier", linear evaluation, encoder and projector run in inference mode:
    their BatchNorms normalise with running statistics and keep them. That is what the official
    TF1 code does and TF2 does not. With a later stage than the stem, every BatchNorm, those of
    the frozen stages too, normalises with the batch and moves its statistics, as in both.
    A projector layer below the classifier is trained along, as in TF2 and in the paper, which
    fine-tunes the whole network; TF1 leaves it as it was.

    Args:
      model: encoder and heads, with logits [n, k] in its output.
      augment: (key, batch) -> one view of each image.
      facts: facts of the run; not used.
      train_from: the first part that is trained, one of `FROZEN_BEFORE`; those before it keep
        the values that they start with.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if there is no such part or no classifier, or chunks are out of range.
    """
    del facts
    require_classifier(model)
    check_grad_cache_chunks(grad_cache_chunks)
    if train_from not in FROZEN_BEFORE:
        raise ValueError(f"train_from={train_from!r} must be one of {[*FROZEN_BEFORE]}.")
    frozen, train_batch_norm = FROZEN_BEFORE[train_from], train_from != "classifier"

    def init(key: PRNGKey, views: Views) -> Variables:
        return init_model(model, key, views)

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        out, batch_stats = apply_model(
            model,
            stop_gradient_at(frozen, params),
            state.batch_stats,
            one_view(views, 0),
            key=key,
            train=train_batch_norm,
            grad_cache_chunks=grad_cache_chunks,
        )
        labels = batch["label"]
        value = cross_entropy(out["logits"], labels)
        metrics = {"loss": value, "top1": top1(out["logits"], labels)}
        return value, StepOutput(batch_stats, metrics)

    return Method(
        init,
        augment,
        loss,
        frozen_params=(Frozen(frozen),) if frozen else (),
        grad_cache_chunks=grad_cache_chunks,
        train_batch_norm=train_batch_norm,
    )


def require_classifier(model: SSLModel) -> None:
    """Checks that there are logits to train.

    Raises:
      ValueError: if the model has no classifier.
    """
    if model.classifier is None:
        raise ValueError(
            "training with classes needs config.heads.classifier, such as dict(num_classes=None)."
        )
