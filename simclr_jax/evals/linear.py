"""Linear probe: L2-regularised multinomial logistic regression, solved on the device.

The objective, on features centred and divided by one scale s (see `linear_probe`), is

  mean cross entropy + l2 / 2 * |weights|^2,    the bias left free,

so `l2` is scikit-learn's 1 / (C n). `logistic.minimise` finds its minimum for any strength. All
sizes go through one compiled function for each shape of the training set, and strengths are
tried from the strongest on, each from the solution of the one before.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from simclr_jax.evals import logistic
from simclr_jax.evals.features import check_labels
from simclr_jax.evals.logistic import Examples, Solution

# From too strong to too weak for any number of labels up to 100,000, half a decade apart.
STRENGTHS = tuple(10.0 ** (1 - i / 2) for i in range(15))
# Where no label can be held out: between the choices for 4 and for 40 labels of each digit.
_DEFAULT_L2 = 0.01
_MAX_PARTS = 5
# Enough held-out rows for a stable choice of strength; parts are added until there are as many.
_HELD_OUT_ROWS = 500
_MEAN_SQUARED_NORM = 100.0
# How far a step may still lower the objective, relatively, if it is to be the last: while a
# strength is chosen half a decade from the next, and in the end. After that step about a fifth of
# it may be left; scikit-learn's own tolerance left 2e-3 of 50,000 rows of 512 features.
_CHOOSING, _FINAL = 1e-3, 1e-6


class LinearProbe(NamedTuple):
    """A linear classifier of raw features: logits = features @ weights + bias.

    Attributes:
      weights: acts on features as they are; centring and scale are folded in.
      bias: one for each class.
      l2: the strength it was trained with.
    """

    weights: Float[Array, "d k"]
    bias: Float[Array, " k"]
    l2: float


def linear_probe(
    features: Float[Array | np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> LinearProbe:
    """Fits a probe whose strength is chosen on held-out parts of the training labels.

    Each class is dealt evenly into five parts (fewer if no class has five labels), and one
    part at a time is held out until 500 rows have been, so few labels get cross-validation
    and many a single held-out fifth. The strength with the lowest held-out cross entropy
    wins (accuracy is too coarse for 40 labels), and the probe is fitted again on all labels.
    With one label for each class nothing can be held out, and l2 is 0.01.

    Features are centred and divided by one scale, so that rows have a mean squared norm of
    100: then one grid of strengths suits every width. Dividing each feature by its own deviation
    instead lets features that are nearly constant among few labelled rows explode on the
    others: it costs raw pixels 0.06 at 40 labelled digits.

    Args:
      features: training rows; standardised inside.
      labels: labels of the rows, in [0, num_classes).
      num_classes: number of classes.
      strengths: candidates for l2, tried from the strongest on; the search ends when two in
        a row were worse than the best. With only one there is nothing to choose.
      seed: deals rows into parts; the same on every machine.

    Returns:
      The minimum of the objective at the head of this module, on all rows. What is left is the
      rounding of float32 features and weights: down to l2 = 1e-6 the objective is within 1e-6 of
      that of scikit-learn in float64 and predictions are the same, at 1e-8 within 1e-5.

    Raises:
      ValueError: if a label or a strength is out of range.

    Source: the protocol of Kornblith et al. 2019, https://arxiv.org/abs/1805.08974, which
      SimCLR follows for transfer (Appendix B.8.1): strength from a logarithmic grid by
      validation. Theirs uses the data set's own validation split, 45 strengths and L-BFGS.
    """
    if not min(strengths) > 0:
        raise ValueError(f"strengths={(*strengths,)} must be above 0, such as {_DEFAULT_L2}.")
    problem = _problem(features, check_labels(labels, num_classes))
    start = Solution(jnp.zeros((num_classes, len(problem.examples.x))), jnp.zeros(num_classes))
    if len(strengths) == 1:
        return _fit(problem, strengths[0], start)
    part = _deal(labels, seed)
    num_parts = part.max() + 1
    if num_parts == 1:
        return _fit(problem, _DEFAULT_L2, start)
    num_held_out = min(num_parts, math.ceil(_HELD_OUT_ROWS * num_parts / len(labels)))
    held_out = [jnp.asarray(part == i) for i in range(num_held_out)]
    return _fit(problem, *_choose(problem, held_out, strengths, start))


@jax.jit
def predict(probe: LinearProbe, features: Float[Array | np.ndarray, "m d"]) -> Int[Array, " m"]:
    """Returns the most probable class of each row."""
    # A TPU would round the factors to bfloat16 otherwise.
    logits = jnp.matmul(features, probe.weights, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmax(logits + probe.bias[None], axis=-1)


class _Problem(NamedTuple):
    """Labelled rows as `logistic` takes them, and the way back.

    Attributes:
      examples: centred and scaled columns, in `basis`.
      mean: mean of the rows.
      scale: what centred rows were divided by.
      basis: orthonormal, of the features; where they outnumber the rows it is one of the span
        of the rows, which holds every gradient and so the minimum. None is the features' own.
    """

    examples: Examples
    mean: Float[Array, " d"]
    scale: Float[Array, ""]
    basis: Float[Array, "d r"] | None


def _problem(features: Float[Array | np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> _Problem:
    n, d = features.shape
    x, mean, scale = _standardise(features)
    x, basis = _span(x) if n < d else (x, None)
    return _Problem(logistic.prepare(x, jnp.asarray(labels)), mean, scale, basis)


@jax.jit
def _standardise(
    x: Float[Array, "n d"],
) -> tuple[Float[Array, "d n"], Float[Array, " d"], Float[Array, ""]]:
    """Returns the rows as centred columns of a mean squared norm of 100, their mean and scale."""
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=0)
    centred = x.T - mean[:, None]
    scale = jnp.sqrt(jnp.sum(centred**2) / len(x) / _MEAN_SQUARED_NORM)
    scale = jnp.where(scale > 0, scale, 1.0)  # all rows alike
    return centred / scale, mean, scale


@jax.jit
def _span(x: Float[Array, "d n"]) -> tuple[Float[Array, "n n"], Float[Array, "d n"]]:
    """Returns the columns in a basis of their span, and the basis."""
    basis, x = jnp.linalg.qr(x)
    return x, basis


def _deal(labels: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """Deals each class over the parts in random order; sizes differ by one row at most."""
    num_parts = min(_MAX_PARTS, np.bincount(labels).max())
    # Raw words of a counter-based generator, the same in every version of NumPy.
    shuffled = np.lexsort((np.random.Philox(key=seed).random_raw(len(labels)), labels))
    part = np.empty(len(labels), np.int64)
    part[shuffled] = np.arange(len(labels)) % num_parts
    return part


def _choose(
    problem: _Problem,
    held_out: Sequence[Bool[Array, " n"]],
    strengths: Sequence[float],
    start: Solution,
) -> tuple[float, Solution]:
    """Returns the strength that fits the held-out rows best, and a solution at that strength."""
    solutions = [start] * len(held_out)
    best, best_loss, num_worse = _DEFAULT_L2, math.inf, 0
    for l2 in sorted(strengths, reverse=True):  # each solution is the start of the next
        solutions = [
            logistic.minimise(problem.examples, ~rows, l2, near, _CHOOSING)
            for rows, near in zip(held_out, solutions, strict=True)
        ]
        losses = [
            logistic.cross_entropy(solution, problem.examples, rows)
            for rows, solution in zip(held_out, solutions, strict=True)
        ]
        loss = float(sum(losses)) / len(held_out)
        if loss < best_loss:
            best, best_loss, num_worse, start = l2, loss, 0, solutions[0]
        else:
            num_worse += 1
        if num_worse == 2:
            break
    return best, start


def _fit(problem: _Problem, l2: float, start: Solution) -> LinearProbe:
    every = jnp.ones(problem.examples.labels.shape, bool)
    solution = logistic.minimise(problem.examples, every, l2, start, _FINAL)
    weights = solution.weights.T / problem.scale
    dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    weights = weights if problem.basis is None else dot(problem.basis, weights)
    return LinearProbe(weights, solution.bias - dot(problem.mean, weights), float(l2))
