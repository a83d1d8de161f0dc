"""ViTs in PyTorch and under timm's names: parity with plain torch, names, settings, round trips."""

import dataclasses
import json
import math

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.interop import safetensors_format, timm_format, torchvision_format
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.interop.formats import export
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.vit import ViT

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
safetensors_torch = pytest.importorskip("safetensors.torch")

from simclr_jax.interop import torch_vit  # noqa: E402  # imports torch
from simclr_jax.interop.torch_bridge import torch_module  # noqa: E402  # likewise

IMAGES = np.random.default_rng(1).uniform(size=(3, 16, 16, 3)).astype(np.float32)


def plain_torch(state, images, *, heads, mean_pool=False):
    """The forward pass of timm's VisionTransformer, written out on its state dict."""
    f = torch.nn.functional
    x = torch.tensor(images.transpose(0, 3, 1, 2))
    kernel = state["patch_embed.proj.weight"]
    bias = state.get("patch_embed.proj.bias")
    x = f.conv2d(x, kernel, bias, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    if not mean_pool:
        x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + state["pos_embed"]
    norm = lambda x, name: f.layer_norm(
        x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6
    )
    linear = lambda x, name: f.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
    x = norm(x, "norm_pre") if "norm_pre.weight" in state else x
    for i in range(len({name.split(".")[1] for name in state if name.startswith("blocks.")})):
        y = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        n, t, width = x.shape
        q, k, v = (part.reshape(n, t, heads, -1).transpose(1, 2) for part in y.split(width, -1))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(width // heads)).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(n, t, width)
        x = x + linear(y, f"blocks.{i}.attn.proj")
        y = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        x = x + linear(f.gelu(y), f"blocks.{i}.mlp.fc2")
    x = norm(x, "norm")
    return (x.mean(1) if mean_pool else x[:, 0]).numpy()


def relative(got, want):
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {"heads": 2}),
        ({"pool": "mean", "learned_positions": 24}, {"heads": 2, "mean_pool": True}),
        ({"pre_norm": True, "num_heads": 4, "learned_positions": 16}, {"heads": 4}),
    ],
)
def test_every_torch_file_computes_what_the_encoder_does(settings, options, trained_vit, tmp_path):
    encoder = trained_vit(**settings)
    want = encoder.encode(IMAGES)
    timm, own = tmp_path / "timm.safetensors", tmp_path / "own.safetensors"
    for path, format_name in ((timm, "timm"), (own, "safetensors")):
        assert export(encoder, path, format_name).difference.relative < 1e-5
    state = safetensors_torch.load_file(timm)
    assert relative(plain_torch(state, IMAGES, **options), want) < 1e-5
    with torch.inference_mode():
        images = torch.tensor(IMAGES.transpose(0, 3, 1, 2))
        assert relative(torch_vit.load_encoder(str(own))(images).numpy(), want) < 1e-5


@pytest.mark.parametrize("learned_positions", [None, 16])
def test_images_of_other_sizes_get_the_positions_of_the_encoder(learned_positions, trained_vit):
    encoder = trained_vit(learned_positions=learned_positions)
    images = np.random.default_rng(2).uniform(size=(2, 24, 8, 3)).astype(np.float32)
    with torch.inference_mode():
        got = torch_module(encoder)(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    assert relative(got, encoder.encode(images)) < 1e-5


def test_the_file_for_timm_has_its_names_and_says_how_to_load_them(trained_vit, tmp_path):
    encoder = trained_vit()
    kernel = np.arange(128 * 7, dtype=np.float32).reshape(128, 7)
    encoder = dataclasses.replace(encoder, classifier={"kernel": kernel, "bias": kernel[0]})
    usage = timm_format.write(encoder, tmp_path / "x.safetensors")
    state = safetensors_torch.load_file(tmp_path / "x.safetensors")
    block = [f"{layer}.{leaf}" for layer in ("norm1", "norm2") for leaf in ("weight", "bias")]
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    block += [f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")]
    names = {f"blocks.{i}.{name}" for i in range(4) for name in block}
    names |= {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert state.keys() == names | {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert state["pos_embed"].shape == (1, 17, 128)
    np.testing.assert_array_equal(state["head.weight"], kernel.T)
    assert "num_classes=7, embed_dim=128, depth=4, num_heads=2, patch_size=4, img_size=16" in usage


def test_published_sizes_need_no_more_than_their_name():
    assert timm_format._arguments(ViT("s"), 224, 0) == "'vit_small_patch16_224', num_classes=0"
    arguments = timm_format._arguments(ViT("b", 8, num_heads=6, pool="mean"), 96, 10)
    assert arguments == (
        "'vit_base_patch16_224', num_classes=10, num_heads=6, patch_size=8, img_size=96, "
        "class_token=False, global_pool='avg', fc_norm=False"
    )


def test_each_format_names_the_one_for_the_other_kind(trained_vit, tmp_path):
    with pytest.raises(UserError, match=r"--format=timm is for ViTs.*--format=torchvision"):
        timm_format.write(TrainedEncoder(ResNet(18), {}, {}, 32), tmp_path / "x")
    with pytest.raises(UserError, match=r"--format=torchvision is for ResNets.*--format=timm"):
        torchvision_format.write(trained_vit(), tmp_path / "x")


def test_wrong_settings_of_a_file_are_named(trained_vit, tmp_path):
    path = tmp_path / "x.safetensors"
    encoder = trained_vit()
    safetensors_format.write(encoder, path)
    with safetensors.safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["kind"] == "vit"
    assert json.loads(metadata["encoder"]) == encoder.settings
    for change, message in (
        ({"size": "xl"}, "No such ViT: size='xl'"),
        ({"patch": True}, "its setting patch has the value True"),
        ({"extra": 1}, "its settings must be size, patch"),
    ):
        settings = json.dumps({**encoder.settings, **change})
        import_file = {**metadata, "encoder": settings}
        safetensors_numpy.save_file(encoder.tensors(), str(path), import_file)
        with pytest.raises(ValueError, match=f"(?s)x.safetensors.*{message}"):
            torch_vit.load_encoder(str(path))
