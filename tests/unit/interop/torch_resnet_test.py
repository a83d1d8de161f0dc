"""The PyTorch module: names, settings, broken files, and fine-tuning as README shows it."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.interop import safetensors_format
from simclr_jax.interop.formats import export
from simclr_jax.interop.parity import photographs

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from simclr_jax.interop import torch_resnet  # noqa: E402  # imports torch
from simclr_jax.interop.torch_bridge import torch_module  # noqa: E402  # likewise

SIZES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
SIZES[152] = (3, 8, 36, 3)


def torchvision_names(depth: int) -> list[str]:
    """State dict of torchvision's ResNet, without fc, written from its source."""
    norm = lambda name: [
        f"{name}.{leaf}"
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    pair = lambda conv, bn: [f"{conv}.weight", *norm(bn)]
    names = pair("conv1", "bn1")
    num_convs = 2 if depth < 50 else 3
    for i, num_blocks in enumerate(SIZES[depth], start=1):
        for j in range(num_blocks):
            block = f"layer{i}.{j}"
            for k in range(1, num_convs + 1):
                names += pair(f"{block}.conv{k}", f"{block}.bn{k}")
            if j == 0 and (i > 1 or depth >= 50):
                names += pair(f"{block}.downsample.0", f"{block}.downsample.1")
    return names


@pytest.fixture
def exported(trained_encoder, tmp_path):
    path = tmp_path / "encoder.safetensors"
    safetensors_format.write(trained_encoder(stem="cifar"), path)
    return path


@pytest.mark.parametrize("depth", SIZES)
def test_has_the_names_of_torchvision_in_its_order(depth):
    with torch.device("meta"):
        state = torch_resnet.ResNet(depth, geometry="torchvision").state_dict()
    assert [*state] == torchvision_names(depth)
    assert len(torchvision_names(50)) + 2 == 320, "fc.weight and fc.bias complete the 320"


@pytest.mark.parametrize("settings", [{"stem": "cifar"}, {"sk_ratio": 0.0625}])
def test_an_encoder_of_four_channels_is_the_same(settings, trained_encoder, tmp_path):
    found, usage = export(
        trained_encoder(channels=4, **settings), tmp_path / "four.safetensors", "safetensors"
    )
    assert found.relative < 1e-5
    assert "Images are [n, 4, h, w]" in usage


def test_the_official_geometry_has_one_shortcut_more_in_depth_18():
    with torch.device("meta"):
        state = torch_resnet.ResNet(18).state_dict()
    more = state.keys() - torchvision_names(18)
    assert {name.rpartition(".")[0] for name in more} == {
        "layer1.0.downsample.0",
        "layer1.0.downsample.1",
    }
    with torch.device("meta"):
        assert [*torch_resnet.ResNet(50).state_dict()] == torchvision_names(50)


def test_other_layers_have_names_that_say_what_they_are():
    with torch.device("meta"):
        names = torch_resnet.ResNet(50, 2, 0.0625).state_dict()
    block = {name.split(".")[2] for name in names if name.startswith("layer3.1.")}
    assert block == {"conv1", "bn1", "sk", "conv3", "bn3"}
    selective = {name.split(".")[3] for name in names if name.startswith("layer3.1.sk")}
    assert selective == {"conv", "bn", "squeeze_conv", "squeeze_bn", "select_conv"}
    assert {"conv1.0.weight", "conv1.1.bias", "conv1.6.weight", "bn1.weight"} < names.keys()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("params/encoder/stem_conv/kernel", "conv1.weight"),
        ("batch_stats/encoder/stem_norm/mean", "bn1.running_mean"),
        ("params/encoder/stem_norm2/scale", "conv1.4.weight"),
        ("params/encoder/stage3/block10/norm2/bias", "layer3.10.bn2.bias"),
        (
            "batch_stats/encoder/stage4/block0/shortcut_norm/var",
            "layer4.0.downsample.1.running_var",
        ),
        ("params/encoder/stage1/block1/sk/squeeze_norm/scale", "layer1.1.sk.squeeze_bn.weight"),
        ("params/projector/dense1/kernel", "projector.weight"),
    ],
)
def test_each_path_has_one_name(path, name):
    assert torch_resnet.state_dict_name(path) == name


def test_needs_nothing_of_this_package_and_no_jax(tmp_path):
    (tmp_path / "copied.py").write_bytes(Path(torch_resnet.__file__).read_bytes())
    program = (
        "import sys, copied; copied.ResNet(18, 0.125); "
        "print([m for m in ('jax', 'flax', 'simclr_jax') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_training_mode_normalises_with_the_batch_and_moves_the_statistics(trained_encoder):
    encoder = trained_encoder(depth=50, sk_ratio=0.0625, width=1 / 32)
    images = photographs(20)
    train = jax.jit(
        lambda variables: encoder.network.apply(
            variables, jnp.asarray(images), train=True, mutable=["batch_stats"]
        )
    )
    want, updated = train(encoder.variables)
    module = torch_module(encoder).train()
    got = module(torch.tensor(images).permute(0, 3, 1, 2))
    # Few rows and pixels: BatchNorm amplifies rounding.
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=1e-3 * np.abs(want).max())
    ours = updated["batch_stats"]["stem_norm1"]
    state = module.state_dict()
    np.testing.assert_allclose(state["conv1.1.running_mean"], ours["mean"], rtol=1e-4)
    rows = 8 * 10 * 10  # images times pixels after the first convolution
    before = encoder.batch_stats["stem_norm1"]["var"]
    unbiased = 0.9 * before + (ours["var"] - 0.9 * before) * rows / (rows - 1)
    np.testing.assert_allclose(state["conv1.1.running_var"], unbiased, rtol=1e-4)


def test_five_lines_fine_tune_an_exported_encoder(exported):
    images = torch.tensor(photographs(20)).permute(0, 3, 1, 2)
    labels = torch.arange(8) // 4

    encoder = torch_resnet.load_encoder(str(exported)).train()
    model = torch.nn.Sequential(encoder, torch.nn.Linear(encoder.output_dim, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        assert all(x.grad is not None and x.grad.abs().max() > 0 for x in model.parameters())
        optimizer.step()
    assert losses[-1] < losses[0] / 2


def rewrite(path, *, metadata=None, change=lambda tensors: None):
    """Writes a file again with other metadata, or after `change` of its tensors."""
    settings = {"depth": 18, "width": 0.125, "sk_ratio": 0.0}
    settings |= {"stem": "cifar", "geometry": "official"}
    if isinstance(metadata, dict):
        metadata = {"simclr_jax": "1", "encoder": json.dumps(settings | metadata)}
    tensors = safetensors_torch.load_file(path)
    change(tensors)
    safetensors_torch.save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, r"no encoder that this code can read.*simclr_jax=None"),
        ({"depth": 19}, r"No such ResNet: depth=19"),
        ({"width": float("nan")}, r"No such ResNet.*nan"),
        ({"width": float("inf")}, r"No such ResNet.*inf"),
        ({"width": "1"}, r"setting width has the value '1'"),
        ({"width": 0.25}, r"size mismatch for conv1"),
        ({"depth": True}, r"setting depth has the value True"),
        ({"stem": "svhn"}, r"stem='svhn'"),
        ({"depth": 34}, r"Missing key.*layer1.2.conv1.weight"),
        ({"unknown": 1}, r"settings must be depth, width, sk_ratio, stem, geometry"),
    ],
)
def test_names_what_is_wrong_with_the_settings_of_a_file(exported, metadata, message):
    rewrite(exported, metadata=metadata)
    with pytest.raises(ValueError, match=rf"(?s){exported.name}.*{message}"):
        torch_resnet.load_encoder(str(exported))


def test_names_missing_and_extra_tensors(exported):
    def change(tensors):
        tensors["params/encoder/stem_conv9/kernel"] = tensors.pop("params/encoder/stem_conv/kernel")

    rewrite(exported, metadata={}, change=change)
    with pytest.raises(ValueError, match=r"(?s)Missing.*conv1.weight.*Unexpected.*stem_conv9"):
        torch_resnet.load_encoder(str(exported))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle, perhaps", b"\xff" * 100])
def test_a_foreign_or_broken_file_is_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.safetensors cannot be read as a safetensors"):
        torch_resnet.load_encoder(str(path))


def test_a_truncated_file_is_named(exported):
    exported.write_bytes(exported.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"encoder.safetensors cannot be read"):
        torch_resnet.load_encoder(str(exported))
