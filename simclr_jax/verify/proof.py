"""Proof on one config that the way it is spread over devices does not change what it learns.

The same steps are taken on one device and on many virtual ones: in every preset, with the loss in
tiles and all at once, with the batch in parts and whole. Each step of a variant starts from the
state in which its reference was, so that rounding does not grow from step to step.

All is in float64, where correct variants differ by 1e-13. In float32 they can differ by a tenth:
sums in another order round otherwise, some of the values before a relu change sign, and a gradient
that is a sum of few terms then lacks one of them. The augmentation alone is in float32, as it is in
training: it is compared by itself, and then all variants see the views of one device.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from simclr_jax.build.experiment import Experiment, build_experiment
from simclr_jax.core import rng
from simclr_jax.core.compile import jit_once
from simclr_jax.core.sections import settings_of
from simclr_jax.core.state import TrainState
from simclr_jax.core.tree import largest_difference
from simclr_jax.core.types import Batch
from simclr_jax.methods import METHODS
from simclr_jax.models.ssl import SSLModel
from simclr_jax.parallel.sharding import batch_sharding
from simclr_jax.train.step import make_train_step
from simclr_jax.verify.shrunk import Shrunk, perturb_constants
from simclr_jax.verify.variants import (
    QUANTITIES,
    Comparison,
    Variant,
    fsdp_size,
    num_chunks,
    variants,
)

log = logging.getLogger(__name__)

# A shift before BatchNorm, such as the bias of a ViT's last LayerNorm before a projector, has a
# gradient of zero, and all of the one that is computed is rounding. So gradients are compared
# relative to this part of the largest of them at the least.
LEAST_GRADIENT = 1e-4
# A step is run a few times only: it compiles in two thirds of the time and is as fast. At level
# 0, convolutions in the loop over parts take fifteen times as long.
_FAST_COMPILE: dict[str, Any] = {"xla_backend_optimization_level": 1}


@dataclasses.dataclass(frozen=True)
class _Steps:
    """What one variant did; each field but the last has one entry a step, of arrays on the host.

    `update` holds what the optimizer should have made of the step's gradients, and what it made.
    """

    before: list[TrainState]
    views: list[Any]
    loss: list[Any]
    gradients: list[Any]
    batch_stats: list[Any]
    method_state: list[Any]
    update: list[tuple[Any, Any]]
    negatives: float | None


def verify(shrunk: Shrunk, *, num_devices: int, num_steps: int) -> list[Comparison]:
    """Runs and compares all variants of a config.

    Args:
      shrunk: the config, its batch a multiple of `num_chunks` times `num_devices`, and images for
        `num_steps` batches.
      num_devices: devices to compare with one; even, and 4 or more, so that both axes of a mesh
        are used.
      num_steps: steps of each variant.

    Raises:
      UserError: if the config does not fit together.
    """
    with jax.enable_x64(True):
        return _comparisons(shrunk, num_devices, num_steps)


def _comparisons(shrunk: Shrunk, num_devices: int, num_steps: int) -> list[Comparison]:
    # What variants replace must be right, too: the preset, tiles and parts.
    build_experiment(shrunk.config, jax.devices()[:1], train_source=shrunk.source)
    tiles = "loss_tile" in _settings(shrunk.config)
    comparisons: list[Comparison] = []
    reference_experiment = _experiment(shrunk, Variant(1))
    start = perturb_constants(jax.device_get(jit_once(reference_experiment.init)()))
    optimize = jax.jit(functools.partial(_optimize, reference_experiment))
    num_images = num_steps * reference_experiment.dataset.batch_size
    images = reference_experiment.dataset.eval_batches(
        reference_experiment.source, reference_experiment.policy.cuts, indices=range(num_images)
    )
    like = reference_experiment.abstract_batch
    as_placed = lambda batch: {name: batch[name] for name in like}
    cast = lambda wanted, rows: rows.astype(wanted.dtype)
    batches = [jax.tree.map(cast, like, as_placed(batch)) for batch in images]
    views = _views(reference_experiment, batches)
    augmented = {reference_experiment.mesh: views}
    to_float64 = lambda views: jax.tree.map(lambda x: x.astype(_as_float64(x.dtype)), views)
    inputs = [{**b, "views": to_float64(v)} for b, v in zip(batches, views, strict=True)]
    for group in variants(num_devices, tiles=tiles):
        reference = None
        for variant in group:
            experiment = _experiment(shrunk, variant)
            if experiment.mesh not in augmented:
                augmented[experiment.mesh] = _views(experiment, batches)
            begin = time.monotonic()
            step = _compiled(experiment, frozen=variant.frozen)
            seconds = time.monotonic() - begin
            states = [start] if reference is None else reference.before
            steps = _run(experiment, step, states, inputs, augmented[experiment.mesh], optimize)
            reference = reference or steps
            if variant == Variant(1, cached=True):
                wanted = _statistics_of_parts(
                    reference_experiment, num_chunks(experiment.config), steps, inputs
                )
                reference = dataclasses.replace(steps, batch_stats=wanted)
            comparison = _compare(
                variant, group[0], steps, reference, seconds, experiment.method.negatives
            )
            comparisons.append(comparison)
            log.info("%s: compiled in %.0f s, ran.", variant, seconds)
    return comparisons


def _experiment(shrunk: Shrunk, variant: Variant) -> Experiment:
    config = dict(shrunk.config)
    settings = {
        "grad_cache_chunks": num_chunks(config) if variant.cached else 1,
        # Not a divisor of the rows, so that the last tile is a smaller one.
        "loss_tile": 3 * config["data"]["batch_size"] // 4 if variant.tiled else 0,
    }
    takes = _settings(config)
    config["method"] = config["method"] | {k: v for k, v in settings.items() if k in takes}
    config["parallel"] = {
        **config["parallel"],
        "preset": variant.preset,
        "fsdp": fsdp_size(variant.num_devices) if variant.num_devices > 1 else 1,
    }
    devices = jax.devices()[: variant.num_devices]
    experiment = build_experiment(config, devices, train_source=shrunk.source)
    return dataclasses.replace(
        experiment, abstract_state=jax.tree.map(_abstract_float64, experiment.abstract_state)
    )


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return settings_of(METHODS[config["method"]["name"]])


def _abstract_float64(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return x.update(dtype=_as_float64(x.dtype))


def _as_float64(dtype: Any) -> Any:
    """Returns the type that numbers are compared in; tokens stay whole."""
    return np.float64 if np.issubdtype(dtype, np.floating) else dtype


def _views(experiment: Experiment, batches: list[dict[str, np.ndarray]]) -> list[Any]:
    """Returns what each step sees, augmented on the devices as in training."""
    key = jax.random.key(experiment.run.seed)
    augment = jax.jit(
        lambda i, batch: experiment.method.augment(rng.stream(key, "augment", i), batch)
    )
    placed = [jax.device_put(batch, batch_sharding(experiment.mesh)) for batch in batches]
    with jax.enable_x64(False):
        return jax.device_get([augment(np.int32(i), batch) for i, batch in enumerate(placed)])


def _compiled(experiment: Experiment, *, frozen: bool) -> Callable[..., Any]:
    """Returns the train step, which hands out the gradients too that its optimizer gets.

    It finds the views in its batch.
    """
    seen = []

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        seen.append(updates)
        return experiment.tx.update(updates, state, params)

    tx = optax.GradientTransformation(experiment.tx.init, update)
    method = dataclasses.replace(experiment.method, augment=lambda key, batch: batch["views"])
    train_step = make_train_step(method, tx, jax.random.key(experiment.run.seed))

    def step(state: TrainState, batch: Batch) -> Any:
        state, metrics = train_step(state, batch)
        return state, metrics, seen.pop()

    shardings = jax.tree.map(lambda x: x.sharding, experiment.abstract_state)
    jitted = jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(experiment.mesh)),
        out_shardings=(shardings, None, None),
        donate_argnums=0,
    )
    rows = batch_sharding(experiment.mesh)
    views = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, _as_float64(x.dtype), sharding=rows),
        jax.eval_shape(experiment.method.augment, jax.random.key(0), experiment.abstract_batch),
    )
    with nn.intercept_methods(_in_inference_mode) if frozen else contextlib.nullcontext():
        lowered = jitted.lower(
            experiment.abstract_state, {**experiment.abstract_batch, "views": views}
        )
    return lowered.compile(_FAST_COMPILE)


def _in_inference_mode(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, SSLModel) and "train" in kwargs:
        kwargs = {**kwargs, "train": False}
    return call(*args, **kwargs)


def _run(
    experiment: Experiment,
    step: Callable[..., Any],
    states: list[TrainState],
    batches: list[dict[str, np.ndarray]],
    views: list[Any],
    optimize: Callable[..., Any],
) -> _Steps:
    """Takes a step for each batch: from its state, or from the last outcome if there is none."""
    shardings = jax.tree.map(lambda x: x.sharding, experiment.abstract_state)
    done = _Steps(
        [], views, [], [], [], [], [], _negatives(experiment, step, states[0], batches[0])
    )
    after = states[0]
    for i, batch in enumerate(batches):
        before = states[i] if i < len(states) else after
        placed = jax.device_put((before, batch), (shardings, batch_sharding(experiment.mesh)))
        after, metrics, gradients = jax.device_get(step(*placed))
        made = {"params": after.params, "opt_state": after.opt_state}
        wanted = jax.device_get(optimize(gradients, before.opt_state, before.params))
        done.before.append(before)
        done.loss.append(metrics["loss"])
        done.gradients.append(gradients)
        done.batch_stats.append(after.batch_stats)
        done.method_state.append(after.method_state)
        done.update.append((wanted, made))
    return done


def _statistics_of_parts(
    experiment: Experiment,
    grad_cache_chunks: int,
    steps: _Steps,
    batches: list[dict[str, np.ndarray]],
) -> list[Any]:
    """Returns what BatchNorm's statistics should be after each step: means over the parts.

    Each part goes through the network of one device by itself, as a batch of its own.
    """
    key = jax.random.key(0)  # no loss draws anything

    @jax.jit
    def of_part(state: TrainState, batch: Batch) -> Any:
        views = batch["views"]
        return experiment.method.loss(state.params, state, views, batch, key)[1].batch_stats

    wanted, split = [], [slice(i, None, grad_cache_chunks) for i in range(grad_cache_chunks)]
    for state, batch in zip(steps.before, batches, strict=True):
        stats = [of_part(state, jax.tree.map(lambda x, s=s: x[s], batch)) for s in split]
        wanted.append(jax.tree.map(lambda *x: np.mean(x, axis=0), *jax.device_get(stats)))
    return wanted


def _optimize(
    experiment: Experiment, gradients: Any, opt_state: Any, params: Any
) -> dict[str, Any]:
    updates, opt_state = experiment.tx.update(gradients, opt_state, params)
    updated: Any = optax.apply_updates(params, updates)
    return {"params": experiment.method.constrain(updated), "opt_state": opt_state}


def _negatives(
    experiment: Experiment,
    step: Callable[..., Any],
    state: TrainState,
    batch: dict[str, np.ndarray],
) -> float | None:
    """Returns how many negatives each row is compared with, measured by the compiled step.

    Parameters of zero make every projection zero and all similarities equal. NT-Xent is then the
    logarithm of the number of candidates, which are one positive and the negatives.
    """
    if experiment.method.negatives is None:
        return None
    state = state.replace(params=jax.tree.map(np.zeros_like, state.params))
    shardings = jax.tree.map(lambda x: x.sharding, experiment.abstract_state)
    placed = jax.device_put((state, batch), (shardings, batch_sharding(experiment.mesh)))
    _, metrics, _ = step(*placed)
    return math.exp(float(metrics["loss"])) - 1


def _compare(
    variant: Variant,
    other: Variant,
    steps: _Steps,
    reference: _Steps,
    seconds: float,
    expected: int | None,
) -> Comparison:
    found: dict[str, tuple[float, str]] = {}
    for name in QUANTITIES:
        if not jax.tree.leaves(getattr(steps, name)):
            continue  # a method that keeps nothing
        if name == "update":
            pairs = [
                largest_difference(wanted, made, {"params": b.params, "opt_state": b.opt_state})
                for (wanted, made), b in zip(steps.update, steps.before, strict=True)
            ]
        else:
            both = zip(getattr(reference, name), getattr(steps, name), strict=True)
            least = LEAST_GRADIENT if name == "gradients" else 0.0
            pairs = [largest_difference(want, got, least=least) for want, got in both]
        found[name] = max(pairs)
    return Comparison(
        variant=variant,
        reference=other,
        differences={name: value for name, (value, _) in found.items()},
        worst={name: path for name, (_, path) in found.items()},
        negatives=steps.negatives,
        expected_negatives=expected,
        compile_seconds=seconds,
    )
