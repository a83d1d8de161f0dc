"""The verbs as a user calls them: what they print, what they leave behind, how they exit."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr_jax.__main__ import VERBS
from tests.program import run
from tests.tiny import tiny_settings, write_recipe

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.integration
DIGITS = "--config=configs/simclr_digits.py:smoke"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 pictures of many sizes, one of which cannot be read, in nested folders."""
    top = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        tiles = rng.integers(0, 256, (4 + i % 3, 5, 3), np.uint8)
        path = top / ("a" if i % 2 else "b/<script>c") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiles).resize((40 + i, 50)).save(path)
    (top / "a/99 broken.jpg").write_bytes(b"<html>not a picture</html>")
    return top


@pytest.fixture(scope="module")
def trained_folder(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "mine"
    result = run(
        "train",
        "--config=configs/simclr_folder.py:laptop",
        f"--config.data.path={folder}",
        "--config.run.epochs=2",
        "--config.encoder.width=0.125",
        "--config.schedule.warmup_epochs=0.5",
        f"--workdir={workdir}",
    )
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_a_folder_without_labels_trains_and_names_what_it_cannot_read(trained_folder):
    workdir, result = trained_folder
    assert "batch size 8" in result.stderr, "the batch size comes from the 25 files"
    assert "encoder/stem_conv/kernel" in result.stderr, "the parameter table"
    assert "(chance 2.708)" in result.stderr
    rows = (workdir / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["a/99 broken.jpg"]
    assert (workdir / "tensorboard").is_dir()


def test_embed_writes_a_row_for_each_readable_image(trained_folder, folder, tmp_path):
    workdir, _ = trained_folder
    result = run("embed", f"--workdir={workdir}", f"--output={tmp_path / 'f.npz'}")
    assert result.returncode == 0, result.stderr
    assert "a/99 broken.jpg" in result.stdout
    with np.load(tmp_path / "f.npz") as file:
        assert file["features"].shape == (24, 64)
        assert (file["labels"] == -1).all()
        assert sorted(file["names"])[0] == "a/01.png"


def test_report_of_unlabelled_images_is_one_safe_file(trained_folder):
    workdir, _ = trained_folder
    result = run("report", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    page = (workdir / "report.html").read_text()
    assert "<script" not in page
    assert "Nearest neighbours" in page


def test_judging_without_labels_says_what_to_do(trained_folder):
    workdir, _ = trained_folder
    result = run("evaluate", f"--workdir={workdir}")
    assert result.returncode == 2
    assert "--split=train --test_split=test" in result.stderr
    assert not (workdir / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", DIGITS], "--workdir is missing"),
        (["train", "--config=configs/no_such.py", "--workdir=x"], "no_such.py"),
        (["train", "--config=configs/simclr_digits.py:big", "--workdir=x"], "variant 'big'"),
        (["train", DIGITS, "--config.method.temprature=1", "--workdir=x"], "temprature"),
        (
            ["train", DIGITS, "--config.run.accum_steps=4", "--workdir=x"],
            "method.grad_cache_chunks=8 puts",
        ),
        (["train", DIGITS, "--config.run.epochs=many", "--workdir=x"], "many"),
        (["train", DIGITS, "--wrokdir=x"], "wrokdir"),
        (["evaluate", "--workdir=/nowhere"], "holds no run"),
        (["embed", "--workdir=x", "--output=features.csv"], ".npz"),
    ],
)
def test_a_mistake_exits_with_2_and_one_message(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (ROOT / "x").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples_and_flags(verb):
    result = run(verb, "--help")
    assert result.returncode == 0, result.stderr
    assert f"python -m simclr_jax {verb} " in result.stdout
    assert any(f"--{flag}: " in result.stdout for flag in ("workdir", "config", "path", "samples"))


def test_sigterm_exits_with_143_after_a_checkpoint(tmp_path):
    tiny = "--config.encoder.name=tests.tiny:TinyEncoder"
    arguments = ("train", DIGITS, tiny, "--config.run.epochs=500", f"--workdir={tmp_path}")
    command = [sys.executable, "-m", "simclr_jax", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "step 1/" in line:
            process.send_signal(signal.SIGTERM)
            break
    _, rest = process.communicate()
    assert process.returncode == 143, rest
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert len(saved) == 1
    assert f"checkpoint at step {saved[0]}" in rest


@pytest.mark.thorough  # launch/demo.sh goes the same way with the real network
def test_digits_are_trained_judged_and_shown(tmp_path):
    config = tiny_settings()
    config["data"] |= {"fraction": 1.0, "batch_size": 200}
    recipe, workdir = write_recipe(tmp_path / "recipe.py", config), tmp_path / "run"
    assert run("train", f"--config={recipe}", f"--workdir={workdir}").returncode == 0
    result = run("evaluate", f"--workdir={workdir}", "--fractions=0.01", "--draws=2", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["results"]
    assert [(row["features"], row["protocol"]) for row in rows] == [
        (features, protocol)
        for features in ("pixels", "random_features", "encoder")
        for protocol in ("knn", "linear")
    ]
    assert all(row["num_train"] == 40 and row["num_test"] == 1000 for row in rows)
    assert all(0.05 < row["top1"] <= 1 for row in rows)
    assert json.loads((workdir / "results.json").read_text()) == rows
    assert run("report", f"--workdir={workdir}").returncode == 0
    assert "With 40 labels" in (workdir / "report.html").read_text()
