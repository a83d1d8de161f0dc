"""DeepCluster v2: learn to tell clusters apart that k-means finds anew in each epoch.

Caron et al. 2020, https://arxiv.org/abs/2006.09882, Appendix; the first DeepCluster: Caron et al.
2018, https://arxiv.org/abs/1807.05520
"""

import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simclr_jax.augment.policies import Augment
from simclr_jax.core.errors import UserError
from simclr_jax.core.ranges import Count, Positive, Range
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.clusters import assigned_entropy
from simclr_jax.losses.kmeans import spherical_kmeans
from simclr_jax.losses.similarity import at_least_float32, l2_normalize, unit_std
from simclr_jax.methods.bank import BANK_RULE, num_bank_rows, read_bank, write_bank
from simclr_jax.methods.base import (
    ApplyModel,
    Frozen,
    Method,
    StepOutput,
    Variables,
    apply_model,
    by_image,
    check_global_views,
    check_grad_cache_chunks,
    check_heads,
    init_model,
    projection_width,
)
from simclr_jax.models.ssl import SSLModel


def deepcluster_v2(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    num_clusters: Annotated[int, Range(least=2)] = 3000,
    num_clusterings: Count = 3,
    iterations: Count = 10,
    temperature: Positive = 0.1,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns DeepCluster v2 for `model`; its state is {"bank", "centroids"}.

    bank/rows [images, 2, d] holds the unit projections, by image id, of the global views that an
    image had last; bank/clusters [images, h] the cluster of each image in each of h clusterings, -1
    for none; centroids [h, k, d] are unit rows that nothing trains. In the first epoch the bank
    fills and no parameter moves. At the end of each epoch the images are clustered anew, clustering
    i by view i % 2, starting from k images that are drawn at random.

    Args:
      model: network with a projector.
      augment: (key, batch) -> views, the first array of which has the two global ones; the cluster
        of an image is the target of all its views.
      facts: facts of the run.
      num_clusters: k of each clustering, at most the images that an epoch sees.
      num_clusterings: h.
      iterations: iterations of k-means.
      temperature: divides the cosine similarity with the centroids, > 0.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if there are more clusters than images, or no epoch after the first.
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_heads(model, "deepcluster_v2", "projector")
    check_grad_cache_chunks(grad_cache_chunks)
    _check_num_clusters(num_clusters, facts)
    shape = (num_clusterings, num_clusters, projection_width(model))
    cluster = functools.partial(
        cluster_rows, shape=shape[:2], iterations=iterations, tile=facts.batch_size
    )

    def init(key: PRNGKey, views: Views) -> Variables:
        check_global_views(views, "deepcluster_v2")
        variables = init_model(model, key, views, several_sizes=True)
        return variables._replace(method_state=_without_clusters(num_bank_rows(facts), shape))

    loss = functools.partial(
        _loss,
        apply=functools.partial(apply_model, model, grad_cache_chunks=grad_cache_chunks),
        temperature=temperature,
    )

    def after_update(state: TrainState, carry: Any) -> Any:
        bank, centroids = state.method_state["bank"], state.method_state["centroids"]
        rows = write_bank(bank["rows"], carry["ids"], carry["rows"])
        clusters, centroids = jax.lax.cond(
            state.step % facts.steps_per_epoch == 0,
            lambda: cluster(rows, carry["key"]),
            lambda: (bank["clusters"], centroids),
        )
        return {"bank": {"rows": rows, "clusters": clusters}, "centroids": centroids}

    return Method(
        init,
        augment,
        loss,
        after_update,
        frozen_params=(Frozen(".*", facts.steps_per_epoch),),
        state_rules=(BANK_RULE,),
        grad_cache_chunks=grad_cache_chunks,
    )


def _loss(
    params: Params,
    state: TrainState,
    views: Views,
    batch: Batch,
    key: PRNGKey,
    *,
    apply: ApplyModel,
    temperature: float,
) -> tuple[Scalar, StepOutput]:
    """Tells the clusters of the images from all of their views."""
    dropout_key, start_key = jax.random.split(key)
    out, batch_stats = apply(params, state.batch_stats, views, key=dropout_key)
    z = l2_normalize(at_least_float32(by_image(out["projection"], views)))  # [b, v, d]
    memory = state.method_state
    clusters = read_bank(memory["bank"]["clusters"], batch["id"])
    value = assigned_entropy(z, memory["centroids"], clusters, temperature=temperature)
    rows = jax.lax.stop_gradient(z[:, :2])
    metrics = {
        "loss": value,
        "loss_chance": jnp.log(float(memory["centroids"].shape[1])),
        "assigned": (clusters >= 0).mean(dtype=jnp.float32),
        "projection_std": unit_std(rows),
    }
    carry = {"ids": batch["id"], "rows": rows, "key": start_key}
    return value, StepOutput(batch_stats, metrics, carry=carry)


def cluster_rows(
    rows: Float[Array, "n 2 d"],
    key: PRNGKey,
    *,
    shape: tuple[int, int],
    iterations: int,
    tile: int,
) -> tuple[Int[Array, "n h"], Float[Array, "h k d"]]:
    """Clusters images by k-means, several times.

    Args:
      rows: unit projections of the two global views of each image; zeros where none is known.
      key: random key for the rows that the centroids start from.
      shape: (h, k), clusterings and clusters of each; clustering i is by view i % 2.
      iterations: iterations of k-means.
      tile: images that are compared at a time, a divisor of n.

    Returns:
      The cluster of each image in each clustering, -1 for an image that is not known; and the
      unit centroids.
    """
    (n, _, width), (num_clusterings, num_clusters) = rows.shape, shape
    # Some images of each device are in every tile.
    tiles = rows.reshape(tile, -1, 2, width).swapaxes(0, 1)
    known = jnp.any(tiles[:, :, 0] != 0, axis=-1)

    def one(i: Array) -> Any:
        view = jax.lax.dynamic_index_in_dim(tiles, i % 2, axis=2, keepdims=False)
        order = jax.random.uniform(jax.random.fold_in(key, i), known.shape)
        _, chosen = jax.lax.top_k(jnp.where(known, order, -1.0).reshape(-1), num_clusters)
        start = view[chosen // tile, chosen % tile]
        return spherical_kmeans(view, known, start, iterations=iterations)

    centroids, clusters = jax.lax.map(one, jnp.arange(num_clusterings))
    return clusters.transpose(2, 1, 0).reshape(n, num_clusterings), centroids


def _without_clusters(num_rows: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Returns the state before the first epoch, for centroids of shape [h, k, d]."""
    num_clusterings, _, width = shape
    bank = {
        "rows": jnp.zeros((num_rows, 2, width), jnp.float32),
        "clusters": jnp.full((num_rows, num_clusterings), -1, jnp.int32),
    }
    return {"bank": bank, "centroids": jnp.zeros(shape, jnp.float32)}


def _check_num_clusters(num_clusters: int, facts: RunFacts) -> None:
    num_seen = min(facts.steps_per_epoch * facts.batch_size, facts.num_images)
    if num_clusters > num_seen:
        raise UserError(
            f"config.method.num_clusters={num_clusters} is more than the {num_seen} images of an "
            f"epoch's batches; use at most {num_seen}."
        )
    if facts.num_steps <= facts.steps_per_epoch:
        raise UserError(
            f"config.run.epochs makes {facts.num_steps} steps, and the {facts.steps_per_epoch} of "
            "the first epoch fill the bank of deepcluster_v2 without training; use 2 or more."
        )
