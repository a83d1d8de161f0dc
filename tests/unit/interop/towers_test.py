"""Towers out: files compute what the towers do, and come with what a program must know."""

import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.interop import formats, stablehlo
from simclr_jax.interop.formats import check_request, export
from simclr_jax.interop.text_tower import beside


def relative(got, want):
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_examples_are_texts_of_all_lengths_with_start_and_end(trained_towers):
    tokens, lengths = trained_towers().text.examples()
    assert [*lengths] == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (3, 9)
    for row, length in zip(tokens, lengths, strict=True):
        assert (row[0], row[length - 1]) == (0, 1)
        assert (row[1 : length - 1] > 1).all()
        assert not row[length:].any()


def test_a_tower_is_its_network_and_then_its_projector(trained_towers):
    towers = trained_towers(causal=False, pool="mean")
    for tower in (towers.image, towers.text):
        inputs = tower.examples()
        arrays = map(jnp.asarray, inputs)
        features = tower.network.apply({"params": tower.params}, *arrays, train=False)
        want = np.asarray(features) @ tower.projection
        assert relative(tower.encode(*inputs), want) < 1e-5


def test_a_stablehlo_file_of_a_text_tower_takes_any_number_of_texts(trained_towers, tmp_path):
    towers = trained_towers(dtype="bfloat16", pool="probe")
    path = tmp_path / "text.stablehlo"
    found, usage = export(
        towers.text, path, "stablehlo", beside=beside(towers.facts(), towers.text.tokenizer)
    )
    assert found.relative < 1e-5
    assert "int32 tokens [n, 9] and lengths [n]" in usage
    tokens, lengths = towers.text.examples()
    want = towers.text.encode(tokens, lengths)
    for n in (1, 5):
        assert relative(stablehlo.read(path)(tokens[:n], lengths[:n]), want[:n]) < 1e-5

    facts = json.loads((tmp_path / "text.stablehlo.json").read_text())
    assert (facts["start_token"], facts["end_token"], facts["context"]) == (0, 1, 9)
    assert (facts["scale"], facts["bias"]) == (14.5, 0.0)
    assert (tmp_path / "text.stablehlo.tokenizer.json").read_text() == towers.text.tokenizer.json


def test_nothing_is_left_beside_a_file_that_is_refused(trained_towers, monkeypatch, tmp_path):
    towers = trained_towers()
    monkeypatch.setattr(stablehlo, "read", lambda path: lambda *inputs: np.ones((8, 6)))
    monkeypatch.setitem(
        formats.FORMATS,
        "stablehlo",
        formats.Format(".stablehlo", (), stablehlo.write, stablehlo.read, holds=formats.TOWER),
    )
    with pytest.raises(UserError, match="on texts, more than --max_difference"):
        export(
            towers.text,
            tmp_path / "x.stablehlo",
            "stablehlo",
            beside=beside(towers.facts(), towers.text.tokenizer),
        )
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("format_name", "tower", "message"),
    [
        ("saved_model", "text", r"and not one tower, as --tower=text asks. Use --format=safetens"),
        ("open_clip", "image", r"--format=open_clip holds both towers; leave --tower out"),
        ("onnx", "words", r"--tower=words does not exist: it is image or audio or text"),
    ],
)
def test_a_tower_that_a_format_cannot_hold_is_refused_at_once(
    format_name, tower, message, tmp_path
):
    with pytest.raises(UserError, match=message):
        check_request(format_name, tmp_path / "x", tower)


def test_pytorch_has_no_probe_for_texts(trained_towers, monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "import_optional", lambda package: None)  # refused before its use
    with pytest.raises(UserError, match=r"no TextTransformer with pool='probe'.*=stablehlo"):
        export(trained_towers(pool="probe").text, tmp_path / "x.safetensors", "safetensors")
    assert not [*tmp_path.iterdir()]


needs_torch = pytest.mark.interop("torch", "safetensors")


def plain_torch(state, tokens, lengths, *, activation, causal, pool):
    """The forward pass of a text transformer, text by text, without padding."""
    torch = importlib.import_module("torch")
    f = torch.nn.functional
    norm = lambda x, name: f.layer_norm(
        x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6
    )
    rows = []
    for ids, length in zip(tokens, lengths, strict=True):
        x = state["embed.weight"][ids[:length]] + state["positions"][:length]
        for i in range(2):
            y = norm(x, f"blocks.{i}.norm1")
            weight, bias = (state[f"blocks.{i}.qkv.{leaf}"] for leaf in ("weight", "bias"))
            q, k, v = f.linear(y, weight, bias).reshape(length, 3, 2, 8).permute(1, 2, 0, 3)
            logits = q @ k.transpose(1, 2) / 8**0.5
            if causal:
                logits = logits.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            y = (logits.softmax(-1) @ v).transpose(0, 1).reshape(length, 16)
            out = f"blocks.{i}.out"
            x = x + f.linear(y, state[f"{out}.weight"], state[f"{out}.bias"])
            y = norm(x, f"blocks.{i}.norm2")
            y = f.linear(y, *(state[f"blocks.{i}.fc1.{leaf}"] for leaf in ("weight", "bias")))
            y = f.gelu(y) if activation == "gelu" else y * torch.sigmoid(1.702 * y)
            two = (state[f"blocks.{i}.fc2.{leaf}"] for leaf in ("weight", "bias"))
            x = x + f.linear(y, *two)
        x = norm(x, "norm")
        x = x[-1] if pool == "end" else x.mean(0)
        rows.append(f.linear(x, state["projector.weight"]))
    return torch.stack(rows).numpy()


@needs_torch
@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "gelu", "causal": True, "pool": "end"},
        {"activation": "quick_gelu", "causal": False, "pool": "mean"},
        {"activation": "gelu", "causal": False, "pool": "end"},
        {"activation": "gelu", "causal": True, "pool": "mean"},
    ],
)
def test_a_text_tower_in_pytorch_equals_plain_torch(settings, trained_towers, tmp_path):
    torch = importlib.import_module("torch")
    from simclr_jax.interop.torch_text import load_encoder

    towers, path = trained_towers(**settings), tmp_path / "text.safetensors"
    found, usage = export(towers.text, path, "safetensors")
    assert found.relative < 1e-5
    assert "simclr_jax/interop/torch_text.py" in usage
    tower = load_encoder(str(path))
    tokens, lengths = towers.text.examples()
    want = plain_torch(tower.state_dict(), tokens, lengths, **settings)
    assert relative(towers.text.encode(tokens, lengths), want) < 1e-5
    with torch.inference_mode():  # as few columns as the longest text needs
        few = tower(torch.tensor(tokens[:3, : lengths[2]]), torch.tensor(lengths[:3])).numpy()
    assert relative(few, want[:3]) < 1e-5


@needs_torch
def test_a_file_of_another_kind_is_no_text_tower(trained_towers, tmp_path):
    from simclr_jax.interop.torch_text import load_encoder

    path = tmp_path / "image.safetensors"
    export(trained_towers().image, path, "safetensors")
    with pytest.raises(ValueError, match=r"kind='vit', not '1' and 'text'"):
        load_encoder(str(path))


@needs_torch
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_an_image_tower_in_pytorch_ends_in_its_projector(
    kind, trained_towers, trained_encoder, tmp_path
):
    resnet = trained_encoder(image_size=16, stem="cifar") if kind == "resnet" else None
    image = trained_towers(resnet).image
    path = tmp_path / "image.safetensors"
    found, _ = export(image, path, "safetensors")
    assert found.relative < 1e-5
    from simclr_jax.interop import safetensors_format

    (images,) = image.examples()
    got = safetensors_format.read(path)(images)
    assert got.shape == (8, 6)
    assert relative(got, image.encode(images)) < 1e-5


@needs_torch
@pytest.mark.interop("onnxscript", "onnxruntime")
@pytest.mark.parametrize("tower", ["image", "text"])
def test_an_onnx_graph_of_a_tower_takes_any_number(tower, trained_towers, tmp_path):
    from simclr_jax.interop import onnx_format

    one, path = getattr(trained_towers(causal=False, pool="mean"), tower), tmp_path / "tower.onnx"
    found, usage = export(one, path, "onnx")
    assert found.relative < 1e-5
    assert "tokens and lengths" in usage if tower == "text" else "by the names images" in usage
    inputs = one.examples()
    want = one.encode(*inputs)
    for n in (1, 5):
        assert relative(onnx_format.read(path)(*(x[:n] for x in inputs)), want[:n]) < 1e-5
