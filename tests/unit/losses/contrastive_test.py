"""nt_xent: the papers' formulas, the official code's numbers, limits, and its sharding."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.losses import contrastive
from simclr_jax.parallel.mesh import make_mesh
from tests.helpers import hlo, jitted

contrastive_metrics = jitted(contrastive.contrastive_metrics)
nt_xent = jitted(contrastive.nt_xent)
GOLDEN = np.load(Path(__file__).parents[2] / "golden/ntxent.npz")
NORMALIZED = [i for i in range(5) if GOLDEN[f"{i}/hidden_norm"]]


def nt_xent_from_paper(z: np.ndarray, temperature: float) -> float:
    """Equation 1, one pair at a time, in float64; shares no code with the library."""
    z = z.reshape(-1, z.shape[-1]).astype(np.float64)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    losses = []
    for i in range(len(z)):
        j = i + 1 if i % 2 == 0 else i - 1
        sims = np.array([z[i] @ z[k] for k in range(len(z)) if k != i]) / temperature
        losses.append(np.log(np.exp(sims).sum()) - z[i] @ z[j] / temperature)
    return float(np.mean(losses))


def nt_xent_with_memory(z, keys, queue, temperature: float) -> float:
    """MoCo's Equation 1 for each view, in float64, from what is compared with what."""
    d = z.shape[-1]
    unit = lambda x: np.asarray(x, np.float64) / np.linalg.norm(x, axis=-1, keepdims=True)
    z, keys, queue = unit(z), unit(keys), np.asarray(queue, np.float64).reshape(-1, d)
    losses = []
    for image in range(len(z)):
        for view in (0, 1):
            positive = keys[image, 1 - view]
            others = [keys[i, v] for i in range(len(z)) for v in (0, 1) if i != image]
            sims = np.stack([positive, *others, *queue]) @ z[image, view] / temperature
            losses.append(np.log(np.exp(sims).sum()) - sims[0])
    return float(np.mean(losses))


def to_pairs(rows: np.ndarray) -> np.ndarray:
    """[view 1 of all images; view 2 of all images] -> [b, 2, d]."""
    return np.stack(np.split(rows, 2), axis=1)


def random_pairs(b: int, d: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(b, 2, d)), jnp.float32)


def unit_rows(k: int, d: int) -> jax.Array:
    rows = np.random.default_rng(2).normal(size=(k, d))
    return jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), jnp.float32)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_matches_the_paper(temperature):
    z = random_pairs(8, 16)
    got = nt_xent(z, temperature=temperature)
    np.testing.assert_allclose(got, nt_xent_from_paper(np.asarray(z), temperature), rtol=1e-5)


def test_gradient_matches_finite_differences_of_the_paper():
    z, direction = np.asarray(random_pairs(4, 6)), np.random.default_rng(1).normal(size=(4, 2, 6))
    grad = jax.device_get(jax.jit(jax.grad(lambda z: nt_xent(z, temperature=0.2)))(z))
    step = 1e-6
    above, below = (nt_xent_from_paper(z + s * step * direction, 0.2) for s in (1, -1))
    np.testing.assert_allclose((grad * direction).sum(), (above - below) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("i", NORMALIZED)
def test_is_half_the_value_and_gradient_of_the_official_code(i):
    z, temperature = to_pairs(GOLDEN[f"{i}/hidden"]), float(GOLDEN[f"{i}/temperature"])
    loss = lambda z: nt_xent(z, temperature=temperature)
    value, grad = jax.device_get(jax.jit(jax.value_and_grad(loss))(z))
    np.testing.assert_allclose(2 * value, GOLDEN[f"{i}/loss"], rtol=1e-5)
    want = to_pairs(GOLDEN[f"{i}/grad"])
    np.testing.assert_allclose(2 * grad, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("i", NORMALIZED)
def test_accuracy_and_entropy_are_those_of_the_official_code(i):
    z, temperature = to_pairs(GOLDEN[f"{i}/hidden"]), float(GOLDEN[f"{i}/temperature"])
    got = contrastive_metrics(jnp.asarray(z), temperature=temperature)
    np.testing.assert_allclose(got["contrastive_accuracy"], GOLDEN[f"{i}/acc"], rtol=1e-6)
    np.testing.assert_allclose(got["contrastive_entropy"], GOLDEN[f"{i}/entropy"], rtol=1e-5)


def test_is_log_of_candidates_when_all_views_collapse():
    loss = nt_xent(jnp.ones((8, 2, 4)), temperature=0.1)
    np.testing.assert_allclose(loss, np.log(2 * 8 - 1), rtol=1e-6)


def test_ignores_embedding_scale():
    z = random_pairs(8, 16)
    np.testing.assert_allclose(
        nt_xent(z, temperature=0.1), nt_xent(7 * z, temperature=0.1), rtol=1e-5
    )


def test_ignores_the_order_of_images_and_of_views():
    z = random_pairs(8, 16)
    shuffled = z[np.random.default_rng(1).permutation(8)][:, ::-1]
    np.testing.assert_allclose(
        nt_xent(z, temperature=0.1), nt_xent(shuffled, temperature=0.1), rtol=1e-5
    )


def test_zero_embedding_has_finite_gradient():
    grads = jax.jit(jax.grad(lambda z: nt_xent(z, temperature=0.1)))(jnp.zeros((2, 2, 4)))
    assert np.isfinite(grads).all()


def test_bfloat16_embeddings_are_contrasted_in_float32():
    z = random_pairs(8, 16).astype(jnp.bfloat16)
    loss = nt_xent(z, temperature=0.1)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, nt_xent(z.astype(jnp.float32), temperature=0.1), rtol=1e-6)


def test_eight_devices_agree_with_one_and_gather_only_embeddings():
    z = random_pairs(64, 16)
    mesh = make_mesh()
    fn = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, temperature=0.1)))
    sharded = jax.device_put(z, jax.NamedSharding(mesh, P("data")))
    for got, want in zip(fn(sharded), fn(z), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    text = hlo(fn.lower(sharded).compile())
    assert "f32[16,128]" in text, "each device holds the similarities of its own rows"
    assert "f32[128,128]" not in text, "the full similarity matrix is on every device"


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("num_past", [0, 20])
def test_with_a_memory_matches_its_formula(temperature, num_past):
    z, keys, queue = random_pairs(6, 16), random_pairs(6, 16, seed=1), unit_rows(num_past, 16)
    past = queue if num_past else None
    got = nt_xent(z, temperature=temperature, keys=keys, queue=past)
    want = nt_xent_with_memory(z, keys, queue, temperature)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_gradient_with_a_memory_matches_finite_differences_of_its_formula():
    z, keys, queue = np.asarray(random_pairs(4, 6)), random_pairs(4, 6, seed=1), unit_rows(10, 6)
    direction, step = np.random.default_rng(3).normal(size=z.shape), 1e-6
    loss = lambda z: nt_xent(z, temperature=0.2, keys=keys, queue=queue)
    above, below = (
        nt_xent_with_memory(z + s * step * direction, keys, queue, 0.2) for s in (1, -1)
    )
    got = (jax.device_get(jax.jit(jax.grad(loss))(z)) * direction).sum()
    np.testing.assert_allclose(got, (above - below) / (2 * step), rtol=1e-4)


def test_no_gradient_reaches_keys_or_queue():
    arrays = (random_pairs(4, 6), random_pairs(4, 6, seed=1), unit_rows(10, 6))
    loss = lambda z, keys, queue: nt_xent(z, temperature=0.2, keys=keys, queue=queue)
    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)
    assert [np.abs(grad).max() > 0 for grad in grads] == [True, False, False]


def test_own_projections_as_keys_change_the_gradient_but_not_the_value():
    z = random_pairs(8, 16)
    plain = jax.jit(jax.value_and_grad(lambda x: nt_xent(x, temperature=0.1)))(z)
    own = jax.jit(jax.value_and_grad(lambda x: nt_xent(x, temperature=0.1, keys=z)))(z)
    np.testing.assert_allclose(own[0], plain[0], rtol=1e-6)
    grads = np.asarray(own[1]), np.asarray(plain[1])
    assert np.linalg.norm(grads[0] - grads[1]) > 0.1 * np.linalg.norm(grads[1])


def test_counts_the_queue_when_all_keys_collapse():
    ones, queue = jnp.ones((8, 2, 4)), jnp.full((30, 4), 0.5)
    loss = nt_xent(ones, temperature=0.1, keys=ones, queue=queue)
    np.testing.assert_allclose(loss, np.log(2 * 8 - 1 + 30), rtol=1e-6)


def test_a_queue_of_opposites_adds_nothing():
    z, keys = jnp.tile(jnp.eye(4)[0], (8, 2, 1)), random_pairs(8, 4, seed=1)
    opposites = jnp.tile(-jnp.eye(4)[0], (30, 1))
    with_queue = nt_xent(z, temperature=0.02, keys=keys, queue=opposites)
    np.testing.assert_allclose(with_queue, nt_xent(z, temperature=0.02, keys=keys), rtol=1e-6)


def test_with_a_sharded_queue_eight_devices_agree_with_one_and_the_queue_stays():
    z, keys, queue = random_pairs(16, 8), random_pairs(16, 8, seed=1), unit_rows(256, 8)
    loss = lambda z, keys, queue: nt_xent(z, temperature=0.1, keys=keys, queue=queue)
    fn = jax.jit(jax.value_and_grad(loss))
    sharded = jax.device_put((z, keys, queue), jax.NamedSharding(make_mesh(), P("data")))
    for got, want in zip(fn(*sharded), fn(z, keys, queue), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    text = hlo(fn.lower(*sharded).compile())
    assert "f32[32,32]" in text, "each device compares all rows with its own part of the queue"
    assert "256" not in "".join(re.findall(r"f32(\[[\d,]+\])", text)), "the queue is gathered"


def test_keys_of_another_layout_are_refused():
    with pytest.raises(ValueError, match=r"shape of z, \(8, 2, 4\), got \(2, 8, 4\)"):
        nt_xent(jnp.ones((8, 2, 4)), temperature=0.1, keys=jnp.ones((2, 8, 4)))


@pytest.mark.parametrize("loss", [nt_xent, contrastive_metrics])
@pytest.mark.parametrize("shape", [(8, 3, 4), (8, 1, 4)])
def test_names_the_bad_shape(loss, shape):
    with pytest.raises(ValueError, match=r"\[b, 2, d\], got \(8, \d, 4\)"):
        loss(jnp.ones(shape), temperature=0.1)
