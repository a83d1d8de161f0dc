"""CLIP on the digits from the config to its figures, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import simclr_jax
from simclr_jax.build.resolve import resolve
from simclr_jax.core.errors import UserError
from simclr_jax.data.sources import open_source
from simclr_jax.run import train
from simclr_jax.trained.embedding import embed
from simclr_jax.trained.evaluate import evaluate

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.integration


@pytest.fixture
def clip_config(tiny_config):
    """Two small towers on the captions of the digits."""
    projector = {"num_layers": 1, "output_dim": 16, "last_norm": "none", "kernel_init": "lecun"}
    tiny_config["data"] |= {"captions": {"context": 10, "vocab_size": 400}, "batch_size": 32}
    tiny_config["run"] |= {"epochs": 8}
    tiny_config["augment"] = {"name": "finetune", "size": 14, "min_area": 0.8, "flip": False}
    tiny_config["heads"] = {
        "projector": projector,
        "text": {"width": 16, "depth": 1, "num_heads": 2},
        "text_projector": projector,
    }
    return tiny_config | {"method": {"name": "clip"}, "evals": {}}


def test_clip_names_digits_that_it_has_not_seen_and_goes_on_where_it_was(clip_config, tmp_path):
    workdir = str(tmp_path)
    train(clip_config, workdir)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["heads"]["text"]["context"] == 10
    assert len(stored["data"]["captions"]["tokenizer_sha256"]) == 64
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["loss"] < last["loss_chance"] - 0.1
    assert 1 <= last["scale"] <= 100

    judged = evaluate(workdir, protocol=["zero_shot", "retrieval"])
    rows = {row["protocol"]: row for row in judged}
    assert rows["zero_shot"]["top1_chance"] == 0.1
    assert rows["zero_shot"]["top1"] > 0.25
    assert rows["zero_shot"]["num_test"] == 1000
    assert {"image_to_text", "text_to_image"} <= rows.keys()

    encoder = simclr_jax.load(workdir)
    digits = open_source("digits", split="test")
    images = encoder.project([digits[i].image for i in range(0, 1000, 5)])
    words = encoder.embed_text([f"the digit {digit}" for digit in range(10)])
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    right = (unit(images) @ unit(words).T).argmax(axis=1) == np.repeat(np.arange(10), 20)
    assert right.mean() == pytest.approx(rows["zero_shot"]["top1"], abs=0.08)

    found = embed(encoder.run, encoder.run.dataset, digits, projected=True)
    np.testing.assert_allclose(found.features.features[::5], images, atol=1e-4)
    check_texts_to_take_away(workdir, encoder, tmp_path)

    other = {**clip_config, "run": {**clip_config["run"], "epochs": 5}}
    other["data"] = {**other["data"], "captions": {"context": 10, "vocab_size": 300}}
    with pytest.raises(UserError, match="holds a run with another config") as refused:
        train(other, workdir)
    assert "data.captions.tokenizer_sha256" in str(refused.value)

    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is not there"):
        evaluate(workdir, protocol=["zero_shot"])


def check_texts_to_take_away(workdir, encoder, tmp_path):
    """The file of a text tower and `embed` give the rows of the run, each of its own."""
    found, _ = encoder.export(tmp_path / "text.stablehlo", format="stablehlo", tower="text")
    assert found.relative < 1e-5
    facts = json.loads((tmp_path / "text.stablehlo.json").read_text())
    assert facts["context"] == 10
    assert 1 <= facts["scale"] <= 100
    assert facts["bias"] == 0
    json_there = (tmp_path / "text.stablehlo.tokenizer.json").read_text()
    assert json_there == (tmp_path / "tokenizer.json").read_text()

    texts = ["the digit three", "a handwritten seven", "the same again " * 9]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    given = ("embed", f"--workdir={workdir}", f"--output={tmp_path / 'texts.npz'}")
    result = command_line(*given, f"--texts={tmp_path / 'texts.txt'}")
    assert result.returncode == 0, result.stderr
    assert "features [3, 16]" in result.stdout
    assert "1 of 3 texts are cut" in result.stderr
    with np.load(tmp_path / "texts.npz") as file:
        assert [*file["names"]] == texts
        assert [*file["labels"]] == [-1] * 3
        np.testing.assert_allclose(file["features"], encoder.embed_text(texts), atol=1e-5)
    with pytest.raises(UserError, match="Text 2 of 3 is empty"):
        encoder.embed_text(["a", " ", "b"])


def command_line(*arguments):
    command = [sys.executable, ROOT / "tests/integration/tiny_verb.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_text_tower_without_captions_is_told_how_to_get_some(clip_config):
    clip_config["data"]["captions"] = None
    with pytest.raises(
        UserError, match=r"config\.heads\.text reads captions, and config\.data\.capt"
    ):
        resolve(clip_config)
