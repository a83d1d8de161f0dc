"""The safetensors file: names, values, metadata, and what its reader computes."""

import json

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.interop import safetensors_format
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.interop.formats import export

pytestmark = pytest.mark.interop
pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")
numpy_format = pytest.importorskip("safetensors.numpy")


def test_holds_every_tensor_under_its_path_and_the_settings(trained_encoder, tmp_path):
    encoder = trained_encoder(sk_ratio=0.0625)
    path = tmp_path / "encoder.safetensors"
    safetensors_format.write(encoder, path)
    loaded = numpy_format.load_file(path)
    wanted = {**encoder.tensors()}
    assert loaded.keys() == wanted.keys()
    kernel = "params/encoder/stage1/block0/conv1/kernel"
    np.testing.assert_array_equal(
        loaded[kernel], encoder.params["stage1"]["block0"]["conv1"]["kernel"]
    )
    for name, want in wanted.items():
        np.testing.assert_array_equal(loaded[name], want, err_msg=name)
    with safetensors.safe_open(str(path), framework="np") as file:
        metadata = file.metadata()
    assert metadata["simclr_jax"] == "1"
    assert metadata["image_size"] == "20"
    assert json.loads(metadata["encoder"]) == encoder.settings


def test_a_transposed_kernel_is_noticed(trained_encoder, monkeypatch, tmp_path):
    encoder = trained_encoder(stem="cifar")
    path = tmp_path / "encoder.safetensors"
    right = export(encoder, path, "safetensors")
    assert right.difference.relative < 1e-5
    tensors = encoder.tensors()
    name = "params/encoder/stage4/block1/conv2/kernel"
    tensors[name] = np.ascontiguousarray(tensors[name].swapaxes(0, 1))
    monkeypatch.setattr(TrainedEncoder, "tensors", lambda self: tensors)
    with pytest.raises(UserError, match="differs from the JAX encoder"):
        export(encoder, tmp_path / "wrong.safetensors", "safetensors")
    assert [*tmp_path.iterdir()] == [path]
