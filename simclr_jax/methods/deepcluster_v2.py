"""DeepCluster v2: learn to tell clusters apart that k-means finds anew in each epoch.

Caron et al. 2020, https://arxiv.org/abs/2006.09882, Appendix; the first DeepCluster: Caron et al.
2018, https://arxiv.org/abs/1807.05520
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.augment.policies import Augment
from simclr_jax.core.errors import UserError
from simclr_jax.core.ranges import Count, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.clusters import assigned_entropy
from simclr_jax.losses.kmeans import spherical_kmeans
from simclr_jax.losses.similarity import at_least_float32, l2_normalize, unit_std
from simclr_jax.methods.bank import BANK_RULE, num_bank_rows, read_bank, write_bank
from simclr_jax.methods.base import (
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
    num_clusters: Count = 3000,
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
    i by view i % 2, from k of them that are drawn at random.

    Args:
      model: with a projector.
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
      UserError: if there are more clusters than images.
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_heads(model, "deepcluster_v2", "projector")
    check_grad_cache_chunks(grad_cache_chunks)
    num_seen = min(facts.steps_per_epoch * facts.batch_size, facts.num_images)
    if num_clusters > num_seen:
        raise UserError(
            f"config.method.num_clusters={num_clusters} is more than the {num_seen} images of an "
            f"epoch's batches; use at most {num_seen}."
        )
    num_rows, width = num_bank_rows(facts), projection_width(model)

    def init(key: PRNGKey, views: Views) -> Variables:
        check_global_views(views, "deepcluster_v2")
        variables = init_model(model, key, views, several_sizes=True)
        bank = {
            "rows": jnp.zeros((num_rows, 2, width), jnp.float32),
            "clusters": jnp.full((num_rows, num_clusterings), -1, jnp.int32),
        }
        centroids = jnp.zeros((num_clusterings, num_clusters, width), jnp.float32)
        return variables._replace(method_state={"bank": bank, "centroids": centroids})

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        dropout_key, start_key = jax.random.split(key)
        out, batch_stats = apply_model(
            model,
            params,
            state.batch_stats,
            views,
            key=dropout_key,
            grad_cache_chunks=grad_cache_chunks,
        )
        z = l2_normalize(at_least_float32(by_image(out["projection"], views)))  # [b, v, d]
        clusters = read_bank(state.method_state["bank"]["clusters"], batch["id"])
        value = assigned_entropy(
            z, state.method_state["centroids"], clusters, temperature=temperature
        )
        rows = jax.lax.stop_gradient(z[:, :2])
        metrics = {
            "loss": value,
            "loss_chance": jnp.log(float(num_clusters)),
            "assigned": (clusters >= 0).mean(dtype=jnp.float32),
            "projection_std": unit_std(rows),
        }
        carry = {"ids": batch["id"], "rows": rows, "key": start_key}
        return value, StepOutput(batch_stats, metrics, carry=carry)

    def clustered(rows: Float[Array, "n 2 d"], key: PRNGKey) -> Any:
        """Returns clusters [n, h] and centroids [h, k, d] of all images with a row."""
        # As many rows in a tile as images in a batch, some of each device's in every tile.
        tiles = rows.reshape(facts.batch_size, -1, 2, width).swapaxes(0, 1)
        known = jnp.any(tiles[:, :, 0] != 0, axis=-1)

        def one(i: Array) -> Any:
            view = jax.lax.dynamic_index_in_dim(tiles, i % 2, axis=2, keepdims=False)
            order = jax.random.uniform(jax.random.fold_in(key, i), known.shape)
            _, chosen = jax.lax.top_k(jnp.where(known, order, -1.0).reshape(-1), num_clusters)
            start = view[chosen // facts.batch_size, chosen % facts.batch_size]
            return spherical_kmeans(view, known, start, iterations=iterations)

        centroids, clusters = jax.lax.map(one, jnp.arange(num_clusterings))
        by_row = clusters.transpose(2, 1, 0).reshape(num_rows, num_clusterings)
        return by_row, centroids

    def after_update(state: TrainState, carry: Any) -> Any:
        bank, centroids = state.method_state["bank"], state.method_state["centroids"]
        rows = write_bank(bank["rows"], carry["ids"], carry["rows"])
        clusters, centroids = jax.lax.cond(
            state.step % facts.steps_per_epoch == 0,
            lambda: clustered(rows, carry["key"]),
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
