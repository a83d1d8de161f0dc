"""Similarities, alignment, uniformity and rank against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import geometry as module
from simclr_jax.losses.geometry import geometry


def pairs(b, d, noise=0.5, v=2):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(b, 1, d)) + rng.normal(size=d)  # off the centre: no two are opposite
    return (images + noise * rng.normal(size=(b, v, d))).astype(np.float32)


def from_papers(z, num_images):
    """One pair at a time."""
    z = z.astype(np.float64)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    b = len(z)
    apart = [(i, j) for i in range(b) for j in range(b) if i != j]
    values = np.linalg.eigvalsh(z.reshape(-1, z.shape[-1]).T @ z.reshape(-1, z.shape[-1]))
    kernels = [
        np.exp(-2 * np.linalg.norm(z[i, 0] - z[j, 1]) ** 2)
        for i, j in apart
        if max(i, j) < num_images
    ]
    return {
        "positive_similarity": np.mean([x @ y for x, y in z[:, :2]]),
        "negative_similarity": np.mean([z[i, 0] @ z[j, 1] for i, j in apart]),
        "alignment": np.mean([np.linalg.norm(x - y) ** 2 for x, y in z[:, :2]]),
        "uniformity": np.log(np.mean(kernels)),
        "participation_ratio": values.sum() ** 2 / (values**2).sum(),
    }


@pytest.mark.parametrize("views", [2, 3])
def test_is_what_the_papers_define(views):
    z = pairs(12, 5, v=views)
    got, want = jax.jit(geometry)(z), from_papers(z, 12)
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, err_msg=name)


def test_uniformity_of_a_large_batch_is_that_of_its_first_images(monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGES", 6)
    z = pairs(12, 5)
    got, want = jax.jit(lambda z: geometry(z))(z), from_papers(z, 6)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, err_msg=name)


def test_collapsed_projections_have_one_direction():
    got = jax.jit(geometry)(jnp.ones((8, 2, 4)))
    for name, value in {
        "positive_similarity": 1,
        "negative_similarity": 1,
        "alignment": 0,
        "uniformity": 0,
        "participation_ratio": 1,
    }.items():
        np.testing.assert_allclose(got[name], value, atol=1e-6, err_msg=name)


def test_images_at_right_angles_use_every_direction():
    z = jnp.repeat(3 * jnp.eye(8)[:, None], 2, axis=1)
    got = jax.jit(geometry)(z)
    np.testing.assert_allclose(got["participation_ratio"], 8, rtol=1e-6)
    np.testing.assert_allclose(got["uniformity"], -4, rtol=1e-6)
    np.testing.assert_allclose(got["negative_similarity"], 0, atol=1e-7)


def test_passes_no_gradient():
    grads = jax.jit(jax.grad(lambda z: sum(geometry(z).values())))(pairs(4, 3))
    np.testing.assert_array_equal(grads, 0)
