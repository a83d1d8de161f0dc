"""SimCSE from sentences to rows of texts: it goes on where it was, and gives its tower to CLIP."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import simclr_jax
from simclr_jax import run as runs
from simclr_jax.build.experiment import build_experiment
from simclr_jax.build.resolve import resolve
from simclr_jax.core.errors import UserError
from simclr_jax.data.text import read_tokenizer
from simclr_jax.interop import formats, stablehlo
from simclr_jax.trained import restored
from simclr_jax.trained.evaluate import evaluate
from simclr_jax.verify import proof
from simclr_jax.verify.shrunk import shrink
from simclr_jax.verify.variants import Variant
from tests.program import run
from tests.tiny import KilledError, train

pytestmark = pytest.mark.integration
ANIMALS = ("cat", "dog", "horse", "cow", "hen", "goat", "pig", "duck")
PLACES = ("in the barn", "on a hill", "by the river", "under a tree", "near us", "at home")


@pytest.fixture
def simcse_config(tiny_config, tmp_path):
    """48 sentences, in 13 steps of batches of 16."""
    lines = [f"The {animal} is {place}." for animal in ANIMALS for place in PLACES]
    (tmp_path / "sentences.txt").write_text("\n".join(lines))
    projector = {"num_layers": 1, "output_dim": 16, "last_norm": "none", "kernel_init": "lecun"}
    text = {"width": 16, "depth": 1, "num_heads": 2, "causal": False, "dropout": 0.1}
    return tiny_config | {
        "run": {"epochs": 4, "seed": 0, "log_every": 4, "checkpoint_every": 4},
        "data": {
            "name": "texts",
            "split": "all",
            "path": str(tmp_path / "sentences.txt"),
            "batch_size": 16,
            "captions": {"context": 12, "vocab_size": 400},
        },
        "augment": {"name": "texts"},
        "encoder": {"name": "none"},
        "heads": {"text": text, "text_projector": projector},
        "method": {"name": "simcse"},
        "evals": {},
    }


def test_sentences_become_rows_that_are_the_same_after_a_stop(simcse_config, tmp_path):
    straight = train(simcse_config, tmp_path / "straight")
    with pytest.raises(KilledError):
        train(simcse_config, tmp_path / "killed", kill_at=7)  # 3 steps behind a checkpoint
    resumed = train(simcse_config, tmp_path / "killed")
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
    assert straight.params.keys() == {"text", "text_projector"}

    lines = (tmp_path / "killed/metrics.jsonl").read_text().splitlines()
    first, last = (json.loads(lines[i]) for i in (0, -1))
    assert first["loss_chance"] == pytest.approx(np.log(16), rel=1e-6)
    assert last["loss"] < first["loss"]
    assert {"alignment", "uniformity", "positive_similarity"} <= last.keys()

    workdir = str(tmp_path / "killed")
    texts = ["The cat is at home.", "Our duck swims.", "The cat is at home."]
    rows = simclr_jax.load(workdir).embed_text(texts)
    np.testing.assert_array_equal(rows[0], rows[2])
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    done = run(
        *("embed", f"--workdir={workdir}"),
        *(f"--texts={tmp_path}/texts.txt", f"--output={tmp_path}/t.npz"),
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "t.npz") as file:
        np.testing.assert_allclose(file["features"], rows, atol=1e-5)
    check_what_needs_an_encoder_says_what_works(workdir)
    check_texts_to_take_away(workdir, tmp_path)


def check_what_needs_an_encoder_says_what_works(workdir):
    encoder = simclr_jax.load(workdir)
    digits = [np.zeros((28, 28), np.uint8)]
    for refused in (
        functools.partial(restored.load, workdir),
        functools.partial(evaluate, workdir, protocol=["zero_shot"]),
        functools.partial(encoder, digits),
    ):
        with pytest.raises(UserError, match="no encoder to see images or sounds with"):
            refused()


def check_texts_to_take_away(workdir, tmp_path):
    """The one tower goes out with and without --tower, and its file gives the rows of the run."""
    texts = ["The cat is at home.", "Our duck swims."]
    tokenizer = read_tokenizer(workdir, simclr_jax.load(workdir).run.require_text())
    tokens = [tokenizer(text) for text in texts]
    inputs = np.stack([x.ids for x in tokens]), np.array([x.length for x in tokens], np.int32)
    for flags in (["--tower=text"], []):
        path = tmp_path / f"text{len(flags)}.stablehlo"
        out = ("--format=stablehlo", f"--output={path}", *flags)
        done = run("export", f"--workdir={workdir}", *out)
        assert done.returncode == 0, done.stderr
        assert "largest difference from the JAX tower on texts" in done.stdout
        rows = simclr_jax.load(workdir).embed_text(texts)
        np.testing.assert_allclose(stablehlo.read(path)(*inputs), rows, atol=1e-5)
        facts = json.loads(Path(f"{path}.json").read_text())
        assert (facts["rows"], facts["context"]) == ("compared by cosine", 12)
        assert "scale" not in facts
        assert Path(f"{path}.tokenizer.json").read_text() == tokenizer.json


def test_what_a_run_on_texts_does_not_have_is_said(simcse_config, tmp_path, monkeypatch, caplog):
    with caplog.at_level("INFO", "simclr_jax"):
        train(simcse_config | {"run": {"epochs": 1}}, tmp_path / "run")
    assert "48 texts, without labels" in caplog.text
    assert "images" not in caplog.text
    monkeypatch.setattr(formats, "import_optional", lambda package: None)  # refused before its use
    encoder = simclr_jax.load(tmp_path / "run")
    for name, tower, message in (
        ("timm", None, "holds an image encoder .*, and not the text tower of .*--format=safetens"),
        ("open_clip", None, "holds a tower of images and one of texts, and not the text tower"),
        ("onnx", "image", "--tower=image: .*texts alone and has a text tower. Use --tower=text"),
    ):
        with pytest.raises(UserError, match=message):
            encoder.export(tmp_path / f"x{formats.FORMATS[name].suffix}", format=name, tower=tower)


@pytest.mark.thorough
def test_the_text_tower_goes_to_clip_and_back(simcse_config, tiny_config, tmp_path):
    trees = {tree: tree for tree in ("params/text", "params/text_projector")}
    digits = tiny_config["data"] | {"fraction": 0.02, "captions": {"context": 12}}
    heads = simcse_config["heads"]
    clip = tiny_config | {
        "data": digits,
        "augment": {"name": "finetune", "size": 12},
        "heads": heads | {"projector": heads["text_projector"]},
        "method": {"name": "clip"},
        "evals": {},
    }
    captions = simcse_config | {"data": digits, "run": {"epochs": 1}}
    for first, second in ((captions, clip), (clip, captions)):
        name = first["method"]["name"]
        trained = train(first, tmp_path / name).params
        start = {"checkpoint": str(tmp_path / name), "trees": trees}
        with runs.open_run(second | {"warm_start": start}, str(tmp_path / f"{name}_on")) as run:
            for tree in ("text", "text_projector"):
                jax.tree.map(np.testing.assert_array_equal, trained[tree], run.state.params[tree])
    other = {"checkpoint": str(tmp_path / "clip"), "trees": trees}
    with pytest.raises(UserError, match=r"add --config\.data\.captions\.tokenizer=.*tokenizer.js"):
        train(simcse_config | {"warm_start": other}, tmp_path / "other")


@pytest.mark.thorough
@pytest.mark.parametrize("supervised", [False, True])
def test_every_layout_learns_the_same(simcse_config, monkeypatch, supervised):
    few = lambda num_devices, *, tiles: [
        [Variant(1), Variant(8, "fsdp", tiled=tiles)],
        [Variant(1, cached=True), Variant(8, "zero1", cached=True)],
        [Variant(1, frozen=True), Variant(1, cached=True, frozen=True)],
    ]
    monkeypatch.setattr(proof, "variants", few)  # those that differ most
    if supervised:
        simcse_config["augment"] = {"name": "texts", "num_texts": 3}
        simcse_config["method"] = {"name": "simcse", "hard_negatives": True}
    shrunk = shrink(simcse_config, multiple=16, num_steps=2)
    comparisons = proof.verify(shrunk, num_devices=8, num_steps=2)
    assert [line for one in comparisons for line in one.failures()] == []
    assert {round(one.negatives or 0) for one in comparisons} == {31 if supervised else 15}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"augment": {"name": "simclr_cifar", "size": 12}},
            "has texts alone, which config.augment",
        ),
        ({"data": {"captions": None}}, "config.data.captions is off"),
        ({"encoder": {"name": "tiny"}}, "a text tower alone takes texts alone"),
        ({"heads": {"text": None, "text_projector": None}}, "leaves a text tower alone: it has"),
        (
            {"heads": {"text": {"dropout": 0.0}}},
            "dropout=0 makes both views of a sentence the same",
        ),
        ({"augment": {"name": "texts", "num_texts": 2}}, ""),
        ({"method": {"name": "simclr"}}, "method simclr needs heads with a projector"),
        (
            {"method": {"name": "clip"}, "heads": {"projector": {"output_dim": 8}}},
            "leaves a text tower alone: it has text and text_projector",
        ),
    ],
)
def test_parts_that_do_not_fit_are_told(simcse_config, changed, message):
    for section, values in changed.items():
        simcse_config[section] = values if "name" in values else simcse_config[section] | values
    if not message:
        assert build_experiment(simcse_config).abstract_batch["text"].shape == (16, 2, 12)
        return
    with pytest.raises(UserError) as refused:
        build_experiment(simcse_config)
    assert message in str(refused.value)


def test_captions_of_images_are_sentences_too(simcse_config):
    simcse_config["data"] |= {"name": "digits", "split": "train", "path": None}
    _, _, source = resolve(simcse_config)
    assert source[0].captions == (
        "a handwritten zero",
        "a picture of the number zero",
        "the digit 0",
    )
    assert source[0].image == b""
