"""ResNets and ViTs of torchvision and timm, in and out, against what these libraries compute.

The tests run where the two are installed beside requirements-interop.txt, in versions that go with
its PyTorch. Weights are random, and no scale or statistic stays as it starts.
"""

import jax
import numpy as np
import pytest

from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.interop.formats import export
from simclr_jax.interop.parity import photographs

pytestmark = [pytest.mark.reference, pytest.mark.interop]
torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from simclr_jax.interop.torch_checkpoint import (  # noqa: E402  # imports safetensors
    NORMALIZATIONS,
    read_state_dict,
)

TINY = {"embed_dim": 128, "depth": 4, "num_heads": 2, "patch_size": 8}
# What makes a network, the side of its images in px, and what they are normalised with.
THEIRS = {
    "timm vit": (
        lambda timm: timm.create_model("vit_small_patch16_224", img_size=32, num_classes=7, **TINY),
        *(32, "inception"),
    ),
    "timm resnet18": (lambda timm: timm.create_model("resnet18", num_classes=7), 53, "imagenet"),
    "torchvision vit": (
        lambda torchvision: torchvision.models.VisionTransformer(32, 8, 4, 2, 128, 512),
        *(32, "imagenet"),
    ),
    "torchvision resnet50": (
        lambda torchvision: torchvision.models.resnet50(num_classes=7),
        *(64, "imagenet"),
    ),
}


def randomised(module):
    """The module in eval mode, with a random tensor at every name of its state dict."""
    torch.manual_seed(0)
    for name, x in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn_like(x) * (x[0].numel() ** -0.5 if x.dim() > 1 else 0.1)
        is_scale = x.dim() == 1 and ("weight" in name or name.endswith("running_var"))
        x.copy_(noise.abs() + 0.5 if is_scale else noise)
    return module.eval()


def logits_of(module, images, normalization):
    mean, std = (np.array(values, np.float32) for values in NORMALIZATIONS[normalization])
    with torch.inference_mode():
        return module(torch.tensor(((images - mean) / std).transpose(0, 3, 1, 2))).numpy()


def relative(got, want):
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", THEIRS)
def test_weights_come_in_exactly_and_go_out_again(name, tmp_path):
    library = pytest.importorskip(name.split()[0])
    make, size_px, normalization = THEIRS[name]
    theirs, path = randomised(make(library)), tmp_path / "theirs.safetensors"
    safetensors_torch.save_file(theirs.state_dict(), str(path))
    imported = read_state_dict(str(path), normalization=normalization)
    params, stats = (jax.device_get(imported.variables[key]) for key in ("params", "batch_stats"))
    encoder = TrainedEncoder(
        imported.network.encoder,
        params["encoder"],
        stats["encoder"] if stats else {},
        size_px,
        params["classifier"],
    )
    images = photographs(size_px)
    got = encoder.encode(images) @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    assert relative(got, logits_of(theirs, images, normalization)) < 1e-5

    own = tmp_path / "own.safetensors"
    assert export(encoder, own, "safetensors").difference.relative < 1e-5
    out = tmp_path / "out.safetensors"
    if "vit" in name:  # whose normalisation is in its weights now
        export(encoder, out, "timm")
        timm = pytest.importorskip("timm")
        again = THEIRS["timm vit"][0](timm)
        again.reset_classifier(params["classifier"]["bias"].size)
        normalization = "none"
    else:
        export(encoder, out, "torchvision")
        again = make(library)
    again.load_state_dict(safetensors_torch.load_file(out), strict=True)
    assert relative(logits_of(again.eval(), images, normalization), got) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"pool": "mean", "learned_positions": 32}])
def test_timm_takes_what_the_export_says_it_takes(settings, trained_vit, tmp_path):
    timm = pytest.importorskip("timm")
    encoder, path = trained_vit(32, patch=8, **settings), tmp_path / "vit.safetensors"
    _, usage = export(encoder, path, "timm")
    call, _, rest = usage.partition(" takes ")
    assert rest.startswith("safetensors.torch.load_file(...) with load_state_dict")
    module = eval(call, {"timm": timm})
    module.load_state_dict(safetensors_torch.load_file(path), strict=True)
    images = photographs(32)
    got = logits_of(module.eval(), images, "none")
    assert relative(got, encoder.encode(images)) < 1e-5
