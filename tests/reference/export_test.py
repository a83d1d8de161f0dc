"""Whole encoders in other frameworks: the PyTorch module everywhere, and every file format.

All weights and statistics are random and no scale is zero, so that no branch is dead; with the
golden networks PyTorch is compared with the official TensorFlow code itself.
"""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.tree import path_name
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.interop.formats import export
from simclr_jax.interop.names import official_names, tf1_name
from simclr_jax.interop.parity import photographs
from simclr_jax.models.resnet import ResNet

pytestmark = pytest.mark.reference
needs_torch = pytest.mark.interop("torch", "safetensors")
needs_onnx = pytest.mark.interop("onnx", "onnxruntime", "onnxscript")
needs_tensorflow = pytest.mark.interop("tensorflow")

GOLDEN = Path(__file__).parents[1] / "golden"
SK = 0.0625
GOLDEN_ENCODERS = {
    "r18_cifar": {"depth": 18, "stem": "cifar"},
    "r50": {"depth": 50},
    "r50_sk": {"depth": 50, "sk_ratio": SK},
}
# Settings, and the height and width of images: odd sizes tell one rule of padding from another.
ENCODERS = {
    "r18_cifar": ({"depth": 18, "stem": "cifar"}, (33, 32)),
    "r18": ({"depth": 18}, (64, 64)),
    "r18_sk_odd_width": ({"depth": 18, "sk_ratio": SK, "width": 0.3}, (76, 53)),
    "r18_torchvision": ({"depth": 18, "geometry": "torchvision", "width": 1}, (64, 64)),
    "r50": ({"depth": 50}, (64, 64)),
    "r50_torchvision": ({"depth": 50, "geometry": "torchvision", "width": 1}, (75, 53)),
    "r50_sk": ({"depth": 50, "sk_ratio": SK}, (64, 64)),
    "r50_sk_odd": ({"depth": 50, "sk_ratio": SK}, (75, 53)),
    "r50_sk_cifar": ({"depth": 50, "sk_ratio": SK, "stem": "cifar"}, (32, 32)),
}


def random_encoder(image_size: int, width: float = 0.125, **settings) -> TrainedEncoder:
    network = ResNet(width=width, **settings)
    images = jnp.zeros((1, image_size, image_size, 3))
    init = lambda: network.init(jax.random.key(0), images, train=False)
    rng = np.random.default_rng(0)

    def draw(path, x):
        if path_name(path).endswith("kernel"):
            return (np.prod(x.shape[:-1]) ** -0.5 * rng.standard_normal(x.shape)).astype("float32")
        offset = 0.5 if path_name(path).endswith(("scale", "var")) else 0
        return (offset + 0.2 * rng.uniform(size=x.shape)).astype("float32")

    variables = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))
    return TrainedEncoder(network, variables["params"], variables["batch_stats"], image_size)


def in_torch(encoder: TrainedEncoder, images: np.ndarray) -> np.ndarray:
    from simclr_jax.interop.torch_bridge import encode_with, torch_module

    return encode_with(torch_module(encoder))(images)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@needs_torch
@pytest.mark.parametrize("name", ENCODERS)
def test_the_pytorch_module_equals_the_jax_encoder(name):
    settings, size = ENCODERS[name]
    encoder = random_encoder(64, **settings)
    images = np.random.default_rng(1).uniform(size=(2, *size, 3)).astype(np.float32)
    want = jax.jit(encoder.apply)(encoder.variables, images)
    assert relative(in_torch(encoder, images), np.asarray(want)) < 1e-5


@needs_torch
@pytest.mark.parametrize("name", GOLDEN_ENCODERS)
def test_the_pytorch_module_equals_the_official_code(name):
    network = ResNet(width=0.125, **GOLDEN_ENCODERS[name])
    paths = {official: path for path, official in official_names(network).items()}
    with np.load(GOLDEN / f"{name}_w0125.npz") as file:
        golden = {key: file[key] for key in file.files}
    tree = {}
    for key, value in golden.items():
        path = paths.get(tf1_name(key.removeprefix("w/")) or "")
        if key.startswith("w/") and path:
            *parents, leaf = path.split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value.astype(np.float32)
    x = golden["x"].astype(np.float32)
    encoder = TrainedEncoder(
        network, tree["params"]["encoder"], tree["batch_stats"]["encoder"], x.shape[1]
    )
    got = in_torch(encoder, np.concatenate([x[..., :3], x[..., 3:]]))
    assert relative(got, golden["infer/final_avg_pool"]) < 1e-5
    if "odd/x" in golden:
        got = in_torch(encoder, golden["odd/x"].astype(np.float32))
        assert relative(got, golden["odd/final_avg_pool"]) < 1e-5


FORMATS = [
    pytest.param("safetensors", "encoder.safetensors", marks=needs_torch),
    ("stablehlo", "encoder.stablehlo"),
    pytest.param("onnx", "encoder.onnx", marks=[needs_torch, needs_onnx]),
    pytest.param("saved_model", "encoder", marks=needs_tensorflow),
]


@pytest.mark.parametrize(("format_name", "output"), FORMATS)
def test_a_selective_kernel_network_goes_out_in_every_format(format_name, output, tmp_path):
    encoder = random_encoder(65, depth=50, sk_ratio=SK, dtype="bfloat16")
    check_export(encoder, format_name, tmp_path / output)


@pytest.mark.parametrize(
    ("format_name", "output"),
    [*FORMATS, pytest.param("timm", "timm.safetensors", marks=needs_torch)],
)
@pytest.mark.parametrize("settings", [{}, {"pool": "mean", "learned_positions": 24}])
def test_a_vit_goes_out_in_every_format(format_name, output, settings, trained_vit, tmp_path):
    encoder = trained_vit(dtype="bfloat16", **settings)
    check_export(encoder, format_name, tmp_path / output)


def check_export(encoder, format_name, path):
    found, _ = export(encoder, path, format_name)
    assert [*path.parent.iterdir()] == [path]
    assert found.relative < 1e-5


@needs_torch
@needs_onnx
def test_an_onnx_graph_takes_any_batch_and_holds_its_weights(tmp_path):
    onnx = importlib.import_module("onnx")
    from simclr_jax.interop import onnx_format

    encoder = random_encoder(20, depth=18)
    path = tmp_path / "encoder.onnx"
    onnx_format.write(encoder, path)
    assert [*tmp_path.iterdir()] == [path], "weights inside, not in a second file"
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert model.opset_import[0].version == 18
    images = photographs(20)
    want = encoder.encode(images)
    for n in (1, 5):
        assert relative(onnx_format.read(path)(images[:n]), want[:n]) < 1e-5


@needs_torch
def test_the_geometry_of_torchvision_goes_out_exactly_and_the_official_one_does_not(tmp_path):
    path = tmp_path / "resnet.safetensors"
    exact = random_encoder(64, depth=18, width=1, geometry="torchvision")
    assert export(exact, path, "torchvision").difference.relative < 1e-5
    path.unlink()
    official = random_encoder(64, depth=50, width=1)
    with pytest.raises(ValueError, match=r"by 0.0\d+ of the largest feature.*pads both sides"):
        export(official, path, "torchvision")
    assert not [*tmp_path.iterdir()]
