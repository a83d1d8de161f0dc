"""Multinomial logistic regression, minimised by truncated Newton steps.

The objective, over examples of weight u_i that sum to one, is

  f(W, b) = sum_i u_i * (cross entropy of W x_i + b) + l2 / 2 * |W|^2,    b left free.

Each Newton step is solved by conjugate gradients until its relative error is a third, near the end
a tenth. Logits are kept, so an iteration costs two products with the examples, and a trial along
the step none. The preconditioner takes the curvature for that of the principal axes of the examples
times p (1 - p) of each class; the first axes are enough, and all others are taken to vary like the
least of them (as in Frangella et al. 2021, https://arxiv.org/abs/2110.02820).

Whatever could cancel is computed from differences of logits within an example: loss, residuals
and curvature of one that is classified well are relatively exact however small, so separable data
reach their minimum, too.

Examples are columns here, [d, n], and classes rows: no product has to transpose anything.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simclr_jax.core.types import Scalar

_MAX_STEPS = 100
_MAX_CG_STEPS = 200
_MAX_HALVINGS = 12
# How far conjugate gradients reduce the residual, in the norm of the preconditioner: while a step
# promises more than `_FAR` times the objective and the next will soon replace it, and then.
_FORCING_FAR, _FORCING, _FAR = 0.3, 0.1, 1e-2
# Axes that precondition, and rounds that find them. Pixels and random features of digits take the
# same number of iterations with 64 as with 128 or with all.
_MAX_AXES, _ROUNDS = 64, 2
# Examples that the axes are found from, for each feature: more of them cost time, and save none.
_SAMPLE = 8
# float32 sums of a loss differ by so much from one another, relatively.
_ROUNDING = 1e-6


class Examples(NamedTuple):
    """What is fitted, and its first principal axes.

    Attributes:
      x: one example a column; as they are, not rotated.
      labels: class of each.
      axes: orthonormal columns, the first principal axes of `x`, nearly.
      variances: mean square of the examples along each axis, never below rounding; the least of
        them comes first.
    """

    x: Float[Array, "d n"]
    labels: Int[Array, " n"]
    axes: Float[Array, "d r"]
    variances: Float[Array, " r"]


class Solution(NamedTuple):
    """A linear classifier of columns: logits = weights @ x + bias."""

    weights: Float[Array, "k d"]
    bias: Float[Array, " k"]


class _Loss(NamedTuple):
    """Loss of each example, relatively exact however small."""

    each: Float[Array, " n"]
    residuals: Float[Array, "k n"]  # probabilities minus one-hot labels
    spread: Float[Array, "k n"]  # p (1 - p)


_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)  # a TPU would round


def prepare(x: Float[Array, "d n"], labels: Int[Array, " n"]) -> Examples:
    """Finds the first principal axes of `x`, whose mean should be near zero."""
    return Examples(x, labels, *_principal_axes(x))


@jax.jit
def _principal_axes(x: Float[Array, "d n"]) -> tuple[Float[Array, "d r"], Float[Array, " r"]]:
    """Returns axes and variances of `Examples`, by power iteration from a few examples."""
    d, n = x.shape
    some = x[:, :: max(1, n // (_SAMPLE * d))]
    axes = some[:, :: max(1, some.shape[1] // _MAX_AXES)][:, : min(_MAX_AXES, d)]
    for _ in range(_ROUNDS):
        axes, _ = jnp.linalg.qr(_dot(some, _dot(some.T, axes)))
    along = _dot(axes.T, some)
    variances, turn = jnp.linalg.eigh(_dot(along, along.T) / some.shape[1])
    floor = d * jnp.finfo(jnp.float32).eps * variances[-1]
    return _dot(axes, turn), jnp.maximum(variances, floor)


@jax.jit
def cross_entropy(solution: Solution, examples: Examples, use: Bool[Array, " n"]) -> Scalar:
    """Returns the mean over the examples in `use`, in nats."""
    logits = _dot(solution.weights, examples.x) + solution.bias[:, None]
    return jnp.sum(_loss(logits, examples.labels).each * use) / jnp.sum(use)


@jax.jit
def minimise(
    examples: Examples,
    use: Bool[Array, " n"],
    l2: Scalar | float,
    start: Solution,
    tolerance: Scalar | float,
) -> Solution:
    """Minimises the objective over the examples in `use`, which weigh the same.

    The Newton step that promises less than `tolerance` times the objective is the last.
    """
    x, labels = examples.x, examples.labels
    weight = use / jnp.sum(use)  # [n]

    def value(solution: Solution, loss: _Loss) -> Scalar:
        penalty = 0.5 * l2 * jnp.sum(solution.weights**2)
        return jnp.sum(loss.each * weight) + penalty

    def step(carry):
        solution, logits, loss, last_promise, count = carry
        before = value(solution, loss)
        residuals = loss.residuals * weight[None]
        gradient = Solution(_dot(residuals, x.T) + l2 * solution.weights, residuals.sum(1))
        forcing = jnp.where(last_promise > _FAR * before, _FORCING_FAR, _FORCING)
        newton, newton_logits, promise = _newton_step(examples, loss, weight, l2, gradient, forcing)

        def at(t):
            moved = jax.tree.map(lambda s, d: s + t * d, solution, newton)
            return moved, _loss(logits + t * newton_logits, labels)

        def too_long(search):
            t, solution, loss = search
            enough = before - 1e-4 * t * promise + _ROUNDING * before
            return ~(value(solution, loss) <= enough) & (t > 0.5**_MAX_HALVINGS)

        def shorter(search):
            t = search[0] / 2
            return t, *at(t)

        t, solution, loss = jax.lax.while_loop(too_long, shorter, (jnp.float32(1), *at(1.0)))
        return solution, logits + t * newton_logits, loss, promise, count + 1

    def unfinished(carry):
        solution, _, loss, promise, count = carry
        return (promise > tolerance * value(solution, loss)) & (count < _MAX_STEPS)

    logits = _dot(start.weights, x) + start.bias[:, None]
    carry = (start, logits, _loss(logits, labels), jnp.float32(jnp.inf), jnp.int32(0))
    solution, *_ = jax.lax.while_loop(unfinished, step, carry)
    # A constant added to all biases changes nothing.
    return solution._replace(bias=solution.bias - solution.bias.mean())


def _loss(logits: Float[Array, "k n"], labels: Int[Array, " n"]) -> _Loss:
    own = labels[None] == jnp.arange(len(logits))[:, None]  # [k, n]
    # Logits relative to the own class's: what is left of it is log(1 + sum of exp of the others).
    logits = logits - jnp.sum(jnp.where(own, logits, 0), axis=0)[None]
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=0)  # [n]
    each = jax.nn.softplus(others)
    p = jnp.exp(logits - each[None])  # [k, n]
    wrong = jax.nn.sigmoid(others)[None]  # 1 - p of the own class
    return _Loss(each, jnp.where(own, -wrong, p), p * jnp.where(own, wrong, 1 - p))


def _newton_step(
    examples: Examples,
    loss: _Loss,
    weight: Float[Array, " n"],
    l2: Scalar | float,
    gradient: Solution,
    forcing: Scalar,
) -> tuple[Solution, Float[Array, "k n"], Scalar]:
    """Returns about -H^-1 g, its logits, and the decrease that the quadratic model promises."""
    x, own = examples.x, loss.residuals < 0
    p = jnp.where(own, 1 + loss.residuals, loss.residuals)
    curvature = jnp.sum(loss.spread * weight[None], axis=1)  # [k]
    tiny = jnp.finfo(jnp.float32).tiny

    def precondition(g: Solution) -> Solution:
        along = _dot(g.weights, examples.axes)
        curved = curvature[:, None] * examples.variances[None] + l2
        weights = _dot(along / curved, examples.axes.T)
        if len(x) > len(examples.variances):
            others = g.weights - _dot(along, examples.axes.T)
            weights += others / curved[:, :1]
        return Solution(weights, g.bias / (curvature + tiny))

    def hessian(d: Solution, logits: Float[Array, "k n"]) -> Solution:
        logits = logits - jnp.sum(jnp.where(own, logits, 0), axis=0)[None]
        moved = p * (logits - jnp.sum(p * logits, axis=0)[None]) * weight[None]  # [k, n]
        return Solution(_dot(moved, x.T) + l2 * d.weights, moved.sum(1))

    def inner(a: Solution, b: Solution) -> Scalar:
        return jnp.sum(a.weights * b.weights) + jnp.sum(a.bias * b.bias)

    def add(a: Solution, t: Scalar, b: Solution) -> Solution:
        return jax.tree.map(lambda a, b: a + t * b, a, b)

    def iterate(carry):
        step, step_logits, residual, direction, size, first, count = carry
        logits = _dot(direction.weights, x) + direction.bias[:, None]
        moved = hessian(direction, logits)
        # Rounding alone may leave a direction without curvature, such as one constant added to
        # all biases: there is nothing more to gain then.
        curved = inner(direction, moved)
        length = jnp.where(curved > 0, size / curved, 0)
        step, step_logits = add(step, length, direction), step_logits + length * logits
        residual = add(residual, -length, moved)
        towards = precondition(residual)
        new_size = jnp.where(curved > 0, inner(residual, towards), 0)
        direction = add(towards, new_size / size, direction)
        return step, step_logits, residual, direction, new_size, first, count + 1

    def unfinished(carry):
        *_, size, first, count = carry
        return (size > forcing**2 * first) & (count < _MAX_CG_STEPS)

    nothing = jax.tree.map(jnp.zeros_like, gradient)
    residual = jax.tree.map(jnp.negative, gradient)
    direction = precondition(residual)
    size = inner(residual, direction)
    carry = (nothing, jnp.zeros_like(p), residual, direction, size, size, 0)
    step, logits, *_ = jax.lax.while_loop(unfinished, iterate, carry)
    return step, logits, -inner(gradient, step)
