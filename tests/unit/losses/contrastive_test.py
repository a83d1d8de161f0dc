"""nt_xent: the paper's formula, the official code's numbers, limits, and its sharding."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.contrastive import contrastive_metrics, nt_xent
from simclr_jax.parallel.mesh import make_mesh

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


def to_pairs(rows: np.ndarray) -> np.ndarray:
    """[view 1 of all images; view 2 of all images] -> [b, 2, d]."""
    return np.stack(np.split(rows, 2), axis=1)


def random_pairs(b: int, d: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(b, 2, d)), jnp.float32)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_matches_the_paper(temperature):
    z = random_pairs(8, 16)
    got = nt_xent(z, temperature=temperature)
    np.testing.assert_allclose(got, nt_xent_from_paper(np.asarray(z), temperature), rtol=1e-5)


def test_gradient_matches_finite_differences_of_the_paper():
    z, direction = np.asarray(random_pairs(4, 6)), np.random.default_rng(1).normal(size=(4, 2, 6))
    grad = jax.grad(lambda z: nt_xent(z, temperature=0.2))(jnp.asarray(z))
    step = 1e-6
    above, below = (nt_xent_from_paper(z + s * step * direction, 0.2) for s in (1, -1))
    np.testing.assert_allclose((grad * direction).sum(), (above - below) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("i", NORMALIZED)
def test_is_half_the_value_and_gradient_of_the_official_code(i):
    z, temperature = to_pairs(GOLDEN[f"{i}/hidden"]), float(GOLDEN[f"{i}/temperature"])
    loss, grad = jax.value_and_grad(lambda z: nt_xent(z, temperature=temperature))(jnp.asarray(z))
    np.testing.assert_allclose(2 * loss, GOLDEN[f"{i}/loss"], rtol=1e-5)
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
    grads = jax.grad(lambda z: nt_xent(z, temperature=0.1))(jnp.zeros((2, 2, 4)))
    assert jnp.isfinite(grads).all()


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
    hlo = fn.lower(sharded).compile().as_text()
    assert "f32[16,128]" in hlo, "each device holds the similarities of its own rows"
    assert "f32[128,128]" not in hlo, "the full similarity matrix is on every device"


@pytest.mark.parametrize("loss", [nt_xent, contrastive_metrics])
@pytest.mark.parametrize("shape", [(8, 3, 4), (8, 1, 4)])
def test_names_the_bad_shape(loss, shape):
    with pytest.raises(ValueError, match=r"\[b, 2, d\], got \(8, \d, 4\)"):
        loss(jnp.ones(shape), temperature=0.1)
