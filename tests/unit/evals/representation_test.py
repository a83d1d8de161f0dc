"""Effective rank and uniformity: the papers' formulas, their limits."""

import numpy as np
import pytest

from simclr_jax.evals.representation import effective_rank, uniformity

X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32) * np.arange(1, 9, dtype="f")


def test_effective_rank_matches_the_paper():
    spectrum = np.linalg.svd(X.astype(np.float64), compute_uv=False)
    share = spectrum / spectrum.sum() + 1e-7
    want = np.exp(-np.sum(share * np.log(share)))
    np.testing.assert_allclose(effective_rank(X), want, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equal_directions(rank):
    directions = np.zeros((16, 8), np.float32)
    directions[:rank, :rank] = 5 * np.eye(rank)
    np.testing.assert_allclose(effective_rank(directions), rank, rtol=1e-4)


def test_uniformity_matches_the_paper():
    unit = X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True)
    pairs = [np.sum((unit[i] - unit[j]) ** 2) for i in range(300) for j in range(i)]
    want = np.log(np.mean(np.exp(-2 * np.array(pairs))))
    np.testing.assert_allclose(uniformity(X), want, rtol=1e-5)


def test_uniformity_is_zero_for_collapsed_features_and_least_for_opposite_ones():
    np.testing.assert_allclose(uniformity(np.ones((4, 3), np.float32)), 0, atol=1e-5)
    np.testing.assert_allclose(uniformity(np.array([[2, 0], [-1, 0]], np.float32)), -8, rtol=1e-5)


def test_uniformity_needs_a_pair():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        uniformity(np.ones((1, 3), np.float32))
