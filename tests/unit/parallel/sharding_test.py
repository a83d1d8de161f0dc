"""Which leaves of a train state are split over the devices."""

import jax
import jax.numpy as jnp
import pytest

from simclr_jax.core.state import TrainState
from simclr_jax.core.tree import path_name
from simclr_jax.parallel.sharding import Layout, Rule

shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.float32)
METHOD_RULES = (Rule("queue", 1, ("slice", "data", "fsdp")),)
KERNELS = {"encoder": {"conv": {"kernel": shape(3, 3, 4, 16)}, "norm": {"scale": shape(16)}}}


def state(*, rows: int = 16, classes: int = 10) -> TrainState:
    params = {**KERNELS, "classifier": {"kernel": shape(32, classes)}}
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        batch_stats={},
        opt_state=({"trace": params},),
        method_state={"queue": shape(3, rows, 4), "target": {"params": KERNELS}},
    )


def split(layout: Layout, state: TrainState) -> dict[str, tuple[int, ...]]:
    """Returns the shape on one of 8 devices of each leaf that is split, by path."""
    placed = layout.state_shardings(state, layout.mesh(), METHOD_RULES)
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    both = zip(jax.tree_util.tree_leaves_with_path(placed), jax.tree.leaves(state), strict=True)
    return {
        path_name(path): sharding.shard_shape(leaf.shape)
        for (path, sharding), leaf in both
        if not sharding.is_fully_replicated
    }


QUEUE = {"method_state/queue": (3, 2, 4)}
AT_REST = {
    "opt_state/0/trace/encoder/conv/kernel": (3, 3, 4, 4),
    "opt_state/0/trace/classifier/kernel": (8, 10),
    "method_state/target/params/encoder/conv/kernel": (3, 3, 4, 4),
}
PARAMS = {"params/encoder/conv/kernel": (3, 3, 4, 4), "params/classifier/kernel": (8, 10)}


@pytest.mark.parametrize(
    ("preset", "want"),
    [("replicated", QUEUE), ("zero1", QUEUE | AT_REST), ("fsdp", QUEUE | AT_REST | PARAMS)],
)
def test_presets_split_kernels_and_the_queue(preset, want):
    assert split(Layout(preset, fsdp=4), state()) == want


def test_a_rule_of_the_recipe_comes_before_those_of_the_preset():
    rule = ("params/.*/kernel", 0, ("data", "fsdp"))
    got = split(Layout(fsdp=4, rules=(rule,)), state().replace(params={"a": {"kernel": shape(8)}}))
    assert got == {**QUEUE, "params/a/kernel": (1,)}


def test_a_preset_that_would_split_nothing_is_refused():
    with pytest.raises(ValueError, match=r"fsdp=3 .* 8 devices .*'fsdp' .* one of \[2, 4, 8\]"):
        Layout("fsdp", fsdp=3).mesh()
    assert Layout("fsdp", fsdp=3).mesh(jax.devices()[:1]).size == 1
    assert Layout("replicated", fsdp=3).mesh().shape["fsdp"] == 1


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        (
            Layout("fsdp"),
            {"params": {"a": {"kernel": shape(4, 20)}}},
            r"params/a/kernel of shape \(4, 20\): its dimension 1 .* 8 devices along fsdp; "
            r"use parallel.fsdp=4",
        ),
        (
            Layout(),
            {"method_state": {"queue": shape(3, 20, 4)}},
            r"method_state/queue .* 8 devices along slice x data x fsdp",
        ),
        (
            Layout(rules=(("params/.*/scale", 1, ("data",)),)),
            {},
            r"norm/scale .* dimension 1, and it has 1",
        ),
        (
            Layout(rules=(("params/encoder", 0, ("data",)),)),
            {},
            r"'params/encoder' matches no array .* such as 'method_state/target/",
        ),
    ],
)
def test_names_what_cannot_be_split(layout, changes, message):
    with pytest.raises(ValueError, match=message):
        split(layout, state().replace(**changes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "zero2"}, "preset='zero2' must be one of .*'zero1'"),
        ({"rules": (("a", 0),)}, r"\(pattern, dim, axes\)"),
        ({"rules": (("(", 0, ("data",)),)}, "unterminated"),
        ({"rules": (("a", 0, ("model",)),)}, "axes some of"),
        ({"rules": (("a", 0, "data"),)}, "axes some of"),
        ({"rules": (("a", 0, ("fsdp", "fsdp")),)}, "axes some of"),
    ],
)
def test_refuses_a_layout_that_does_not_exist(settings, message):
    with pytest.raises(ValueError, match=message):
        Layout(**settings)
