"""CLIP on the digits from the config to its figures, and what it refuses."""

import json

import numpy as np
import pytest

import simclr_jax
from simclr_jax.build.resolve import resolve
from simclr_jax.core.errors import UserError
from simclr_jax.data.sources import open_source
from simclr_jax.run import train
from simclr_jax.trained.evaluate import evaluate

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
    images = encoder.project([np.asarray(digits[i].image) for i in range(0, 1000, 5)])
    words = encoder.embed_text([f"the digit {digit}" for digit in range(10)])
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    right = (unit(images) @ unit(words).T).argmax(axis=1) == np.repeat(np.arange(10), 20)
    assert right.mean() == pytest.approx(rows["zero_shot"]["top1"], abs=0.08)

    other = {**clip_config, "run": {**clip_config["run"], "epochs": 5}}
    other["data"] = {**other["data"], "captions": {"context": 10, "vocab_size": 300}}
    with pytest.raises(UserError, match="holds a run with another config") as refused:
        train(other, workdir)
    assert "data.captions.tokenizer_sha256" in str(refused.value)

    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is not there"):
        evaluate(workdir, protocol=["zero_shot"])


def test_a_text_tower_without_captions_is_told_how_to_get_some(clip_config):
    clip_config["data"]["captions"] = None
    with pytest.raises(
        UserError, match=r"config\.heads\.text reads captions, and config\.data\.capt"
    ):
        resolve(clip_config)
