"""Optimizers of the SimCLR papers, assembled from optax parts."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from simclr_jax.core.ranges import Decay, NonNegative, Positive
from simclr_jax.core.tree import not_matching, path_name
from simclr_jax.optim.schedules import RunSchedule

NORM = r".*[nN]orm[^/]*/(scale|bias)"
BIAS = r"(?!.*[nN]orm[^/]*/bias).*/bias"  # of other layers than those
# The official code takes biases and BatchNorm out of both weight decay and LARS, and the
# classifier out of LARS only: its L2 term is in the loss (google-research/simclr, tf2/model.py).
# A ViT's LayerNorms, tokens of its own and learned positions are treated alike, as timm does, and
# so are the scale and the bias of the logits of two towers, as in open_clip.
NO_DECAY = rf"{NORM}|.*/(bias|class_token|mask_token|positions)|log_scale|logit_bias"
NO_LARS = rf"{NO_DECAY}|.*classifier/.*"
NOTHING = r"(?!)"
# Pairs (pattern, factor): the learning rate of the parameters whose whole path matches the
# pattern is multiplied by the factor, or does not fall after warm-up if that is "constant". The
# first pattern that matches counts.
Rates: TypeAlias = Sequence[Sequence[str | float | int]]
CONSTANT = "constant"
Build: TypeAlias = Callable[[RunSchedule], optax.GradientTransformation]


def lars(
    schedule: RunSchedule,
    *,
    weight_decay: NonNegative = 1e-6,
    momentum: Decay = 0.9,
    rate_in_momentum: bool = True,
    adapt_classifier: bool = False,
    adapt_all: bool = False,
    rates: Rates = (),
) -> optax.GradientTransformation:
    """LARS as SimCLR trains with it (You et al. 2017, https://arxiv.org/abs/1708.03888).

    Parameters outside the layer-wise adaptation get plain momentum SGD at the full rate.

    Args:
      schedule: the learning rate by optimizer step.
      weight_decay: L2 coefficient, added to the gradient before the trust ratio.
      momentum: decay of the velocity, in [0, 1).
      rate_in_momentum: whether the rate multiplies each update before momentum sums them
        (`classic_momentum=True` in the official code), so that a later change of rate does not
        rescale past updates; False, as in PyTorch code such as that of MoCo v3 and Barlow Twins,
        multiplies the sum.
      adapt_classifier: whether the classifier's kernel has a trust ratio. In the official code
        it has none (tf2/model.py), but in its notebook of distillation it has.
      adapt_all: whether all parameters decay and have a trust ratio, biases and BatchNorm's too,
        as under LARC in SwAV's code.
      rates: factors for groups of parameters; see `with_rates`.
    """
    decayed, adapted = NO_DECAY, NO_DECAY if adapt_classifier else NO_LARS
    if adapt_all:
        decayed = adapted = NOTHING

    def build(schedule: RunSchedule) -> optax.GradientTransformation:
        rate, velocity = optax.scale_by_learning_rate(schedule), optax.trace(momentum)
        return optax.chain(
            optax.add_decayed_weights(weight_decay, mask=not_matching(decayed)),
            optax.masked(optax.scale_by_trust_ratio(trust_coefficient=1e-3), not_matching(adapted)),
            *((rate, velocity) if rate_in_momentum else (velocity, rate)),
        )

    return with_rates(build, schedule, rates)


def sgd(
    schedule: RunSchedule,
    *,
    weight_decay: NonNegative = 0.0,
    momentum: Decay = 0.9,
    nesterov: bool = True,
    decay_norms: bool = False,
    decay_biases: bool = True,
    clip_each: Positive | None = None,
    rates: Rates = (),
) -> optax.GradientTransformation:
    """SGD with momentum, the optimizer of linear evaluation and fine-tuning.

    The rate multiplies what momentum has summed, as in PyTorch and in the official TF1 code; in TF2
    it multiplies the summands, which differs while the rate changes. The defaults are the official
    ones.

    Args:
      schedule: the learning rate by optimizer step.
      weight_decay: L2 coefficient, added to the gradient.
      momentum: decay of the velocity, in [0, 1).
      nesterov: whether the step goes ahead of the velocity; not by default in PyTorch.
      decay_norms: whether BatchNorm's scales and biases decay, as everything does in PyTorch.
      decay_biases: whether the biases of other layers do.
      clip_each: see `adamw`.
      rates: factors for groups of parameters; see `with_rates`.
    """
    kept = [NORM] * (not decay_norms) + [BIAS] * (not decay_biases)
    decayed = not_matching("|".join(kept)) if kept else None

    def build(schedule: RunSchedule) -> optax.GradientTransformation:
        return optax.chain(
            *([] if clip_each is None else [_clip_each(clip_each)]),
            optax.add_decayed_weights(weight_decay, mask=decayed),
            optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
        )

    return with_rates(build, schedule, rates)


def adamw(
    schedule: RunSchedule,
    *,
    weight_decay: NonNegative = 1e-4,
    weight_decay_end: NonNegative | None = None,
    decay_all: bool = False,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    clip_each: Positive | None = None,
    rates: Rates = (),
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019).

    Not used in the SimCLR papers; it reaches a good encoder sooner on small data.

    Args:
      schedule: the learning rate by optimizer step.
      weight_decay: share of a parameter that it loses in a step, times the rate.
      weight_decay_end: weight decay at the end of the run, reached by half a cosine; None if it
        stays. 0.4, from 0.04, in DINO.
      decay_all: whether everything decays, as in MoCo v3; otherwise all but norms, biases, and a
        ViT's tokens of its own and positions.
      b1: decay of the mean of gradients, in [0, 1).
      b2: decay of the mean of their squares, in [0, 1).
      clip_each: largest norm of the gradient of each parameter, which is scaled down to it before
        all else; None for none. 3 in DINO.
      rates: factors for groups of parameters; see `with_rates`.
    """

    def build(schedule: RunSchedule) -> optax.GradientTransformation:
        decay = weight_decay
        if weight_decay_end is not None:
            decay = _half_cosine(weight_decay, weight_decay_end, schedule)
        mask = not_matching(NOTHING if decay_all else NO_DECAY)
        tx = optax.adamw(schedule, b1=b1, b2=b2, weight_decay=decay, mask=mask)
        return tx if clip_each is None else optax.chain(_clip_each(clip_each), tx)

    return with_rates(build, schedule, rates)


def _half_cosine(start: float, end: float, schedule: RunSchedule) -> optax.Schedule:
    return lambda count: end + 0.5 * (start - end) * (1 + jnp.cos(jnp.pi * schedule.done(count)))


def _clip_each(max_norm: float) -> optax.GradientTransformation:
    """Scales the gradient of each parameter by itself down to a norm."""

    def clip(gradient: jax.Array) -> jax.Array:
        return gradient * jnp.minimum(1.0, max_norm / (jnp.linalg.norm(gradient) + 1e-6))

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


OPTIMIZERS = {"lars": lars, "sgd": sgd, "adamw": adamw}


def with_rates(build: Build, schedule: RunSchedule, rates: Rates) -> optax.GradientTransformation:
    """Multiplies the learning rate of groups of parameters, or keeps it; a factor of 0 freezes.

    A frozen parameter has no optimizer state, does not decay, and keeps its value bit for bit.

    Args:
      build: makes the optimizer from a schedule.
      schedule: the learning rate by optimizer step.
      rates: pairs (regular expression, factor >= 0), such as ("encoder/stage1/.*", 0.1), or
        (regular expression, "constant"), for the rate without its fall after warm-up.

    Raises:
      ValueError: if a pair is malformed; at `init`, if a pattern matches no parameter that the
        patterns before it leave over.
    """
    if not rates:
        return build(schedule)
    compiled = [_compiled(pair) for pair in rates]

    def labels(params: Any) -> Any:
        _require_matches(params, [pattern for pattern, _ in compiled])

        def label(path: Any, _: Any) -> str:
            name = path_name(path)
            return str(next((f for pattern, f in compiled if pattern.fullmatch(name)), 1.0))

        return jax.tree_util.tree_map_with_path(label, params)

    def group(factor: float | str) -> optax.GradientTransformation:
        if isinstance(factor, str):
            return build(dataclasses.replace(schedule, rate=schedule.held))
        return optax.chain(build(schedule), optax.scale(factor)) if factor else optax.set_to_zero()

    factors = {1.0, *(factor for _, factor in compiled)}
    return optax.partition({str(factor): group(factor) for factor in factors}, labels)


def _require_matches(params: Any, patterns: Sequence[re.Pattern[str]]) -> None:
    """Makes sure that each pattern is the first to match some parameter.

    Parameters that another optimizer has, as those that a method freezes at first, count, too: an
    optimizer sees a placeholder for each of them.
    """
    held_elsewhere = lambda x: isinstance(x, optax.MaskedNode)
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=held_elsewhere)
    names = [path_name(path) for path, _ in leaves]
    used = {next((p for p in patterns if p.fullmatch(name)), None) for name in names}
    if unused := {pattern.pattern for pattern in patterns if pattern not in used}:
        raise ValueError(
            f"rates: {min(unused)!r} matches no parameter that is left over. A pattern must match "
            f"a whole path, such as {names[0]!r}."
        )


def with_frozen(
    build: Build,
    schedule: RunSchedule,
    frozen: Sequence[tuple[str, int | None]],
) -> optax.GradientTransformation:
    """Returns an optimizer that leaves some parameters alone, for the whole run or at first.

    A parameter that is frozen until a step then starts as a fresh one would, without momentum, at
    the rate that the schedule has by then.

    Args:
      build: makes the optimizer from a schedule.
      schedule: the learning rate by optimizer step.
      frozen: pairs (regular expression for whole paths, first step that updates; None for never).

    Raises:
      ValueError: at `init`, if a pattern matches no parameter.
    """
    never = [pattern for pattern, until in frozen if until is None]
    tx = with_rates(build, schedule, [(pattern, 0.0) for pattern in never])
    for pattern, until in frozen:
        if until is not None:
            late = build(schedule.after(until))
            held = optax.conditionally_mask(late, lambda step, until=until, **_: step >= until)
            tx = _split(tx, held, re.compile(pattern), but=re.compile("|".join(never) or NOTHING))
    return tx


def _split(
    tx: optax.GradientTransformation,
    held: optax.GradientTransformation,
    pattern: re.Pattern[str],
    but: re.Pattern[str],
) -> optax.GradientTransformation:
    """Returns an optimizer that uses `held` for what `pattern` matches and `but` does not."""

    def labels(params: Any) -> Any:
        names = jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), params)
        held_back = lambda name: bool(pattern.fullmatch(name) and not but.fullmatch(name))
        matches = jax.tree.map(held_back, names)
        if not any(jax.tree.leaves(matches)):
            raise ValueError(f"no parameter matches {pattern.pattern!r}, which is to be frozen.")
        return matches

    return optax.partition({False: tx, True: held}, labels)


def _compiled(pair: Sequence[str | float | int]) -> tuple[re.Pattern[str], float | str]:
    try:
        pattern, factor = pair
        compiled = re.compile(str(pattern))
        factor = CONSTANT if factor == CONSTANT else float(factor)
    except (re.error, ValueError) as error:
        raise ValueError(
            f"rates: {pair!r} must be (pattern, factor) or (pattern, {CONSTANT!r}): {error}."
        ) from None
    if not isinstance(factor, str) and not factor >= 0:
        raise ValueError(f"rates: the factor of {pattern!r} is {factor}; it must be at least 0.")
    return compiled, factor
