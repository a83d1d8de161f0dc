"""From class folders to figures: pretrain, fine-tune, probe, distil, judge, embed, report."""

import json

import numpy as np
import pytest
from PIL import Image

from simclr_jax import run as runs
from simclr_jax.train.loop import fit
from simclr_jax.train.metrics import read_metrics
from tests import helpers
from tests.program import run as verb

pytestmark = pytest.mark.integration
COLORS = {"apple": (220, 30, 30), "banana": (230, 220, 40), "cherry": (120, 0, 60)}


def write(root, split, *names, num=24):
    rng = np.random.default_rng(len(split))
    for name in names:
        (root / split / name).mkdir(parents=True)
        for i in range(num):
            pixels = rng.normal(COLORS[name], 25, (20, 20, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / name / f"{i}.png")


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "own"
    write(root, "train", "apple", "banana")
    write(root, "test", "apple", "banana", num=8)
    return root


def recipe(name, variant, path, **sections):
    """Returns a recipe for three epochs on a folder; sections replace its own, or parts of them."""
    config = helpers.recipe(name).get_config(variant).to_dict()
    config["data"] |= {"path": str(path)}
    config["run"] |= {"epochs": 3, "log_every": 1}
    config["schedule"] |= {"warmup_epochs": 0.0}
    for section, values in sections.items():
        own = config.setdefault(section, {})
        config[section] = values if "name" in values else own | values
    return config


def train(config, workdir):
    with runs.open_run(config, str(workdir)) as run:
        fit(run.state, run.step, run.batches, num_steps=run.num_steps, hooks=run.hooks)
    return read_metrics(str(workdir))[-1]


@pytest.fixture
def pretrained(tiny_config, images, tmp_path):
    tiny = {"encoder": {"name": "tiny"}, "augment": {"name": "simclr_cifar", "size": 12}}
    data = {"split": "train", "canvas": 20, "test_split": "test", "labels_from_folders": True}
    config = recipe("simclr_folder", "laptop", images, data=data, **tiny)
    train(config, tmp_path / "pretrained")
    return tmp_path / "pretrained"


@pytest.mark.thorough
def test_every_recipe_trains_on_class_folders_with_the_pretrained_network(
    pretrained, images, tmp_path
):
    start = {"warm_start": {"checkpoint": str(pretrained)}, "evals": {}}
    longer = {**start, "run": {"epochs": 40}, "schedule": {"base_lr": 0.02}}
    finetuned = train(recipe("finetune", "folder", images, **longer), tmp_path / "finetuned")
    assert finetuned["test_top1"] == 1.0, "red and yellow pictures"
    assert "test_top1" in train(recipe("linear_probe", "folder", images, **start), tmp_path / "p")
    encoder = {"encoder": {"name": "tiny"}, "data": {"canvas": 20}}
    sizes = {"augment": {"name": "finetune", "size": 12}}
    supervised = recipe("supervised", "folder,laptop", images, **encoder, **sizes)
    assert "test_top1" in train(supervised, tmp_path / "supervised")
    student = recipe("distill", "folder,laptop", images, encoder={"name": "tiny"})
    student["method"] |= {"teacher": str(tmp_path / "finetuned")}
    student["run"] |= longer["run"]
    student["schedule"] |= longer["schedule"]
    assert train(student, tmp_path / "student")["test_top1"] == 1.0
    config = json.loads((tmp_path / "student/config.json").read_text())
    assert config["data"]["class_names"] == ["apple", "banana"]
    assert (config["augment"]["size"], config["data"]["canvas"]) == (12, 20)

    again = recipe("simclr_folder", "laptop", images, encoder={"name": "tiny"}, **start)
    again["augment"] = {"name": "simclr_cifar", "size": 12}
    train(again, tmp_path / "again")

    strange = tmp_path / "strange"
    write(strange, "test", "apple", "cherry", num=8)
    judge = ("evaluate", f"--workdir={tmp_path / 'finetuned'}", "--data=folder")
    refused = verb(*judge, f"--path={strange}", "--test_split=test")
    assert refused.returncode == 2, refused.stderr
    assert "'cherry', that are none of the 2 expected ones, 'apple', 'banana'" in refused.stderr
    leaking = verb("evaluate", f"--workdir={tmp_path / 'finetuned'}", "--test_split=train")
    assert leaking.returncode == 2, leaking.stderr
    assert "48 of the 48 test images" in leaking.stderr
    assert not (tmp_path / "finetuned/results.json").exists()


def test_figures_and_features_say_of_which_images_they_are(pretrained, images, tmp_path):
    strange = tmp_path / "strange"
    write(strange, "train", "apple", "cherry")
    write(strange, "test", "apple", "cherry", num=8)
    judge = ("evaluate", f"--workdir={pretrained}", "--protocol=knn", "--fractions=1")
    other = ("--data=folder", f"--path={strange}", "--split=train", "--test_split=test")
    for flags in ((), other):
        result = verb(*judge, "--features=encoder", *flags)
        assert result.returncode == 0, result.stderr
    rows = json.loads((pretrained / "results.json").read_text())
    assert [(row["train_data"], row["test_data"], row["num_classes"]) for row in rows] == [
        (f"folder {root}/train", f"folder {root}/test", 2) for root in (images, strange)
    ]
    result = verb("report", f"--workdir={pretrained}")
    assert result.returncode == 0, result.stderr
    page = (pretrained / "report.html").read_text()
    assert page.index(f"judged on folder {images}/test") < page.index(f"folder {strange}/test")

    output = tmp_path / "features.npz"
    result = verb(
        "embed", f"--workdir={pretrained}", f"--path={strange}/test", f"--output={output}"
    )
    assert result.returncode == 0, result.stderr
    assert f"features [16, 8] of folder {strange}/test, labels of 2 classes" in result.stdout
    with np.load(output) as file:
        assert file["class_names"].tolist() == ["apple", "cherry"]
        assert file["labels"].tolist() == [0] * 8 + [1] * 8
