"""CLIP on digits and CLAP on tones from the config to their figures, and what they refuse."""

import json
import re
import wave

import jax
import numpy as np
import pytest

import simclr_jax
from simclr_jax import run as runs
from simclr_jax.build.experiment import build_experiment
from simclr_jax.build.resolve import resolve
from simclr_jax.core.errors import UserError
from simclr_jax.data.sources import open_source
from simclr_jax.interop import formats, stablehlo
from simclr_jax.run import train
from simclr_jax.trained.embedding import embed
from simclr_jax.trained.evaluate import evaluate
from tests.program import run

pytestmark = pytest.mark.integration


@pytest.fixture
def clip_config(tiny_config, monkeypatch):
    """Two small towers on the captions of the digits, trained on one device."""
    one_device = lambda config: build_experiment(config, jax.devices()[:1])
    monkeypatch.setattr(runs, "build_experiment", one_device)
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


@pytest.mark.thorough  # CLAP, below, goes the same way
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

    found = embed(encoder.run, encoder.run.dataset, digits, projected=True)
    np.testing.assert_allclose(found.features.features[::5], images, atol=1e-4)
    check_texts_to_take_away(workdir, encoder, tmp_path)
    check_texts_are_not_taken_for_images(workdir, tmp_path)

    other = {**clip_config, "run": {**clip_config["run"], "epochs": 5}}
    other["data"] = {**other["data"], "captions": {"context": 10, "vocab_size": 300}}
    with pytest.raises(UserError, match="holds a run with another config") as refused:
        train(other, workdir)
    assert "data.captions.tokenizer_sha256" in str(refused.value)

    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is not there"):
        evaluate(workdir, protocol=["zero_shot"])


@pytest.fixture
def clap_config(clip_config, tmp_path):
    """A table of 160 tones of four pitches and random loudness, a quarter of them for testing."""
    pytest.importorskip("soundfile", reason="the extra audio is not installed")
    rows, rng = ["path,caption,label,split"], np.random.default_rng(0)
    for i in range(160):
        word, hz = (("low", 200), ("middle", 500), ("high", 1200), ("shrill", 3000))[i % 4]
        phase = 2 * np.pi * hz * np.arange(2000) / 8000
        with wave.open(str(tmp_path / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((rng.uniform(1e3, 2e4) * np.sin(phase)).astype("<i2").tobytes())
        rows.append(f"{i}.wav,tone {i} is {word},{word},{'test' if i % 16 < 4 else 'train'}")
    (tmp_path / "tones.csv").write_text("\n".join(rows))
    data = {"name": "csv", "path": str(tmp_path / "tones.csv"), "canvas": None, "fraction": 1.0}
    small = {"rate": 8000, "num_fft": 256, "hop": 125, "num_mels": 16, "highest_hz": 4000.0}
    return clip_config | {
        "data": clip_config["data"] | data | {"batch_size": 16},
        "augment": {"name": "audio", "seconds": 0.2, "log_mel": small},
        "method": {"name": "clap"},
    }


def test_clap_names_tones_that_it_has_not_heard_and_its_encoder_is_judged_as_any(
    clap_config, tmp_path, caplog
):
    workdir = str(tmp_path / "run")
    with caplog.at_level("INFO", "simclr_jax"):
        train(clap_config, workdir)
    assert "tones.csv/train, 120 sounds, " in caplog.text
    assert re.search(r"loss .* \d+ sounds/s", caplog.text)
    assert "images" not in caplog.text
    judged = evaluate(
        workdir,
        protocol=["zero_shot", "retrieval", "knn"],
        features=["encoder"],
        fractions=[1.0],
        knn_k=5,
        templates=["tone 3 is {}"],
    )
    rows = {row["protocol"]: row for row in judged}
    assert rows["zero_shot"]["top1_chance"] == 0.25
    assert rows["zero_shot"]["top1"] > 0.5
    assert rows["knn"]["top1"] > 0.5
    assert rows["audio_to_text"]["num_captions"] == rows["text_to_audio"]["num_captions"] == 40
    encoder = simclr_jax.load(workdir)
    assert encoder.project([tmp_path / "0.wav", tmp_path / "1.wav"]).shape == (2, 16)
    check_sounds_to_take_away(encoder, tmp_path)
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss_audio_to_text", "loss_text_to_audio"} <= last.keys()


def check_sounds_to_take_away(encoder, tmp_path):
    """Files of the encoder, of its tower and of the text tower give the rows of the run."""
    file = tmp_path / "0.wav"
    with wave.open(str(file), "rb") as wav:
        samples = np.frombuffer(wav.readframes(2000), "<i2")
    middle = (samples[200:1800] / 2**15).astype(np.float32)[None]  # 0.2 of 0.25 seconds
    for tower, want in ((None, encoder([file])), ("audio", encoder.project([file]))):
        path = tmp_path / f"{tower}.stablehlo"
        found, usage = encoder.export(path, format="stablehlo", tower=tower)
        assert found.relative < 1e-5
        assert "waveforms [n, 1600] in [-1, 1], 8000 samples a second" in usage
        np.testing.assert_allclose(stablehlo.read(path)(middle), want, atol=1e-4)
        facts = json.loads((tmp_path / f"{tower}.stablehlo.json").read_text())
        assert (facts["rate"], facts["num_samples"], facts["log_mel"]["hop"]) == (8000, 1600, 125)
        assert ("scale" in facts) == (tower == "audio")
    assert not (tmp_path / "None.stablehlo.tokenizer.json").exists()
    found, _ = encoder.export(tmp_path / "text.stablehlo", format="stablehlo", tower="text")
    assert found.relative < 1e-5
    facts = json.loads((tmp_path / "text.stablehlo.json").read_text())
    assert 1 <= facts["scale"] <= 100
    assert facts["rate"] == 8000
    assert (tmp_path / "text.stablehlo.tokenizer.json").exists()
    with pytest.raises(UserError, match=r"--tower=image: the towers of .* are audio and text"):
        encoder.export(tmp_path / "x.stablehlo", format="stablehlo", tower="image")


def test_a_format_of_images_names_those_that_hold_sounds(clap_config, tmp_path, monkeypatch):
    clap_config["run"] |= {"epochs": 1}
    train(clap_config, str(tmp_path / "run"))
    monkeypatch.setattr(formats, "import_optional", lambda package: None)  # refused before its use
    encoder = simclr_jax.load(tmp_path / "run")
    for name in ("torchvision", "timm", "open_clip", "saved_model"):
        message = (
            rf"--format={name} holds .*, and not the encoder of .*run, which takes sounds. Use "
            "--format=safetensors or --format=stablehlo or --format=onnx"
        )
        with pytest.raises(UserError, match=message):
            encoder.export(tmp_path / f"x{formats.FORMATS[name].suffix}", format=name)


def test_sounds_and_images_are_not_taken_for_each_other(clap_config, clip_config):
    with pytest.raises(
        UserError, match=r"digits/train.* has images, and config\.augment\.name='au"
    ):
        resolve(clip_config | {"augment": clap_config["augment"]})
    with pytest.raises(UserError, match=r"tones.csv/train has sounds, and .*='finetune' takes im"):
        resolve(clap_config | {"augment": clip_config["augment"]})


def check_texts_are_not_taken_for_images(workdir, tmp_path):
    (tmp_path / "lines.txt").write_text("a\nb\n")
    message = r"lines.txt.* holds texts, and the encoder of this run reads images. Name a data set"
    for protocol in ("retrieval", "knn"):
        with pytest.raises(UserError, match=message + r".*`embed --texts=FILE`"):
            evaluate(
                workdir,
                protocol=[protocol],
                data="texts",
                path=str(tmp_path / "lines.txt"),
                split="all",
                test_split="all",
            )


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
    result = run(*given, f"--texts={tmp_path / 'texts.txt'}")
    assert result.returncode == 0, result.stderr
    assert "features [3, 16]" in result.stdout
    assert "1 of 3 texts are cut" in result.stderr
    with np.load(tmp_path / "texts.npz") as file:
        assert [*file["names"]] == texts
        assert [*file["labels"]] == [-1] * 3
        np.testing.assert_allclose(file["features"], encoder.embed_text(texts), atol=1e-5)
    with pytest.raises(UserError, match="Text 2 of 3 is empty"):
        encoder.embed_text(["a", " ", "b"])


def test_a_text_tower_without_captions_is_told_how_to_get_some(clip_config):
    clip_config["data"]["captions"] = None
    with pytest.raises(
        UserError, match=r"config\.heads\.text reads captions, and config\.data\.capt"
    ):
        resolve(clip_config)
