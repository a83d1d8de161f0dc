"""SSLModel: what it returns, and where its variables live."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.heads import MLP
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import ENCODERS, SSLModel
from tests.helpers import apply

IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 8, 8, 3)), jnp.float32)


class TinyEncoder(nn.Module):
    """SSLModel takes any module that maps images to vectors."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(24)(images.mean(axis=(1, 2)))
        return nn.BatchNorm(use_running_average=not train, name="norm")(x)


@pytest.fixture(scope="module")
def model():
    return SSLModel(TinyEncoder(), MLP(num_layers=2, output_dim=16))


@pytest.fixture(scope="module")
def variables(model):
    return jax.jit(lambda key: model.init(key, IMAGES, train=False))(jax.random.key(0))


def test_variables_live_under_encoder_and_projector():
    model = SSLModel(ResNet(18, width=0.125, stem="cifar"), MLP())
    init = lambda key: model.init(key, IMAGES, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0))
    assert shapes.keys() == {"params", "batch_stats"}
    for collection in shapes.values():
        assert collection.keys() == {"encoder", "projector"}
    assert "kernel" in shapes["params"]["encoder"]["stage3"]["block0"]["conv2"]


def test_hiddens_run_from_representation_to_projection(model, variables):
    out = model.apply(variables, IMAGES, train=False)
    assert out.keys() == {"representation", "hiddens", "projection"}
    assert [x.shape for x in out["hiddens"]] == [(4, 24), (4, 24), (4, 16)]
    assert out["hiddens"][0] is out["representation"]
    assert out["hiddens"][-1] is out["projection"]
    assert float(out["hiddens"][1].min()) == 0.0  # after its relu


def test_encode_is_the_representation_at_inference(model, variables):
    encoded = model.apply(variables, IMAGES, method="encode")
    wanted = model.apply(variables, IMAGES, train=False)["representation"]
    np.testing.assert_array_equal(encoded, wanted)


def test_without_projector_the_representation_is_all(model, variables):
    bare = SSLModel(model.encoder)
    only = {name: {"encoder": tree["encoder"]} for name, tree in variables.items()}
    out = apply(bare, only, IMAGES, train=False)
    assert out.keys() == {"representation", "hiddens"}
    assert len(out["hiddens"]) == 1


def test_training_moves_the_statistics_of_encoder_and_projector(model, variables):
    _, moved = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    for part, layer in (("encoder", "norm"), ("projector", "norm2")):
        before = variables["batch_stats"][part][layer]["var"]
        assert float(jnp.abs(moved["batch_stats"][part][layer]["var"] - before).max()) > 0


def test_encoders_are_found_by_name():
    encoder = ENCODERS["resnet"](depth=50)
    assert isinstance(encoder, ResNet)
    assert encoder.depth == 50
