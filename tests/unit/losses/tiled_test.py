"""The tiled losses: the paper's formula, the dense loss, limits, memory, and sharding."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.contrastive import contrastive_metrics, nt_xent
from simclr_jax.losses.similarity import MAX_DENSE_ROWS
from simclr_jax.parallel.mesh import make_mesh
from tests.helpers import hlo, temporary_bytes

ONE = jax.NamedSharding(make_mesh(jax.devices()[:1]), P("data"))
EIGHT = jax.NamedSharding(make_mesh(), P("data"))
# A mesh of one device is contrasted in blocks, arrays without a mesh in columns.
LOOPS = {"blocks": lambda x: jax.device_put(x, ONE), "columns": lambda x: x}
loops = pytest.mark.parametrize("place", LOOPS.values(), ids=LOOPS)


def random_pairs(b: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(b, 2, d)).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def from_paper(z, temperature, keys=None, queue=None):
    """Equation 1 and its gradient by hand, in float64; shares no code with the library."""
    lengths = np.linalg.norm(np.float64(z.reshape(-1, z.shape[-1])), axis=-1, keepdims=True)
    rows = z.reshape(lengths.shape[0], -1) / lengths
    n = len(rows)
    own = rows if keys is None else unit(keys.reshape(rows.shape).astype(np.float64))
    candidates = own if queue is None else np.concatenate([own, np.float64(queue)])
    similarities = np.exp(rows @ candidates.T / temperature)
    similarities[np.arange(n), np.arange(n)] = 0
    p = similarities / similarities.sum(axis=1, keepdims=True)
    positives = np.arange(n) ^ 1
    loss = -np.log(p[np.arange(n), positives]).mean()
    p[np.arange(n), positives] -= 1
    grad = p @ candidates + (p.T @ rows if keys is None else 0)
    grad = grad / temperature / n
    grad = (grad - rows * (grad * rows).sum(axis=1, keepdims=True)) / lengths
    return loss, grad.reshape(z.shape)


def value_and_grad(temperature, tile):
    loss = lambda z, keys=None, queue=None: nt_xent(
        z, temperature=temperature, keys=keys, queue=queue, tile=tile
    )
    return jax.jit(jax.value_and_grad(loss))


def assert_close(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-5 * np.abs(want[1]).max())


@loops
@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("tile", [6, 7])
def test_value_and_gradient_are_the_papers_whatever_the_last_tile_holds(place, temperature, tile):
    z = random_pairs(9, 16)
    got = value_and_grad(temperature, tile)(place(z))
    assert_close(got, from_paper(z, temperature))


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("num_past", [0, 20])
def test_with_a_memory_value_and_gradient_are_its_formulas(temperature, num_past):
    z, keys = random_pairs(9, 16), random_pairs(9, 16, seed=1)
    queue = unit(random_pairs(10, 16, seed=2).reshape(20, 16)) if num_past else None
    got = value_and_grad(temperature, 7)(z, keys, queue)
    assert_close(got, from_paper(z, temperature, keys, queue))


def test_a_queue_without_keys_matches_the_dense_loss():
    z, queue = random_pairs(9, 16), unit(random_pairs(10, 16, seed=2).reshape(20, 16))
    got, want = (value_and_grad(0.1, tile)(z, None, queue) for tile in (7, None))
    assert_close(got, want)


@loops
def test_matches_the_dense_loss(place):
    z = random_pairs(150, 32)
    got, want = (value_and_grad(0.05, tile)(place(z)) for tile in (64, None))
    assert_close(got, want)


@loops
@pytest.mark.parametrize("tile", [1, 5, 99])
def test_is_log_of_candidates_when_all_views_collapse(place, tile):
    loss = nt_xent(place(jnp.ones((8, 2, 4))), temperature=0.05, tile=tile)
    np.testing.assert_allclose(loss, np.log(2 * 8 - 1), rtol=1e-6)


@loops
def test_zero_embedding_has_finite_gradient(place):
    loss, grad = value_and_grad(0.1, 3)(place(jnp.zeros((4, 2, 4))))
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)
    assert jnp.isfinite(grad).all()


def test_no_gradient_reaches_keys_or_queue():
    arrays = (random_pairs(4, 6), random_pairs(4, 6, seed=1), unit(random_pairs(5, 6)[:, 0]))
    loss = lambda z, keys, queue: nt_xent(z, temperature=0.2, keys=keys, queue=queue, tile=3)
    grads = jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, arrays))
    assert [float(jnp.abs(grad).max()) > 0 for grad in grads] == [True, False, False]


@pytest.mark.parametrize("b", [32, 40])
def test_eight_devices_agree_with_one_and_talk_only_before_and_after_the_loops(b):
    arrays = (random_pairs(b, 8), random_pairs(b, 8, seed=1), unit(random_pairs(32, 8)[:, 0]))
    for args in (arrays[:1], arrays):
        fn = value_and_grad(0.05, 16)
        sharded = jax.device_put(args, EIGHT)
        on_eight = fn.lower(*sharded).compile()
        assert_close(on_eight(*sharded), fn(*jax.device_put(args, ONE)))
        text = hlo(on_eight)
        # One line starts each computation; the loops' bodies are not the entry.
        entry = text[text.index("\nENTRY ") :]
        collective = r" (all-\w+|collective-permute|reduce-scatter)(-start)?\("
        assert 0 < len(re.findall(collective, text)) == len(re.findall(collective, entry))
        assert f"f32[{2 * b // 8},16]" in text, "each device compares its own rows with a tile"
        assert f"f32[{2 * b},16]" not in text, "a device compares rows that are not its own"


@loops
def test_memory_grows_with_the_rows_and_not_with_their_square(place):
    temporaries = []
    for b in (256, 512, 1024):
        z = place(jnp.zeros((b, 2, 8)))
        compiled = value_and_grad(0.1, 64).lower(z).compile()
        temporaries.append(temporary_bytes(compiled))
        assert f"[{2 * b},{2 * b}]" not in hlo(compiled)
    small, middle, large = temporaries
    assert large - middle < 2.2 * (middle - small)
    assert large < 4 * 2048**2 / 4, "a quarter of all similarities"


def test_blocks_are_for_one_known_device_and_ordinary_temperatures():
    z = random_pairs(32, 8)
    shapes = lambda z, t: str(jax.make_jaxpr(value_and_grad(t, 16))(z))
    assert "f32[64,16]" not in shapes(jax.device_put(z, ONE), 0.1)
    assert "f32[64,16]" in shapes(jax.device_put(z, ONE), 0.01)
    assert "f32[64,16]" in shapes(jax.device_put(z, EIGHT), 0.1)
    assert "f32[64,16]" in shapes(z, 0.1)


@pytest.mark.parametrize("loss", [nt_xent, contrastive_metrics])
def test_many_rows_are_tiled_unasked(loss):
    # Candidates of one row: all views for the loss, all second views for the metrics.
    candidates = lambda b: 2 * b if loss is nt_xent else b
    for b, dense in ((MAX_DENSE_ROWS // 2, True), (MAX_DENSE_ROWS // 2 + 1, False)):
        z = jax.ShapeDtypeStruct((b, 2, 8), jnp.float32)
        jaxpr = str(jax.make_jaxpr(lambda z: loss(z, temperature=0.1))(z))
        assert (f"f32[{candidates(b)},{candidates(b)}]" in jaxpr) == dense


@pytest.mark.parametrize(
    ("num_past", "placement", "dense"),
    [(2**19 - 128, ONE, True), (2**19, ONE, False), (2**19, EIGHT, True)],
)
def test_a_long_queue_is_tiled_unasked_where_a_device_would_hold_much(num_past, placement, dense):
    z = jax.device_put(random_pairs(64, 8), placement)  # 128 rows: 2^26 similarities are the limit
    queue = jax.ShapeDtypeStruct((num_past, 8), jnp.float32)
    loss = lambda z, queue: nt_xent(z, temperature=0.1, keys=z, queue=queue)
    assert (f"f32[128,{num_past}]" in str(jax.make_jaxpr(loss)(z, queue))) == dense


@pytest.mark.parametrize("loss", [nt_xent, contrastive_metrics])
@pytest.mark.parametrize("tile", [None, 16])
def test_similarities_are_multiplied_in_float32_on_a_tpu_too(loss, tile):
    z = jax.ShapeDtypeStruct((32, 2, 8), jnp.float32)
    jaxpr = str(jax.make_jaxpr(lambda z: loss(z, temperature=0.1, tile=tile))(z))
    assert jaxpr.count("dot_general[") == jaxpr.count("precision=(Precision.HIGHEST") > 0


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_tiled_metrics_are_the_dense_ones(temperature):
    z = random_pairs(50, 4)
    z[:, 1] += z[:, 0]
    tiled, dense = (
        contrastive_metrics(jnp.asarray(z), temperature=temperature, tile=tile)
        for tile in (16, None)
    )
    assert 0 < dense["contrastive_accuracy"] < 1
    np.testing.assert_allclose(
        tiled["contrastive_accuracy"], dense["contrastive_accuracy"], rtol=1e-6
    )
    np.testing.assert_allclose(
        tiled["contrastive_entropy"], dense["contrastive_entropy"], rtol=1e-5
    )


def test_tiled_metrics_of_collapsed_views_are_those_of_chance():
    metrics = contrastive_metrics(jnp.ones((8, 2, 4)), temperature=0.1, tile=3)
    np.testing.assert_allclose(metrics["contrastive_accuracy"], 1 / 8, rtol=1e-6)
    np.testing.assert_allclose(metrics["contrastive_entropy"], np.log(8), rtol=1e-6)


@pytest.mark.parametrize("loss", [nt_xent, contrastive_metrics])
@pytest.mark.parametrize("tile", [0, -4])
def test_an_empty_tile_is_refused(loss, tile):
    with pytest.raises(ValueError, match=rf"tile={tile}; it must be at least 1"):
        loss(jnp.ones((8, 2, 4)), temperature=0.1, tile=tile)
