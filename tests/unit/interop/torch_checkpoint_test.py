"""Weights of torchvision and timm: what is recognised, what is refused, and where pixels go."""

import jax
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.interop import timm_format
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.vit import ViT

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from simclr_jax.interop import torch_resnet, torch_vit  # noqa: E402  # import torch
from simclr_jax.interop.torch_checkpoint import read_state_dict  # noqa: E402  # likewise

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    module = torch_vit.ViT("tiny", 4, 16, learned_positions=16).eval()
    for x in module.parameters():
        torch.nn.init.normal_(x, std=0.1)
    return module


@pytest.fixture
def saved(tmp_path):
    """Returns a function that writes tensors to a file and names it."""

    def save(tensors):
        path = str(tmp_path / "weights.safetensors")
        safetensors_torch.save_file(tensors, path)
        return path

    return save


def test_a_vit_takes_mean_and_deviation_into_its_patch_projection(vit, saved):
    imported = read_state_dict(saved(vit.state_dict()), normalization="imagenet")
    assert imported.network.encoder == ViT("tiny", patch=4, learned_positions=16)
    images = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype(np.float32)
    mean, std = np.array(IMAGENET, np.float32)
    with torch.inference_mode():
        want = vit(torch.tensor(((images - mean) / std).transpose(0, 3, 1, 2))).numpy()
    variables = {"params": imported.variables["params"]["encoder"]}
    apply = jax.jit(lambda x: imported.network.encoder.apply(variables, x, train=False))
    np.testing.assert_allclose(apply(images), want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_resnet_has_mean_and_deviation_as_settings_and_its_weights_as_they_are(saved):
    state = torch_resnet.ResNet(18, geometry="torchvision").state_dict()
    state |= {"fc.weight": torch.ones(7, 512), "fc.bias": torch.zeros(7)}
    imported = read_state_dict(saved(state), normalization="imagenet")
    network, (mean, std) = imported.network, IMAGENET
    want = ResNet(18, geometry="torchvision", input_mean=mean, input_std=std)
    assert network.encoder == want
    assert network.num_classes == 7
    assert network.ignored == {"counter": 20}, "num_batches_tracked, of each BatchNorm"
    kernel = imported.variables["params"]["encoder"]["stage2"]["block0"]["conv1"]["kernel"]
    want = state["layer2.0.conv1.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, want)
    plain = read_state_dict(saved(state), normalization="none").network.encoder
    assert plain == ResNet(18, geometry="torchvision")


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_weights_of_other_types_become_float32(vit, saved, dtype):
    state = {name: x.to(getattr(torch, dtype)) for name, x in vit.state_dict().items()}
    params = read_state_dict(saved(state), normalization="none").variables["params"]["encoder"]
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
    want = state["norm.weight"].float().numpy()
    np.testing.assert_array_equal(params["norm"]["scale"], want)


@pytest.mark.parametrize("settings", [{"learned_positions": 16}, {"pool": "mean"}])
def test_what_went_out_for_timm_comes_in_again(settings, trained_vit, tmp_path):
    encoder = trained_vit(**settings)
    path = tmp_path / "x.safetensors"
    timm_format.write(encoder, path)
    imported = read_state_dict(str(path), normalization="none")
    assert imported.network.encoder == encoder.network.clone(learned_positions=16)
    own = {name: x for name, x in imported.variables["params"]["encoder"].items()}
    if "positions" not in encoder.params:
        own.pop("positions")
    jax.tree.map(np.testing.assert_array_equal, own, encoder.params)


def without(name):
    return lambda state: state.pop(name)


def with_tensor(name, *shape, dtype=torch.float32):
    return lambda state: state.update({name: torch.zeros(shape, dtype=dtype)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("norm.bias"), r"closest network. 1 missing: norm.bias"),
        (with_tensor("norm.bias", 9), r"norm.bias is \[9\] and should be \[128\]"),
        (with_tensor("fc_norm.weight", 128), r"1 not in it: fc_norm.weight.*after the mean"),
        (with_tensor("reg_token", 1, 4, 128), r"it has register tokens"),
        (with_tensor("norm.bias", 128, dtype=torch.int32), r"norm.bias is I32"),
        (
            with_tensor("patch_embed.proj.weight", 192, 3, 4, 4),
            r"ViT of 4 blocks.*\[192, 3, 4, 4\]",
        ),
        (with_tensor("patch_embed.proj.weight", 128, 3, 4, 2), r"square patches"),
        (without("pos_embed"), r"a ViT without positions: pos_embed"),
        (without("patch_embed.proj.weight"), r"no network that can be read: neither conv1.weight"),
    ],
)
def test_what_cannot_be_read_is_named(vit, saved, change, message):
    state = vit.state_dict()
    change(state)
    path = saved(state)
    with pytest.raises(UserError, match=rf"(?s)weights.safetensors.*{message}"):
        read_state_dict(path, normalization="none")


def test_the_number_of_heads_is_taken_as_it_is_given(vit, saved):
    imported = read_state_dict(saved(vit.state_dict()), normalization="none", num_heads=4)
    assert imported.network.encoder.num_heads == 4
    with pytest.raises(UserError, match=r"num_heads must divide .* 128, got 3"):
        read_state_dict(saved(vit.state_dict()), normalization="none", num_heads=3)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle, perhaps", b"\xff" * 100])
def test_a_pickle_or_a_broken_file_is_not_opened(tmp_path, content):
    path = tmp_path / "model.pth"
    with pytest.raises(UserError, match=r"is not a file; it must be a .safetensors file"):
        read_state_dict(str(path), normalization="none")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read as a safetensors file.*save_file"):
        read_state_dict(str(path), normalization="none")
