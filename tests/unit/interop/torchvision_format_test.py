"""The torchvision state dict: its names, its layout, its classifier, and what it cannot hold."""

import dataclasses

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.interop import torchvision_format
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.models.resnet import ResNet

pytestmark = pytest.mark.interop
pytest.importorskip("torch")
numpy_format = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def resnet18(trained_encoder):
    return trained_encoder(width=1, geometry="torchvision")


def test_writes_names_layout_and_counters_of_torchvision(resnet18, tmp_path):
    path = tmp_path / "resnet18.safetensors"
    usage = torchvision_format.write(resnet18, path)
    state = numpy_format.load_file(path)
    assert len(state) == 122  # 20 convolutions and BatchNorms, and fc
    kernel = np.asarray(resnet18.params["stage2"]["block0"]["shortcut_conv"]["kernel"])
    np.testing.assert_array_equal(
        state["layer2.0.downsample.0.weight"], np.einsum("hwio->oihw", kernel)
    )
    np.testing.assert_array_equal(
        state["bn1.running_var"], resnet18.batch_stats["stem_norm"]["var"]
    )
    assert state["bn1.num_batches_tracked"].shape == ()
    assert state["bn1.num_batches_tracked"].dtype == np.int64
    assert state["fc.weight"].shape == (1000, 512)
    assert not state["fc.weight"].any()
    assert not state["fc.bias"].any()
    assert "1000 classes, are zeros" in usage


def test_takes_the_classifier_of_the_run(resnet18, tmp_path):
    kernel = np.arange(512 * 7, dtype=np.float32).reshape(512, 7)
    encoder = dataclasses.replace(resnet18, classifier={"kernel": kernel, "bias": kernel[0]})
    path = tmp_path / "resnet18.safetensors"
    usage = torchvision_format.write(encoder, path)
    state = numpy_format.load_file(path)
    np.testing.assert_array_equal(state["fc.weight"], kernel.T)
    np.testing.assert_array_equal(state["fc.bias"], kernel[0])
    assert "7 classes, are the run's classifier" in usage


def test_what_is_read_back_computes_what_the_encoder_does(resnet18, tmp_path):
    path = tmp_path / "resnet18.safetensors"
    torchvision_format.write(resnet18, path)
    images = np.random.default_rng(0).uniform(size=(2, 20, 20, 3)).astype(np.float32)
    want = resnet18.encode(images)
    got = torchvision_format.read(path)(images)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 200}, "no ResNet-200"),
        ({"stem": "cifar"}, "no stem 'cifar'"),
        ({"width": 0.5}, "only ResNets of width 1"),
        ({"sk_ratio": 0.0625}, "without selective kernels"),
        ({}, "one convolution less.*geometry='torchvision'"),
    ],
)
def test_names_what_torchvision_does_not_have(settings, message, tmp_path):
    encoder = TrainedEncoder(ResNet(**{"depth": 18} | settings), {}, {}, 32)
    with pytest.raises(UserError, match=message) as error:
        torchvision_format.write(encoder, tmp_path / "x.safetensors")
    assert "--format=safetensors" in str(error.value)
    assert not [*tmp_path.iterdir()]
