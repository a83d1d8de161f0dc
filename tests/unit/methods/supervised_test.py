"""Training with labels: what is trained, what is frozen, which statistics move."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.tree import path_name
from simclr_jax.methods.supervised import FROZEN_BEFORE, supervised
from simclr_jax.models.heads import MLP, classifier
from simclr_jax.models.ssl import SSLModel
from simclr_jax.optim.build import sgd, with_frozen
from simclr_jax.optim.schedules import warmup_cosine
from simclr_jax.train.step import init_state, make_train_step
from tests.helpers import apply

ROOT = jax.random.key(0)
FACTS = RunFacts(num_steps=100, num_images=64, num_classes=3, batch_size=16)
ORDER = ("stem", "stage1", "stage2", "stage3", "stage4", "projector", "classifier")
BATCH = {
    "views": jnp.asarray(np.random.default_rng(0).uniform(size=(8, 1, 17, 17, 3)), jnp.float32),
    "label": jnp.asarray([0, 1, 2, 0, 1, 2, 0, -1], jnp.int32),
}


def given_views(key, batch):
    del key
    return batch["views"]


class Layer(nn.Module):
    """One dense layer with BatchNorm."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(6, use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x) + 1)


class Staged(nn.Module):
    """Named as a ResNet is, and compiles at once."""

    @nn.compact
    def __call__(self, images, *, train):
        x = images.mean(axis=(1, 2))
        for name in ("stem_block", "stage1", "stage2", "stage3", "stage4"):
            x = Layer(name=name)(x, train=train)
        return x


MODEL = SSLModel(
    encoder=Staged(),
    projector=MLP(num_layers=3, hidden_dim=8),
    classifier=classifier(num_classes=3, zero_init=False),
    select=1,
)


@functools.cache
def one_step(train_from):
    """Returns the state before and after one step with momentum and decay on everything."""
    method = supervised(MODEL, given_views, FACTS, train_from=train_from)
    build = functools.partial(sgd, weight_decay=0.1)
    schedule = warmup_cosine(peak=0.1, total_steps=100, warmup_steps=0)
    tx = with_frozen(build, schedule, method.frozen_params)
    before = jax.jit(functools.partial(init_state, method, tx, ROOT))(BATCH)
    after, metrics = jax.jit(make_train_step(method, tx, ROOT))(before, BATCH)
    return before, after, metrics


def part_of(path):
    module, layer, *_ = [*path.split("/"), ""]
    return layer.split("_")[0] if module == "encoder" else module


def changed(before, after):
    """Returns the parts with at least one array that changed, and those with one that did not."""
    pairs = jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda x, y: bool(np.any(x != y)), before, after)
    )
    sides = {True: set(), False: set()}
    for path, differs in pairs:
        sides[differs].add(part_of(path_name(path)))
    return sides[True], sides[False]


@pytest.mark.parametrize("train_from", FROZEN_BEFORE)
def test_trains_from_the_named_part_on_and_nothing_before_it(train_from):
    before, after, _ = one_step(train_from)
    moved, kept = changed(before.params, after.params)
    first = ORDER.index(train_from)
    assert moved == set(ORDER[first:])
    assert kept >= set(ORDER[:first])
    assert not moved & set(ORDER[:first])


@pytest.mark.parametrize("train_from", FROZEN_BEFORE)
def test_statistics_rest_in_linear_evaluation_and_move_in_fine_tuning(train_from):
    before, after, _ = one_step(train_from)
    moved, kept = changed(before.batch_stats, after.batch_stats)
    everything = set(ORDER) - {"classifier"}
    assert (moved, kept) == (
        (set(), everything) if train_from == "classifier" else (everything, set())
    )


def test_linear_evaluation_sees_the_features_of_inference():
    state, _, metrics = one_step("classifier")
    method = supervised(MODEL, given_views, FACTS, train_from="classifier")
    loss, _ = jax.jit(method.loss)(state.params, state, BATCH["views"], BATCH, ROOT)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = apply(MODEL, variables, BATCH["views"][:, 0], method="classify")
    rows = optax.softmax_cross_entropy_with_integer_labels(logits[:7], BATCH["label"][:7])
    np.testing.assert_allclose(loss, rows.mean(), rtol=1e-5)
    assert 0 <= float(metrics["top1"]) <= 1


def test_only_the_projector_layers_below_the_classifier_exist():
    state, _, _ = one_step("stem")
    assert state.params["projector"].keys() == {"dense1", "norm1"}
    assert state.batch_stats["projector"].keys() == {"norm1"}


def test_an_unknown_part_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"train_from='head' must be one of \['stem', 'stage1'"):
        supervised(MODEL, given_views, FACTS, train_from="head")


def test_a_network_without_a_classifier_is_refused():
    with pytest.raises(ValueError, match=r"needs config\.heads.classifier"):
        supervised(SSLModel(Staged()), given_views, FACTS)
