"""Optimizers of the SimCLR papers, assembled from optax parts."""

import optax

from simclr_jax.core.tree import not_matching

NORM = r".*norm[^/]*/(scale|bias)"
# The official code takes biases and BatchNorm out of both weight decay and LARS, and the
# classifier out of LARS only: its L2 term is in the loss (google-research/simclr, tf2/model.py).
NO_DECAY = rf"{NORM}|.*/bias"
NO_LARS = rf"{NO_DECAY}|.*classifier/.*"


def lars(
    schedule: optax.Schedule, *, weight_decay: float = 1e-6, momentum: float = 0.9
) -> optax.GradientTransformation:
    """LARS as SimCLR trains with it (You et al. 2017, https://arxiv.org/abs/1708.03888).

    The rate multiplies each update before momentum sums them (`classic_momentum=True` in
    the official code), so a later change of rate does not rescale past updates. Parameters
    outside the layer-wise adaptation get plain momentum SGD at the full rate.

    Args:
      schedule: optimizer step -> learning rate.
      weight_decay: L2 coefficient, added to the gradient before the trust ratio.
      momentum: decay of the velocity, in [0, 1).
    """
    return optax.lars(
        schedule,
        weight_decay=weight_decay,
        weight_decay_mask=not_matching(NO_DECAY),
        trust_coefficient=1e-3,
        trust_ratio_mask=not_matching(NO_LARS),
        momentum=momentum,
    )


def sgd(
    schedule: optax.Schedule, *, weight_decay: float = 0.0, momentum: float = 0.9
) -> optax.GradientTransformation:
    """SGD with Nesterov momentum, the optimizer of linear evaluation and fine-tuning.

    As in the official code, `weight_decay` is an L2 term on every parameter but those of
    BatchNorm: biases decay too.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=not_matching(NORM)),
        optax.sgd(schedule, momentum=momentum, nesterov=True),
    )


def adamw(
    schedule: optax.Schedule, *, weight_decay: float = 1e-4, b1: float = 0.9, b2: float = 0.999
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019); BatchNorm and biases do not decay.

    Not used in the SimCLR papers; it reaches a good encoder sooner on small data.
    """
    return optax.adamw(
        schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=not_matching(NO_DECAY)
    )


OPTIMIZERS = {"lars": lars, "sgd": sgd, "adamw": adamw}
