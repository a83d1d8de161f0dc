"""Linear probe: L2-regularised multinomial logistic regression, solved on the device.

The objective, on features centred and divided by one scale s (see `fit_logistic`), is

  mean cross entropy + l2 / 2 * |weights|^2,    the bias left free,

so `l2` is scikit-learn's 1 / (C n). It is convex; full-batch L-BFGS in float32 finds its
minimum. All sizes go through one compiled function for each shape of the training set.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from simclr_jax.core.types import Scalar
from simclr_jax.evals.features import check_labels

# From too strong to too weak for any number of labels up to 100,000, half a decade apart.
STRENGTHS = tuple(10.0 ** (1 - i / 2) for i in range(15))
# Where no label can be held out: between the choices for 4 and for 40 labels of each digit.
_DEFAULT_L2 = 0.01
_MAX_PARTS = 5
# Enough held-out rows for a stable choice of strength; parts are added until there are as many.
_HELD_OUT_ROWS = 500
_MEAN_SQUARED_NORM = 100.0
_MAX_ITERATIONS = 500
_GRADIENT_TOLERANCE = 1e-5


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

    Args:
      features: training rows; standardised inside.
      labels: in [0, num_classes).
      num_classes: number of classes.
      strengths: candidates for l2, tried from the strongest on; the search ends when two in
        a row were worse than the best.
      seed: deals rows into parts; the same on every machine.

    Returns:
      The probe, fitted to all rows.

    Raises:
      ValueError: if a label is out of range.

    Source: the protocol of Kornblith et al. 2019, https://arxiv.org/abs/1805.08974, which
      SimCLR follows for transfer (Appendix B.8.1): L-BFGS, strength from a logarithmic grid
      by validation. Theirs uses the data set's own validation split and 45 strengths.
    """
    y = jnp.asarray(check_labels(labels, num_classes))
    standard = _standardise(jnp.asarray(features))
    start = _Solution(jnp.zeros((standard.rows.shape[1], num_classes)), jnp.zeros(num_classes))
    part = _deal(labels, seed)
    num_parts = part.max() + 1
    if num_parts == 1:
        return _fit(standard, y, _DEFAULT_L2, start)
    num_held_out = min(num_parts, math.ceil(_HELD_OUT_ROWS * num_parts / len(labels)))
    held_out = [jnp.asarray(part == i) for i in range(num_held_out)]
    return _fit(standard, y, *_choose(standard, y, held_out, strengths, start))


def fit_logistic(
    features: Float[Array | np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    num_classes: int,
    l2: float,
) -> LinearProbe:
    """Fits multinomial logistic regression of a given strength.

    Features are centred and divided by one scale, so that rows have a mean squared norm of
    100: then one grid of `l2` suits every width, and L-BFGS is well conditioned. Dividing each
    feature by its own deviation instead lets features that are nearly constant among few
    labelled rows explode on the others: it costs raw pixels 0.06 at 40 labelled digits.

    Args:
      features: training rows; standardised inside.
      labels: in [0, num_classes).
      num_classes: number of classes; one may have no row.
      l2: strength, > 0.

    Returns:
      The minimum of the objective at the head of this module.

    Raises:
      ValueError: if a label or l2 is out of range.
    """
    if not l2 > 0:
        raise ValueError(f"l2={l2} must be above 0, such as {_DEFAULT_L2}.")
    y = jnp.asarray(check_labels(labels, num_classes))
    standard = _standardise(jnp.asarray(features))
    start = _Solution(jnp.zeros((standard.rows.shape[1], num_classes)), jnp.zeros(num_classes))
    return _fit(standard, y, l2, start)


def predict(probe: LinearProbe, features: Float[Array | np.ndarray, "m d"]) -> Int[Array, " m"]:
    """Returns the most probable class of each row."""
    return jnp.argmax(_logits(_Solution(probe.weights, probe.bias), jnp.asarray(features)), -1)


class _Solution(NamedTuple):
    weights: Float[Array, "d k"]
    bias: Float[Array, " k"]


class _Standardised(NamedTuple):
    rows: Float[Array, "n d"]
    mean: Float[Array, " d"]
    scale: Scalar


@jax.jit
def _standardise(x: Float[Array, "n d"]) -> _Standardised:
    x = x.astype(jnp.float32)
    mean = x.mean(axis=0)
    centred = x - mean[None]
    mean_squared_norm = jnp.mean(jnp.sum(centred**2, axis=1))
    scale = jnp.sqrt(mean_squared_norm / _MEAN_SQUARED_NORM)
    scale = jnp.where(scale > 0, scale, 1.0)  # all rows alike
    return _Standardised(centred / scale, mean, scale)


def _deal(labels: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """Deals each class over the parts in random order; sizes differ by one row at most."""
    num_parts = min(_MAX_PARTS, np.bincount(labels).max())
    # Raw words of a counter-based generator, the same in every version of NumPy.
    shuffled = np.lexsort((np.random.Philox(key=seed).random_raw(len(labels)), labels))
    part = np.empty(len(labels), np.int64)
    part[shuffled] = np.arange(len(labels)) % num_parts
    return part


def _choose(
    standard: _Standardised,
    labels: Int[Array, " n"],
    held_out: Sequence[Bool[Array, " n"]],
    strengths: Sequence[float],
    start: _Solution,
) -> tuple[float, _Solution]:
    """Returns the strength that fits the held-out rows best, and a solution at that strength."""
    solutions = [start] * len(held_out)
    best, best_loss, num_worse = _DEFAULT_L2, math.inf, 0
    for l2 in sorted(strengths, reverse=True):  # each solution is the start of the next
        solutions = [
            _solve(standard.rows, labels, ~rows, jnp.float32(l2), near)
            for rows, near in zip(held_out, solutions, strict=True)
        ]
        losses = [
            _cross_entropy(solution, standard.rows, labels, rows)
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


def _fit(
    standard: _Standardised, labels: Int[Array, " n"], l2: float, start: _Solution
) -> LinearProbe:
    every_row = jnp.ones(len(labels), bool)
    weights, bias = _solve(standard.rows, labels, every_row, jnp.float32(l2), start)
    weights = weights / standard.scale
    bias = bias - jnp.matmul(standard.mean, weights, precision=jax.lax.Precision.HIGHEST)
    return LinearProbe(weights, bias, float(l2))


@jax.jit
def _logits(solution: _Solution, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
    # A TPU would round the factors to bfloat16 otherwise.
    product = jnp.matmul(x, solution.weights, precision=jax.lax.Precision.HIGHEST)
    return product + solution.bias[None]


@jax.jit
def _cross_entropy(
    solution: _Solution, x: Float[Array, "n d"], labels: Int[Array, " n"], use: Bool[Array, " n"]
) -> Scalar:
    """Mean over the rows in `use`, in nats."""
    each = optax.softmax_cross_entropy_with_integer_labels(_logits(solution, x), labels)
    return jnp.sum(each * use) / jnp.sum(use)


@jax.jit
def _solve(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    use: Bool[Array, " n"],
    l2: Scalar,
    start: _Solution,
) -> _Solution:
    """Minimises the objective over the rows in `use`."""

    def objective(solution: _Solution) -> Scalar:
        penalty = 0.5 * l2 * jnp.sum(solution.weights**2)
        return _cross_entropy(solution, x, labels, use) + penalty

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry: Any) -> Any:
        solution, state, _ = carry
        value, grad = value_and_grad(solution, state=state)
        updates, state = solver.update(
            grad, state, solution, value=value, grad=grad, value_fn=objective
        )
        return optax.apply_updates(solution, updates), state, value

    def unfinished(carry: Any) -> Bool[Array, ""]:
        _, state, previous = carry
        count, value, grad = (optax.tree.get(state, name) for name in ("count", "value", "grad"))
        # Near the minimum float32 no longer resolves the loss, and the line search only wanders.
        improving = (value < previous) & (optax.tree.norm(grad) > _GRADIENT_TOLERANCE)
        return (count == 0) | (improving & (count < _MAX_ITERATIONS))

    carry = (start, solver.init(start), jnp.float32(jnp.inf))
    return jax.lax.while_loop(unfinished, step, carry)[0]
