"""supcon and the hybrid: the released code's numbers, limits, tiles and sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.losses.supcon import mean_num_positives, supcon
from simclr_jax.parallel.mesh import make_mesh
from tests.helpers import hlo

CASES = ("plain", "single_sample_class", "all_one_class", "all_distinct", "three_views")
CASES += ("equal_embeddings", "large_scale")
UNLABELLED = ("unlabelled", "all_unlabelled", "one_labelled")


@functools.cache
def value_and_grad(tile):
    loss = lambda z, labels, t: supcon(z, labels, temperature=t, tile=tile)
    return jax.jit(jax.value_and_grad(loss), static_argnums=2)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tile", [None, 5])
def test_is_the_released_code_without_its_factor(golden, close, tile):
    numbers = golden("supcon")
    for case in CASES:
        z, labels = numbers[f"{case}/z"], numbers[f"{case}/labels"]
        for t in (0.07, 0.1, 0.5) if case == "plain" else (0.1,):
            loss, grad = value_and_grad(tile)(z, labels, t)
            close(loss, numbers[f"{case}/t{t}/loss"], case)
            close(grad, numbers[f"{case}/t{t}/grad_z"], case)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tile", [None, 5])
def test_an_image_without_a_label_is_neither_anchor_nor_candidate(golden, close, tile):
    numbers = golden("supcon")
    for case in UNLABELLED:
        loss, grad = value_and_grad(tile)(numbers[f"{case}/z"], numbers[f"{case}/labels"], 0.1)
        close(loss, numbers[f"{case}/t0.1/dropped/loss"], case)
        close(grad, numbers[f"{case}/t0.1/dropped/grad_z"], case)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tile", [None, 5])
def test_a_view_without_a_positive_is_left_out_of_the_mean(golden, close, tile):
    numbers = golden("supcon")
    case = "one_view_with_single_sample_class"
    labels = numbers[f"{case}/labels"]
    loss, grad = value_and_grad(tile)(numbers[f"{case}/z"], labels, 0.1)
    close(loss, numbers[f"{case}/t0.1/loss_pml"])
    # The released code counts a zero for it.
    anchors = sum((labels == label).sum() > 1 for label in labels)
    close(grad * anchors / len(labels), numbers[f"{case}/t0.1/grad_z"])


@pytest.mark.usefixtures("float64")
def test_with_nt_xent_it_is_the_hybrid(golden, close):
    numbers = golden("supcon")

    @jax.jit
    @jax.value_and_grad
    def hybrid(z, labels, supervised, self_supervised):
        term = supcon(z, labels, temperature=0.1)
        return supervised * term + self_supervised * nt_xent(z, temperature=0.1)

    for case in UNLABELLED:
        for weights in ((1.0, 1.0), (0.5, 2.0), (0.0, 1.0), (1.0, 0.0)):
            loss, grad = hybrid(numbers[f"{case}/z"], numbers[f"{case}/labels"], *weights)
            name = f"{case}/t0.1/hybrid_{weights[0]}_{weights[1]}"
            close(loss, numbers[f"{name}/loss"], name)
            close(grad, numbers[f"{name}/grad_z"], name)


@pytest.mark.parametrize("tile", [None, 5])
def test_no_label_at_all_gives_no_loss_and_no_gradient(tile):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 6)), jnp.float32)
    loss, grad = value_and_grad(tile)(z, jnp.full(8, -1), 0.1)
    assert loss == 0
    assert not np.asarray(grad).any()


@pytest.mark.parametrize("tile", [None, 5])
def test_a_lone_labelled_view_has_no_candidate_and_no_gradient(tile):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 1, 6)), jnp.float32)
    loss, grad = value_and_grad(tile)(z, jnp.full(8, -1).at[3].set(7), 0.1)
    assert loss == 0
    assert not np.asarray(grad).any()


def test_counts_positives_of_labelled_views():
    labels = jnp.array([4, 4, 4, -1, 9, -1])
    # Each of the three has 2 * 3 - 1 positives, the other one its own second view.
    np.testing.assert_allclose(mean_num_positives(labels, 2), (3 * 5 + 1) / 4)
    assert mean_num_positives(jnp.full(6, -1), 2) == 0


@pytest.mark.parametrize("tile", [None, 16])
def test_eight_devices_agree_with_one_and_share_the_rows(tile):
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(64, 2, 8)), jnp.float32)
    labels = jnp.asarray(rng.integers(-1, 5, 64), jnp.int32)
    fn = jax.jit(jax.value_and_grad(lambda *a: supcon(*a, temperature=0.1, tile=tile)))
    sharded = jax.device_put((z, labels), jax.NamedSharding(make_mesh(), P("data")))
    compiled = fn.lower(*sharded).compile()
    for got, want in zip(compiled(*sharded), fn(z, labels), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    width = 128 if tile is None else tile
    assert f"f32[16,{width}]" in hlo(compiled)
    assert f"f32[128,{width}]" not in hlo(compiled)
