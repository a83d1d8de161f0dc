"""SimCLRv2's three steps on a tiny network: what each takes over, and what a mistake is told."""

import dataclasses

import jax
import numpy as np
import pytest

from simclr_jax import run as runs
from simclr_jax.build.experiment import build_experiment
from simclr_jax.build.network import network
from simclr_jax.core.errors import UserError
from simclr_jax.evals.classifier import classifier_accuracy
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from simclr_jax.train.loop import fit
from simclr_jax.train.metrics import read_metrics
from simclr_jax.trained import restored
from tests import program

pytestmark = pytest.mark.integration
ENCODER = {tree: tree for tree in ("params/encoder", "batch_stats/encoder")}
LAYER = {
    f"{collection}/projector/{name}": f"{collection}/projector/{name}"
    for collection, name in (("params", "dense1"), ("params", "norm1"), ("batch_stats", "norm1"))
}


def train(config, workdir):
    with runs.open_run(config, str(workdir)) as run:
        before = jax.device_get(run.state)
        after = fit(run.state, run.step, run.batches, num_steps=run.num_steps, hooks=run.hooks)
        return before, jax.device_get(after)


@pytest.fixture
def supervised_config(tiny_config):
    """The tiny network with a classifier on the first projector layer, and 100 labels."""
    return {
        **tiny_config,
        "run": {"epochs": 3, "log_every": 5, "checkpoint_every": 100},
        "data": {**tiny_config["data"], "fraction": 0.025},
        "augment": {"name": "finetune", "size": 12, "flip": False},
        "heads": {**tiny_config["heads"], "classifier": {"num_classes": None}, "select": 1},
        "method": {"name": "supervised"},
        "evals": {"classifier": {"every_epochs": 3.0}},
    }


@pytest.fixture
def pretrained(tiny_config, tmp_path):
    """A workdir with a checkpoint of another seed than the runs that start from it."""
    config = {**tiny_config, "run": {**tiny_config["run"], "seed": 1}}
    return untrained(config, str(tmp_path / "pretrained"))


def untrained(config, workdir):
    """Makes a workdir with the checkpoint of a run that has not taken a step."""
    state = jax.jit(build_experiment(config).init)()
    state = state.replace(batch_stats=jax.tree.map(lambda x: x + 0.5, state.batch_stats))
    workdirs.claim(workdir, config)
    with CheckpointWriter(workdir) as writer:
        writer.save(63, state, {"next_example": 0, "listing": ""})
    return workdir, jax.device_get(state)


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


WITH_LABELS = {
    "supcon": {"name": "supcon"},
    "hybrid": {"name": "hybrid"},
    "triplet": {"name": "triplet", "positives": "labels"},
}
WITHOUT = {
    "hybrid": {"name": "hybrid", "labelled_weight": 0.0},
    "triplet": {"name": "triplet", "positives": "views"},
}


def run_with_labels(config, method, workdir):
    """Returns a run of 100 labels, with the other images for hybrid, as it is read back."""
    data = {**config["data"], "fraction": 0.025, "keep_unlabelled": method["name"] == "hybrid"}
    workdir, _ = untrained({**config, "data": data, "method": method, "evals": {}}, workdir)
    return restored.load(workdir)


@pytest.mark.parametrize("method", WITH_LABELS.values(), ids=WITH_LABELS)
def test_an_encoder_that_saw_the_labels_is_not_judged_on_them(tiny_config, method, tmp_path):
    run = run_with_labels(tiny_config, method, str(tmp_path / "run"))
    images = dataclasses.replace(run.dataset, split="test", test_split="train")
    with pytest.raises(UserError, match=r"^100 of the 4000 test images .* trained on with labels"):
        run.open_labelled(images)


@pytest.mark.thorough
def test_the_report_counts_the_labels_that_an_encoder_saw(tiny_config, tmp_path):
    run_with_labels(tiny_config, WITH_LABELS["hybrid"], str(tmp_path / "run"))
    said = program.run("report", f"--workdir={tmp_path / 'run'}")
    assert said.returncode == 0, said.stderr
    page = (tmp_path / "run/report.html").read_text()
    assert "<dt>Labels used</dt><dd>100</dd>" in page


@pytest.mark.parametrize("method", WITHOUT.values(), ids=WITHOUT)
def test_an_encoder_that_saw_only_images_is_judged_on_them(tiny_config, method, tmp_path, caplog):
    run = run_with_labels(tiny_config, method, str(tmp_path / "run"))
    images = dataclasses.replace(run.dataset, split="test", test_split="train")
    assert run.open_labelled(images)[2] == (4000 if method["name"] == "hybrid" else 100)
    assert "of the 4000 test images (digits/train), without their labels" in caplog.text


@pytest.mark.thorough  # launch/semi_supervised.sh and the tests below do each step
def test_pretrain_fine_tune_distil(tiny_config, supervised_config, pretrained, tmp_path):
    workdir, source = pretrained
    finetune = {
        **supervised_config,
        "warm_start": {"checkpoint": workdir, "trees": {**ENCODER, **LAYER}},
    }
    before, _ = train(finetune, tmp_path / "finetuned")
    assert_equal(before.params["encoder"], source.params["encoder"])
    assert_equal(before.batch_stats["encoder"], source.batch_stats["encoder"])
    assert_equal(before.params["projector"]["dense1"], source.params["projector"]["dense1"])
    assert not np.any(before.params["classifier"]["kernel"])
    experiment = build_experiment(finetune)
    assert len(experiment.source) == 100
    assert experiment.config["heads"]["classifier"]["num_classes"] == 10

    distill = {
        **tiny_config,
        "augment": supervised_config["augment"],
        "heads": {"classifier": {"num_classes": None, "zero_init": False}},
        "method": {"name": "distill", "teacher": str(tmp_path / "finetuned")},
        "evals": {"classifier": {"every_epochs": 1.0}},
    }
    before, after = train(distill, tmp_path / "student")
    teacher = restored.load(str(tmp_path / "finetuned"))
    assert_equal(before.method_state["teacher"], jax.device_get(teacher.variables))
    assert_equal(after.method_state, before.method_state)
    agreement = [row["agreement"] for row in read_metrics(str(tmp_path / "student"))]
    assert agreement[-1] > agreement[0]

    # The student can be judged when its teacher is gone.
    (tmp_path / "finetuned").rename(tmp_path / "elsewhere")
    student = restored.load(str(tmp_path / "student"))
    test = student.dataset.open("test")
    batches = student.dataset.eval_batches(test, student.network.evaluation.cuts)
    accuracy = classifier_accuracy(student.classify, batches, student.mesh)
    last = read_metrics(str(tmp_path / "student"))[-1]
    assert accuracy["top1"] == pytest.approx(last["test_top1"])
    assert accuracy["num_test"] == 1000


def test_linear_evaluation_leaves_the_encoder_as_it_was(supervised_config, pretrained, tmp_path):
    workdir, source = pretrained
    config = {
        **supervised_config,
        "heads": {"classifier": {"num_classes": None}},
        "method": {"name": "supervised", "train_from": "classifier"},
        "optim": {"name": "sgd", "weight_decay": 0.1},
        "warm_start": {"checkpoint": workdir, "trees": ENCODER},
    }
    _, after = train(config, tmp_path / "probe")
    assert_equal(after.params["encoder"], source.params["encoder"])
    assert_equal(after.batch_stats["encoder"], source.batch_stats["encoder"])
    assert np.all(np.any(after.params["classifier"]["kernel"], axis=0))


def test_a_resumed_run_does_not_start_from_the_checkpoint_again(
    supervised_config, pretrained, tmp_path
):
    workdir, _ = pretrained
    config = {**supervised_config, "warm_start": {"checkpoint": workdir, "trees": ENCODER}}
    _, straight = train(config, tmp_path / "run")
    before, _ = train(config, tmp_path / "run")
    assert_equal(before, straight)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("warm_start", {"checkpoint": "/nowhere", "trees": ENCODER}, "/nowhere holds no run"),
        ("encoder", {"name": "tiny", "width": 4}, "params/encoder: 3 of 3 arrays differ"),
        ("heads", {"classifier": {"num_classes": 7}}, "num_classes=7, but digits/train.* has 10"),
        ("heads", {"classifier": {"num_classes": None}, "select": 1}, "select=1 must be 0"),
        ("heads", {}, r"needs config\.heads\.classifier"),
        ("method", {"name": "distill", "teacher": "/nowhere"}, "/nowhere holds no run"),
        ("method", {"name": "distill", "teacher": None}, "config.method.teacher is missing"),
        ("data", {"fraction": 0.0}, "data.fraction=0.0 must be above 0 and at most 1"),
        ("data", {"fraction": 2}, "data.fraction=2.0 must be above 0 and at most 1"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    supervised_config, pretrained, tmp_path, section, changes, message
):
    workdir, _ = pretrained
    config = {**supervised_config, "warm_start": {"checkpoint": workdir, "trees": ENCODER}}
    config[section] = {**config[section], **changes} if section == "data" else changes
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "wrong")
    assert not (tmp_path / "wrong/metrics.jsonl").exists()


def test_a_pretrained_network_is_no_teacher(tiny_config, pretrained):
    config = {**tiny_config, "method": {"name": "distill", "teacher": pretrained[0]}}
    with pytest.raises(UserError, match=r"has no classifier to learn from. Fine-tune it first"):
        build_experiment(config)


def test_a_teacher_of_other_classes_is_refused(tiny_config, supervised_config, tmp_path):
    teacher = str(tmp_path / "teacher")
    workdirs.claim(teacher, build_experiment(supervised_config).config)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.jpg").touch()
    images = {"name": "folder", "split": "all", "path": str(tmp_path / "images")}
    images |= {"labels_from_folders": True, "batch_size": 2, "canvas": 28}
    config = {
        **tiny_config,
        "data": images,
        "heads": {"classifier": {"num_classes": None}},
        "method": {"name": "distill", "teacher": teacher},
    }
    with pytest.raises(UserError, match="'cat', 'dog', that are none of the 10 expected ones"):
        build_experiment(config)
    config["data"] = images | {"labels_from_folders": False}
    config["heads"] = {"classifier": {"num_classes": 7}}
    with pytest.raises(UserError, match="tells 10 classes apart and the student 7"):
        build_experiment(config)


def test_a_network_is_the_one_that_the_run_trained(tiny_config):
    shapes = build_experiment(tiny_config).abstract_state
    net = network(tiny_config)
    same = lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype)
    assert all(jax.tree.leaves(jax.tree.map(same, shapes.params, net.shapes["params"])))
