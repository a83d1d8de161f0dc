"""Warm start: what goes where, and what a checkpoint that does not fit is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.state import TrainState
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import replicated
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from simclr_jax.train.warm_start import WarmStart, module_trees, replace_parts


def state(value, *, width=3, layers=("dense1", "dense2"), memory=()):
    full = lambda *shape: jnp.full(shape, float(value))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params={
            "encoder": {"conv": {"kernel": full(width, 4)}, "norm": {"scale": full(4)}},
            "projector": {name: {"kernel": full(4, 4)} for name in layers},
        },
        batch_stats={"encoder": {"norm": {"mean": full(4)}}},
        opt_state=(),
        method_state=memory,
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    with CheckpointWriter(str(path)) as writer:
        writer.save(7, state(7.0), {"next_example": 0, "listing": ""})
    return str(path)


def abstract(tree):
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(make_mesh()))
    return jax.tree.map(place, tree)


def start(workdir, trees, fresh):
    return replace_parts(fresh, WarmStart(workdir, trees).restore(abstract(fresh)))


def test_replaces_the_named_parts_and_nothing_else(workdir):
    trees = {
        "params/encoder": "params/encoder",
        "params/projector/dense1": "params/projector/dense2",
    }
    started = start(workdir, trees, state(1.0, layers=("dense1",)))
    jax.tree.map(
        np.testing.assert_array_equal, started.params, state(7.0, layers=("dense1",)).params
    )
    assert float(started.batch_stats["encoder"]["norm"]["mean"][0]) == 1.0


def test_a_tree_that_goes_to_two_places_is_two_trees(workdir):
    memory = {"target": {"params": {"encoder": state(0.0).params["encoder"]}}}
    trees = {
        path: "params/encoder" for path in ("params/encoder", "method_state/target/params/encoder")
    }
    started = start(workdir, trees, state(1.0, memory=memory))
    donated = jax.jit(lambda x: x, donate_argnums=0)(started)
    assert float(donated.method_state["target"]["params"]["encoder"]["norm"]["scale"][0]) == 7.0
    assert float(donated.params["encoder"]["norm"]["scale"][0]) == 7.0


def test_a_teacher_is_a_warm_start_of_the_memory(workdir):
    memory = {"teacher": {"params": state(0.0).params}}
    trees = {"method_state/teacher/params": "params"}
    started = start(workdir, trees, state(1.0, memory=memory))
    assert float(started.method_state["teacher"]["params"]["encoder"]["norm"]["scale"][0]) == 7.0
    assert float(started.params["encoder"]["norm"]["scale"][0]) == 1.0


@pytest.mark.parametrize(
    ("trees", "fresh", "message"),
    [
        (
            {"params/encoder": "params/encoder"},
            state(0.0, width=5),
            r"1 of 2 arrays differ. conv/kernel is float32\[3, 4\] there, float32\[5, 4\] here",
        ),
        (
            {"params/projector": "params/projector"},
            state(0.0, layers=("dense1",)),
            r"1 of 2 arrays differ. dense2/kernel is there only",
        ),
        (
            {"params/projector": "params/projector"},
            state(0.0, layers=("dense1", "dense2", "dense3")),
            "1 of 3 arrays differ. dense3/kernel is not there",
        ),
        (
            {"params/encoder": "params/encodr"},
            state(0.0),
            "has nothing at 'params/encodr'. Did you mean 'params/encoder'?",
        ),
        ({"params/head": "params/encoder"}, state(0.0), "the state to start has nothing at"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_told_how(workdir, trees, fresh, message):
    with pytest.raises(UserError, match=message):
        WarmStart(workdir, trees).restore(abstract(fresh))


def test_a_directory_without_a_checkpoint_is_told(tmp_path):
    trees = {"params/encoder": "params/encoder"}
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="holds no finished checkpoint"):
            WarmStart(str(path), trees).restore(abstract(state(0.0)))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": None, "required": True}, "--config.warm_start.checkpoint="),
        ({"checkpoint": "runs/x", "trees": {}}, "trees is empty"),
    ],
)
def test_a_warm_start_from_nothing_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WarmStart(**settings)


def test_layers_of_the_projector_count_by_themselves():
    shapes = {"params": state(0.0).params, "batch_stats": state(0.0).batch_stats}
    assert module_trees(shapes) == [
        "params/encoder",
        "params/projector/dense1",
        "params/projector/dense2",
        "batch_stats/encoder",
    ]
