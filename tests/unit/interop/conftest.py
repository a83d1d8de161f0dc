"""Encoders with random weights in every branch, for all exports."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.tree import path_name
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.models.resnet import ResNet


@pytest.fixture
def trained_encoder():
    """Returns a function that makes one; a scale of zero would hide a branch, so none is."""

    def make(image_size: int = 20, **settings) -> TrainedEncoder:
        network = ResNet(**({"depth": 18, "width": 0.125} | settings))
        images = jnp.zeros((1, image_size, image_size, 3))
        init = lambda: network.init(jax.random.key(0), images, train=False)
        rng = np.random.default_rng(0)

        def draw(path, x):
            if path_name(path).endswith("kernel"):
                scale = np.prod(x.shape[:-1]) ** -0.5
                return (scale * rng.standard_normal(x.shape)).astype(np.float32)
            offset = 0.5 if path_name(path).endswith(("scale", "var")) else 0
            return (offset + 0.2 * rng.uniform(size=x.shape)).astype(np.float32)

        variables = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))
        return TrainedEncoder(network, variables["params"], variables["batch_stats"], image_size)

    return make
