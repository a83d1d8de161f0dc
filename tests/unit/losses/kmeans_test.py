"""Spherical k-means: the released assignments and centroids, also with empty clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import clusters
from simclr_jax.losses.kmeans import spherical_kmeans
from tests.helpers import jitted

assigned_entropy = jitted(clusters.assigned_entropy)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", ["kmeans", "kmeans_empty"])
def test_clusters_are_the_released_ones_also_with_empty_ones(golden, close, case):
    arrays = golden("deepcluster")
    row_of_image = arrays[f"{case}/memory_row_of_image"]
    cluster = jax.jit(spherical_kmeans, static_argnames="iterations")
    for head, want in enumerate(arrays[f"{case}/assignments_by_image"]):
        of = lambda name, head=head: arrays[f"{case}/head{head}/{name}"]
        memory = arrays[f"{case}/memory"][of("memory_used")]
        tiles = memory.reshape(4, -1, memory.shape[-1])
        start = memory[of("initial_memory_rows")]
        centroids, assigned = cluster(tiles, jnp.ones(tiles.shape[:2], bool), start, iterations=10)
        close(centroids, of("centroids"))
        np.testing.assert_array_equal(assigned.reshape(-1)[row_of_image], want)
        empty = int(of("iterations_with_an_empty_cluster"))
        assert (empty > 0) == (case == "kmeans_empty")


@pytest.mark.usefixtures("float64")
def test_rows_that_are_not_known_change_nothing_and_get_no_cluster(golden, close):
    arrays = golden("deepcluster")
    memory = arrays["kmeans/memory"][0]
    start = memory[arrays["kmeans/head0/initial_memory_rows"]]
    tiles = jnp.concatenate([memory, -5 * memory]).reshape(8, 10, -1)
    known = (jnp.arange(80) < 40).reshape(8, 10)
    cluster = jax.jit(spherical_kmeans, static_argnames="iterations")
    centroids, assigned = cluster(tiles, known, start, iterations=10)
    close(centroids, arrays["kmeans/head0/centroids"])
    assert (assigned.reshape(-1)[40:] == -1).all()
    assert (assigned.reshape(-1)[:40] >= 0).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", ["loss", "loss_first_image_unassigned"])
def test_the_loss_is_the_released_one_with_its_gradients(golden, close, case):
    arrays = golden("deepcluster")
    clusters = arrays["kmeans/assignments_by_image"][:, arrays["loss/image"]].T
    if case != "loss":
        clusters = clusters.at[0].set(-1)

    def loss(features):
        z = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
        values = [
            assigned_entropy(
                z,
                arrays[f"kmeans/head{head}/centroids"][None],
                clusters[:, head : head + 1],
                temperature=float(arrays["loss/temperature"]),
            )
            for head in range(3)  # of 4, 5 and 4 clusters
        ]
        return sum(values) / 3

    value, grad = jax.jit(jax.value_and_grad(loss))(arrays["loss/features"])
    close(value, arrays[f"{case}/loss"])
    close(grad, arrays[f"{case}/grad_features"])


def test_the_loss_is_the_mean_over_clusterings_and_zero_without_clusters():
    keys = jax.random.split(jax.random.key(0), 2)
    z, centroids = jax.random.normal(keys[0], (4, 3, 6)), jax.random.normal(keys[1], (2, 5, 6))
    clusters = jnp.array([[0, 1], [2, -1], [4, 3], [1, 1]])
    both = assigned_entropy(z, centroids, clusters, temperature=0.5)
    each = [
        assigned_entropy(z, centroids[i : i + 1], clusters[:, i : i + 1], temperature=0.5)
        for i in (0, 1)
    ]
    np.testing.assert_allclose(both, np.mean(each), rtol=1e-6)
    none = jnp.full((4, 2), -1)
    gradient = jax.jit(jax.value_and_grad(assigned_entropy), static_argnames="temperature")
    value, grad = gradient(z, centroids, none, temperature=0.5)
    assert value == 0
    assert not np.any(grad)
