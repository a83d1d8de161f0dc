"""The contract between a method and the train step: four functions, no base class.

A builder in `methods.METHODS` is called with the model, the augmentation and the facts of the run,
and returns a `Method`. Its keyword-only parameters are the section `method` of a config; one that
is annotated `FrozenNetwork` is a network that is trained already, such as a teacher.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.errors import UserError
from simclr_jax.core.placement import replicate
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import (
    Batch,
    Collection,
    Metrics,
    Params,
    PRNGKey,
    Projections,
    Scalar,
    Texts,
    ViewArray,
    Views,
)
from simclr_jax.models.heads import Prototypes
from simclr_jax.models.ssl import SSLModel
from simclr_jax.parallel.sharding import Rule

# `apply_model` with its network and settings given: (params, batch_stats, views, key=) is left.
ApplyModel: TypeAlias = Callable[..., tuple[Any, Collection]]


class Variables(NamedTuple):
    """What `Method.init` creates; it must run under `jax.eval_shape`."""

    params: Params
    batch_stats: Collection
    method_state: Any = ()


class StepOutput(NamedTuple):
    """What a loss hands back beside its value."""

    batch_stats: Collection
    metrics: Metrics
    carry: Any = ()  # for `after_update`, such as the keys that MoCo enqueues


class FrozenNetwork(NamedTuple):
    """A network that is trained already, whose variables a method keeps in its state.

    A parameter `x` of a method with this type is given in a config as the workdir that the network
    comes from. Its variables belong at `method_state["x"]`: `init` makes zeros of `shapes`, which
    the run replaces with those of the checkpoint.

    Attributes:
      model: the network.
      shapes: shapes of its variables, {"params": ..., "batch_stats": ...}.
    """

    model: SSLModel
    shapes: Any


class Frozen(NamedTuple):
    """Parameters that are not updated: no step, no decay and no momentum.

    Attributes:
      pattern: regular expression for whole paths below params, such as "encoder/.*".
      until_step: the first optimizer step that updates them; None for never.
    """

    pattern: str
    until_step: int | None = None


def keep_method_state(state: TrainState, carry: Any) -> Any:
    """Default `after_update`: returns the method's state unchanged."""
    del carry
    return state.method_state


def unconstrained(params: Params) -> Params:
    """Default `constrain`: returns the parameters unchanged."""
    return params


@dataclasses.dataclass(frozen=True)
class Method:
    """A training recipe as the train step sees it.

    Attributes:
      init: (key, views) -> Variables; only the shapes of `views` matter.
      augment: (key, batch) -> views, or texts, run on the device inside the train step.
      loss: (params, state, views, batch, key) -> (value to differentiate, StepOutput). Only
        `params` is differentiated; `state.params` is the same tree without a gradient.
        `metrics["loss"]` is the loss as it is reported.
      after_update: (state, carry) -> method_state, called with the *new* params,
        such as to move an EMA target or rotate a queue.
      constrain: params -> params, called on the new params of each step and on the first ones,
        such as to keep prototypes at unit length.
      frozen_params: what is not updated, and until when.
      state_rules: how arrays of the method's state are split over the devices; patterns are of
        paths below method_state. What no rule matches follows the preset of the run.
      negatives: rows that each row is contrasted with; None if the method contrasts nothing, or
        not all of them with the same weight.
      needs_labels: whether there is nothing to learn from images without a label.
      evaluated: path in the state of the copy of params and batch_stats that evaluations and
        exports use, such as "method_state/target"; "" for those that are trained.
      grad_cache_chunks: parts of the batch that go through the network one after the other.
      train_batch_norm: whether BatchNorm normalises with the batch and moves its statistics.
    """

    init: Callable[[PRNGKey, Any], Variables]
    augment: Callable[[PRNGKey, Batch], Views]
    loss: Callable[[Params, TrainState, Any, Batch, PRNGKey], tuple[Scalar, StepOutput]]
    after_update: Callable[[TrainState, Any], Any] = keep_method_state
    constrain: Callable[[Params], Params] = unconstrained
    frozen_params: tuple[Frozen, ...] = ()
    state_rules: tuple[Rule, ...] = ()
    negatives: int | None = None
    needs_labels: bool = False
    evaluated: str = ""
    grad_cache_chunks: int = 1
    train_batch_norm: bool = True


def apply_model(
    model: nn.Module,
    params: Params,
    batch_stats: Collection,
    views: Views | Texts,
    *,
    key: PRNGKey | None,
    train: bool = True,
    views_apart: bool = False,
    output: str = "__call__",
    grad_cache_chunks: int = 1,
) -> tuple[Any, Collection]:
    """Applies a network to all views, in parts of the batch if all at once would not fit.

    With several parts, nothing of a part is kept but what it puts out: the backward pass computes
    each part once more and adds up the gradients. The loss still sees every row, so that, other
    than with gradient accumulation, a contrastive loss is that of the whole batch. This is the
    gradient cache of Gao et al. 2021, https://arxiv.org/abs/2101.06983. It is exact for a network
    without batch statistics. BatchNorm normalises each part with its own statistics, and the
    running ones move towards the mean over the parts.

    Args:
      model: takes (images [n, h, w, c], train); views of several sizes need an `SSLModel`.
      params: parameters; they may be split over the devices, and are gathered here.
      batch_stats: running statistics.
      views: augmented images, one array or a tuple of one for each size; or captions.
      key: random key for what the network draws, such as which paths it drops; None if it draws
        nothing.
      train: normalise with the statistics of the images and move the running ones.
      views_apart: whether views go through the network one after the other, so that BatchNorm
        normalises each with its own statistics; all at once otherwise, as in SimCLR. Views of
        several sizes go through the encoder by size and through the heads at once.
      output: name of the function of the network that is applied to all views of one size at
        once, such as "maps", or "embed_text" for captions.
      grad_cache_chunks: parts of the batch, a divisor of b; with c of them, part i has the images
        i, i + c, and so on, of which every device has equally many.

    Returns:
      What the network puts out, with rows [b * v, ...] ordered by image and then by view, the
      views of a tuple in its order; and the new running statistics.
    """
    params, batch_stats = jax.tree.map(replicate, (params, batch_stats))

    def apply(views: Views | Texts, key: PRNGKey | None) -> tuple[Any, Collection]:
        variables = {"params": params, "batch_stats": batch_stats}
        forward = nn.apply(_forward, model, mutable=["batch_stats"])
        rngs = {} if key is None else {"dropout": key}
        settings = {"train": train, "apart": views_apart, "output": output}
        out, updated = forward(variables, views, **settings, rngs=rngs)
        return out, {"batch_stats": {}, **updated}["batch_stats"]

    if grad_cache_chunks == 1:
        return apply(views, key)
    b = jax.tree.leaves(views)[0].shape[0]
    num_rows = b // grad_cache_chunks

    def split(x: jax.Array) -> jax.Array:  # [b, ...] -> [parts, b / parts, ...]
        return x.reshape(num_rows, grad_cache_chunks, *x.shape[1:]).swapaxes(0, 1)

    parts = jax.tree.map(split, views)
    keys = None if key is None else jax.random.split(key, grad_cache_chunks)
    recomputed = jax.checkpoint(apply, prevent_cse=False)
    out, stats = jax.lax.map(lambda part: recomputed(*part), (parts, keys))

    def merge(x: jax.Array) -> jax.Array:  # [parts, b / parts * v, ...] -> [b * v, ...]
        v = x.shape[1] // num_rows
        x = x.reshape(grad_cache_chunks, num_rows, v, *x.shape[2:]).swapaxes(0, 1)
        return x.reshape(b * v, *x.shape[3:])

    out = jax.tree.map(merge, out)
    if not train:  # a mean of equals would round
        return out, batch_stats
    return out, jax.tree.map(lambda x: x.mean(axis=0), stats)


def _forward(model: Any, views: Any, *, train: bool, apart: bool, output: str) -> Any:
    """Applies the encoder to the views of each size, and the heads once to the rows of all."""
    if not isinstance(views, tuple):
        if not apart:
            return getattr(model, output)(jax.tree.map(_rows, views), train=train)
        by_view = [model(views[:, i], train=train) for i in range(views.shape[1])]
        join = lambda *rows: jnp.stack(rows, axis=1).reshape(-1, *rows[0].shape[1:])
        return jax.tree.map(join, *by_view)
    b = views[0].shape[0]
    by_size = [model.encoder(_rows(x), train=train) for x in views]
    by_image = [x.reshape(b, -1, x.shape[-1]) for x in by_size]
    joined = jnp.concatenate(by_image, axis=1)  # [b, v, d]: no row leaves its device
    return model.apply_heads(joined.reshape(-1, joined.shape[-1]), train=train)


def _rows(views: Array) -> Array:
    return views.reshape(-1, *views.shape[2:])  # batch-major: no communication


def check_grad_cache_chunks(grad_cache_chunks: int) -> None:
    """Checks a number of parts for `apply_model`.

    Raises:
      ValueError: if it is not positive.
    """
    if grad_cache_chunks < 1:
        raise ValueError(
            f"grad_cache_chunks={grad_cache_chunks}; it must be at least 1, which is all at once."
        )


# A key of each head that switches it on when it is set, for messages.
_KEYS = {
    "projector": "num_layers=2",
    "predictor": "num_layers=2",
    "prototypes": "num_prototypes=512",
    "classifier": "num_classes=N",
}


def check_heads(model: SSLModel, name: str, *wanted: str) -> None:
    """Checks that a model has the heads that a method trains, and no others.

    Args:
      model: encoder and heads.
      name: name of the method.
      *wanted: the heads, such as "projector"; none if the method brings its own.

    Raises:
      ValueError: if others are there, one is missing, or a predictor has not the width of the
        projector, whose projections it predicts.
    """
    known = ("projector", "predictor", "prototypes", "classifier", "text", "text_projector")
    given = [head for head in known if getattr(model, head) is not None]
    if sorted(given) != sorted(wanted):
        needed = f"heads with a {' and a '.join(wanted)}, and no others" if wanted else "no heads"
        off = [f"--config.heads.{head}=None" for head in given if head not in wanted]
        lacking = [head for head in wanted if head not in given]
        on = [f"--config.heads.{head}.{_KEYS[head]}" for head in lacking if head in _KEYS]
        raise ValueError(
            f"method {name} needs {needed}; config.heads has {', '.join(given) or 'none'}."
            + (f" Set {' '.join(off + on)}." if off + on else "")
        )
    projector, predictor = model.projector, model.predictor
    if projector and predictor and projector.output_dim != predictor.output_dim:
        raise ValueError(
            f"config.heads.predictor.output_dim={predictor.output_dim} must be that of the "
            f"projector, whose projections it predicts: {projector.output_dim}."
        )


def projection_width(model: SSLModel) -> int:
    """Returns d of the projections of a model that has a projector."""
    assert model.projector is not None  # see `check_heads`
    return model.projector.output_dim


def prototypes_of(model: SSLModel) -> Prototypes:
    """Returns the prototypes of a model that has them."""
    assert model.prototypes is not None  # see `check_heads`
    return model.prototypes


def frozen_prototypes(facts: RunFacts, epochs: float) -> tuple[Frozen, ...]:
    """Returns what `Method.frozen_params` needs for prototypes that stay as they are at first.

    Args:
      facts: facts of the run.
      epochs: how long they stay, the method's `freeze_epochs`; 0 for not at all.

    Raises:
      ValueError: if that is more steps than can be counted.
    """
    until = facts.steps_in("freeze_epochs", epochs)
    return (Frozen("prototypes/.*", until),) if until else ()


def check_global_views(views: Views, name: str) -> None:
    """Checks that the views of the first size, or all, are the two that give the targets.

    Raises:
      ValueError: if their number is another.
    """
    num_views = jax.tree.leaves(views)[0].shape[1]
    if num_views != 2:
        raise ValueError(
            f"method {name} needs two views of the largest size, and any number of smaller ones, "
            f"such as config.augment.name='multi_crop' gives; there are {num_views}."
        )


def check_other_images(facts: RunFacts, name: str) -> None:
    """Checks that there are negatives in a batch.

    Raises:
      UserError: if there is one image only.
    """
    if facts.batch_size < 2:
        raise UserError(
            f"config.data.batch_size={facts.batch_size}: method {name} compares each example "
            "with the others of its batch; use 2 or more."
        )


def init_model(
    model: nn.Module,
    key: PRNGKey,
    views: Views,
    *,
    several_sizes: bool = False,
    two_views: bool = False,
) -> Variables:
    """Returns the variables of `model`, whose shapes depend on one image as on many.

    Args:
      model: encoder and heads.
      key: random key for the parameters.
      views: views of some images; only their shapes matter.
      several_sizes: whether the method takes views of several sizes.
      two_views: whether it compares views of an image.

    Raises:
      ValueError: if it does not and there are some, or it does and there is one view.
    """
    if isinstance(views, tuple) and not several_sizes:
        raise ValueError(
            f"this method takes views of one size, and config.augment gives {len(views)}; use "
            "another config.augment.name, such as 'simclr' or 'byol'."
        )
    if two_views and jax.tree.leaves(views)[0].shape[1] < 2:
        raise ValueError(
            "this method compares two views of each image, and config.augment gives one; use "
            "another config.augment.name, such as 'simclr' or 'byol'."
        )
    image = jax.tree.leaves(views)[0][:1, 0]  # of the first size
    variables = {"batch_stats": {}, **model.init(key, image, train=False)}
    return Variables(variables["params"], variables["batch_stats"])


def by_image(rows: Float[Array, "n d"], views: Views) -> Projections:
    """Returns rows that `apply_model` put out for `views` as [b, v, d]."""
    b = jax.tree.leaves(views)[0].shape[0]
    return rows.reshape(b, -1, rows.shape[-1])


def one_view(views: Views, index: int) -> ViewArray:
    """Returns only one view of each image, [b, 1, h, w, c].

    Args:
      views: all views of one size.
      index: number of the view, from 0.

    Raises:
      ValueError: if the views have several sizes.
    """
    if isinstance(views, tuple):
        raise ValueError(f"this method takes views of one size, not of {len(views)}.")
    return views[:, index : index + 1]


def zero_variables(network: FrozenNetwork) -> Any:
    """Returns zeros in the shapes of a network's variables, for a run to replace."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), network.shapes)
