"""Views as training sees them, for people to look at."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from simclr_jax.build.experiment import Experiment
from simclr_jax.core import rng
from simclr_jax.core.types import Batch
from simclr_jax.data.decode import as_rgb
from simclr_jax.data.place import place_batches
from simclr_jax.data.quarantine import Quarantine


def augmented_views(experiment: Experiment, num_images: int) -> np.ndarray:
    """Returns views of some images as training sees them, uint8 [m, v, h, w, 3].

    Images without exactly three channels are shown as by `decode.as_rgb`, and so are spectrograms.
    Views smaller than the largest are at the top left of a black one.
    """
    num_images = min(num_images, len(experiment.source))
    rows = -(-num_images // experiment.mesh.size) * experiment.mesh.size  # the mesh can split them
    first = dataclasses.replace(experiment.dataset, batch_size=rows).train_batches(
        experiment.source,
        experiment.policy.cuts,
        seed=experiment.run.seed,
        first_step=0,
        num_steps=1,
        quarantine=Quarantine(),
    )
    (batch,) = place_batches(first, experiment.mesh)
    key = rng.stream(jax.random.key(experiment.run.seed), "augment", 0)
    height, width, _ = experiment.policy.shape

    def one_size(views: jax.Array) -> jax.Array:
        below, beside = height - views.shape[2], width - views.shape[3]
        padding = [(0, 0), (0, 0), (0, below), (0, beside), (0, 0)]
        return jnp.pad(jnp.clip(jnp.round(views.astype(jnp.float32) * 255), 0, 255), padding)

    @jax.jit
    def views(batch: Batch) -> jax.Array:
        by_size = jax.tree.leaves(experiment.method.augment(key, batch))
        return jnp.concatenate([*map(one_size, by_size)], axis=1)

    shown = multihost_utils.process_allgather(views(batch), tiled=True)
    return as_rgb(np.asarray(shown)[:num_images].astype(np.uint8))
