"""The directory for OpenCLIP: what its own code computes with it, and what it cannot hold."""

import importlib
import json

import numpy as np
import pytest
from PIL import Image

from simclr_jax.core import optional
from simclr_jax.core.errors import UserError
from simclr_jax.interop import open_clip_format
from simclr_jax.interop.formats import check_request, export


def test_the_config_says_what_the_towers_are(trained_towers, trained_vit):
    vit = trained_vit(num_heads=4, image_size=24)
    config = open_clip_format.model_config(trained_towers(vit, bias=-3.5))
    vision, text = config.pop("vision_cfg"), config.pop("text_cfg")
    assert config == {"embed_dim": 6, "init_logit_bias": -3.5}
    assert vision.pop("norm_kwargs") == text.pop("norm_kwargs") == {"eps": 1e-6}
    assert vision == {
        "image_size": 24,
        "patch_size": 4,
        "width": 128,
        "layers": 4,
        "head_width": 32,
        "no_ln_pre": True,
    }
    assert text == {
        "context_length": 9,
        "vocab_size": 32,
        "width": 16,
        "heads": 2,
        "layers": 2,
        "pool_type": "eos",
        "eos_id": 1,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"causal": False}, r"config.heads.text.causal=False, and its networks have True alone"),
        ({"pool": "mean"}, r"config.heads.text.pool='mean', and its networks have 'end' alone"),
        ({"activation": "quick_gelu"}, r"config.heads.text.activation='quick_gelu'"),
    ],
)
def test_a_text_tower_that_open_clip_lacks_is_named(settings, message, trained_towers, tmp_path):
    with pytest.raises(UserError, match=message + r".*--tower=image and --tower=text"):
        open_clip_format.write(trained_towers(**settings), tmp_path / "x")
    assert not [*tmp_path.iterdir()]


def test_an_image_tower_that_open_clip_lacks_is_named(
    trained_towers, trained_encoder, trained_vit, tmp_path
):
    with pytest.raises(UserError, match=r"config.encoder.pool='mean'"):
        open_clip_format.write(trained_towers(trained_vit(pool="mean")), tmp_path / "x")
    resnet = trained_encoder(image_size=16, stem="cifar")
    with pytest.raises(UserError, match="OpenCLIP's ResNets are other networks than this ResNet"):
        open_clip_format.write(trained_towers(resnet), tmp_path / "x")


def test_open_clip_is_asked_for_by_the_name_that_pip_knows(monkeypatch, tmp_path):
    def missing(name):
        if name == "open_clip":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(UserError, match="open_clip is not installed: pip install open_clip_torch"):
        check_request("open_clip", tmp_path / "x")


@pytest.mark.interop("open_clip", "torch")
@pytest.mark.parametrize(
    ("vit", "bias", "start_first"),
    [
        ({"pre_norm": True, "learned_positions": 24}, None, False),  # for larger images
        ({"num_heads": 4}, -3.5, True),  # fixed positions, and a bias of the patches
    ],
)
def test_open_clip_computes_what_the_towers_do(
    vit, bias, start_first, trained_towers, trained_vit, tmp_path
):
    open_clip, torch = map(importlib.import_module, ("open_clip", "torch"))
    towers = trained_towers(trained_vit(**vit), bias, start_first=start_first)
    path = tmp_path / "towers"
    found, usage = export(towers, path, "open_clip")
    assert found.relative < 1e-5
    assert "local-dir:" in usage
    names = {"README.md", "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"}
    assert {file.name for file in path.iterdir()} == names
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{path}")
    images, tokens, lengths = towers.examples()
    with torch.inference_mode():
        pixels, words = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(tokens).long()
        got, _ = model.get_logits(pixels, words)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit(towers.image.encode(images)) @ unit(towers.text.encode(tokens, lengths)).T
    np.testing.assert_allclose(got.numpy(), 14.5 * cosines + (bias or 0), atol=1e-4)
    photograph = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    seen = preprocess(Image.fromarray(photograph)).numpy()
    np.testing.assert_allclose(seen.transpose(1, 2, 0), photograph / 255, atol=1e-6)


def test_the_readme_in_the_directory_makes_tokens_as_the_run_did(trained_towers):
    towers = trained_towers()
    facts = towers.facts()
    text = open_clip_format.README.format(**facts)
    (code,) = (part for part in text.split("```") if part.startswith("python"))
    assert "row[: len(ids) + 2] = torch.tensor([0, *ids, 1])" in code
    assert "torch.zeros(len(texts), 9" in code
    compile(code.removeprefix("python"), "README.md", "exec")
    assert json.dumps(facts)
