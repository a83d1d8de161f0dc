"""Random features: open branches, the statistics of the images, and nothing else changed."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.evals.random_features import random_features
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import SSLModel


class SlowAverages(nn.Module):
    """Statistics of its input, with a momentum at which five batches move them by 5 %."""

    @nn.compact
    def __call__(self, images, *, train):
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=0.99, scale_init=nn.initializers.zeros
        )
        return norm(images).mean(axis=(1, 2))


class Blocks(nn.Module):
    """Has no statistics, and a scale that does not start at zero."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.LayerNorm(scale_init=nn.initializers.constant(0.5))(images).mean(axis=(1, 2))


def initial(model, batch):
    init = jax.jit(functools.partial(model.init, train=False))
    variables = {"batch_stats": {}, **init(jax.random.key(0), batch["image"])}
    return {name: variables[name] for name in ("params", "batch_stats")}


def update(model):
    settings = {"train": True, "method": "encode", "mutable": ["batch_stats"]}

    @jax.jit
    def statistics(variables, batch):
        return model.apply(variables, batch["image"], **settings)[1]["batch_stats"]

    return statistics


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    images = rng.normal(3, 2, (5, 64, 8, 8, 3))
    return [{"image": jnp.asarray(x, jnp.float32)} for x in images]


def test_statistics_are_those_of_the_images_whatever_the_momentum(batches):
    model = SSLModel(SlowAverages())
    start = initial(model, batches[0])
    got = random_features(start, update(model), batches)["batch_stats"]["encoder"]["BatchNorm_0"]
    pixels = np.array([batch["image"] for batch in batches], np.float64)  # [5, n, h, w, c]
    weights = 0.99 ** np.arange(4, -1, -1)
    weights /= weights.sum()
    np.testing.assert_allclose(got["mean"], weights @ pixels.mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(got["var"], weights @ pixels.var((1, 2, 3)), rtol=1e-3)


def test_scales_of_zero_become_one_and_every_weight_stays(batches):
    model = SSLModel(ResNet(18, width=0.125, stem="cifar"))
    start = initial(model, batches[0])
    params = random_features(start, update(model), batches[:1])["params"]
    before, after = (
        {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (start["params"], params)
    )
    assert before.keys() == after.keys()
    zeros = [name for name in before if name.endswith("['norm2']['scale']")]
    assert len(zeros) == 8
    for name in before:
        want = np.ones_like(before[name]) if name in zeros else before[name]
        np.testing.assert_array_equal(after[name], want, err_msg=name)


def test_an_image_changes_what_a_closed_network_hardly_sees(batches):
    model = SSLModel(ResNet(18, width=0.125, stem="cifar"))
    start = initial(model, batches[0])
    fair = random_features(start, update(model), batches[:1])
    encode = jax.jit(functools.partial(model.apply, method="encode"))
    features, blind = (encode(variables, batches[1]["image"]) for variables in (fair, start))
    contrast = lambda x: float(np.mean(np.std(x, axis=0)) / np.mean(x))
    assert contrast(features) > 2 * contrast(blind)


def test_an_encoder_without_statistics_needs_no_images():
    model = SSLModel(Blocks())
    start = initial(model, {"image": jnp.ones((1, 4, 4, 3))})
    got = random_features(start, update(model), iter(()))
    jax.tree.map(np.testing.assert_array_equal, got, start)
