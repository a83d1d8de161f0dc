"""Encoders with random weights in every branch, for all exports."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.tree import path_name
from simclr_jax.data.text import EDGES, Tokenizer
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.interop.text_tower import TrainedText, TrainedTowers
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.text import TextTransformer


@pytest.fixture
def trained_encoder():
    """Returns a function that makes one; a scale of zero would hide a branch, so none is."""

    def make(image_size: int = 20, channels: int = 3, **settings) -> TrainedEncoder:
        network = ResNet(**({"depth": 18, "width": 0.125} | settings))
        images = jnp.zeros((1, image_size, image_size, channels))
        init = lambda: network.init(jax.random.key(0), images, train=False)
        rng = np.random.default_rng(0)

        def draw(path, x):
            if path_name(path).endswith("kernel"):
                scale = np.prod(x.shape[:-1]) ** -0.5
                return (scale * rng.standard_normal(x.shape)).astype(np.float32)
            offset = 0.5 if path_name(path).endswith(("scale", "var")) else 0
            return (offset + 0.2 * rng.uniform(size=x.shape)).astype(np.float32)

        variables = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))
        return TrainedEncoder(
            network,
            variables["params"],
            variables["batch_stats"],
            image_size,
            channels=channels,
        )

    return make


@pytest.fixture
def trained_towers(trained_vit):
    """Returns a function that makes towers with projectors, of images a tiny ViT or a given one."""

    def make(image=None, bias=None, *, start_first=True, **settings) -> TrainedTowers:
        tokenizers = pytest.importorskip("tokenizers")
        edges = [*EDGES[0]]
        words = {str(i): i + 2 for i in range(30)}
        vocabulary = {edges[0]: 0, edges[1]: 1} | words
        if not start_first:  # as in OpenAI's vocabulary, where they are the last
            vocabulary = {**{word: i - 2 for word, i in words.items()}, edges[0]: 30, edges[1]: 31}
        json = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="0")).to_str()
        tokenizer = Tokenizer(json, 9, "made up")
        small = dict[str, Any](num_tokens=32, context=9, width=16, depth=2, num_heads=2)
        network = TextTransformer(**small | settings)
        texts = jnp.ones((1, 9), jnp.int32)
        init = lambda: network.init(jax.random.key(0), texts, texts[:, 0], train=False)
        rng = np.random.default_rng(1)

        def draw(path, x):
            values = rng.standard_normal(x.shape) * (x.shape[0] ** -0.5 if x.ndim > 1 else 0.2)
            return (values + path_name(path).endswith("scale")).astype(np.float32)

        params = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init)["params"])
        kernel = lambda d: rng.standard_normal((d, 6)).astype(np.float32)
        text = TrainedText(network, params, kernel(16), tokenizer)
        vit = image or trained_vit(pre_norm=True, learned_positions=16)
        one = jax.ShapeDtypeStruct((1, *vit.inputs()["images"].shape), jnp.float32)
        width = jax.eval_shape(vit.apply, vit.variables, one).shape[1]
        return TrainedTowers(dataclasses.replace(vit, projection=kernel(width)), text, 14.5, bias)

    return make
