"""The one train step: augment, loss, gradient, update. Every method runs through it."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from simclr_jax.core import rng
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Metrics, Params, PRNGKey, Scalar
from simclr_jax.methods.base import Method, StepOutput
from simclr_jax.train.norms import norms

TrainStep: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def init_state(
    method: Method, tx: optax.GradientTransformation, root: PRNGKey, batch: Batch
) -> TrainState:
    """Builds step 0. Pure, so callers run it under `jit` or `eval_shape`."""
    key = rng.stream(root, "init", 0)
    variables = method.init(key, method.augment(key, batch))
    params = method.constrain(variables.params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.batch_stats,
        opt_state=tx.init(params),
        method_state=variables.method_state,
    )


def _applied(params: Params, updates: Any) -> Any:  # optax has another type for params
    return optax.apply_updates(params, updates)


def make_train_step(method: Method, tx: optax.GradientTransformation, root: PRNGKey) -> TrainStep:
    """Returns the unjitted step (state, batch) -> (state, metrics).

    If the loss or a gradient is not finite, nothing of the state changes but its step, and
    "health/finite" is False: the caller decides what to do, and nothing is lost. "norm/grads" is
    the norm of the gradient that the optimizer gets, and is there for each part of the parameters,
    too, such as "norm/grads/encoder".
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        views = method.augment(rng.stream(root, "augment", state.step), batch)
        key = rng.stream(root, "method", state.step)

        def loss_fn(params: Params) -> tuple[Scalar, StepOutput]:
            return method.loss(params, state, views, batch, key)

        (loss, out), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        with jax.named_scope("update"):  # a part in the words of `plan`
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            updated = state.replace(
                step=state.step + 1,
                params=method.constrain(_applied(state.params, updates)),
                batch_stats=out.batch_stats,
                opt_state=opt_state,
            )
            updated = updated.replace(method_state=method.after_update(updated, out.carry))

            of_grads = norms("grads", grads)
            finite = jnp.isfinite(loss) & jnp.isfinite(of_grads["norm/grads"])
            # The selection fuses into the update: it reads no more than the update itself.
            state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
            state = state.replace(step=updated.step)  # the place in the stream of images
        return state, {**out.metrics, "health/finite": finite, **of_grads}

    return train_step
