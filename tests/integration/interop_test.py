"""Both doors by the command line: official weights in, trained weights out to PyTorch and JAX."""

import importlib
import io
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from simclr_jax.interop.names import tf1_name
from simclr_jax.run import train
from tests.program import run
from tests.tfds_directory import write_tfds

ROOT = Path(__file__).parents[2]
R18 = ROOT / "tests/golden/tf1_checkpoints/r18_cifar_w0125"
pytestmark = pytest.mark.integration


def succeed(*arguments):
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def difference(stdout):
    """Returns the relative difference that `export` measured and printed."""
    match = re.search(r"which is (\S+) of the largest feature", stdout)
    assert match is not None, stdout
    return float(match[1])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """64 pictures of two classes, dark and bright, half of them for testing."""
    top = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(64):
        split, level = ("train", "test")[i % 2], ("dark", "bright")[i // 2 % 2]
        tiles = rng.integers(0, 128, (6, 6, 3), np.uint8) + 127 * (level == "bright")
        path = top / split / level / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiles.astype(np.uint8)).resize((40, 40)).save(path)
    return top


@pytest.mark.interop("tensorflow")
def test_an_imported_checkpoint_is_a_workdir_like_any_other(photos, tmp_path):
    workdir = tmp_path / "imported"
    succeed("import", "--format=tf", f"--checkpoint={R18}", f"--workdir={workdir}")
    data = ("--data=folder", f"--path={photos}")
    out = succeed(
        *("evaluate", f"--workdir={workdir}", *data, "--split=train", "--test_split=test"),
        *("--protocol=knn", "--fractions=1", "--features=encoder", "--json"),
    )
    (row,) = json.loads(out)["results"]
    assert (row["num_train"], row["num_test"]) == (32, 32)
    assert row["top1"] > 0.8, "dark and bright pictures are far apart in any network"
    assert "features [64, 64]" in succeed(
        "embed", f"--workdir={workdir}", *data, f"--output={tmp_path / 'f.npz'}"
    )
    exported = f"--output={tmp_path / 'r18.stablehlo'}"
    assert (
        difference(succeed("export", f"--workdir={workdir}", "--format=stablehlo", exported)) < 1e-5
    )

    finetuned = tmp_path / "finetuned"
    succeed(
        *("train", "--config=configs/finetune.py:digits,select=0", f"--workdir={finetuned}"),
        *(f"--config.warm_start.checkpoint={workdir}", "--config.run.epochs=1"),
        *("--config.encoder.width=0.125", "--config.encoder.stem=cifar"),
        *("--config.schedule.warmup_epochs=0.0", "--config.augment.size=12"),
    )
    assert (
        json.loads((finetuned / "metrics.jsonl").read_text().splitlines()[-1])["test_top1"] > 0.15
    )
    refused = run("report", f"--workdir={workdir}")
    assert refused.returncode == 2
    assert "holds an import, not a run" in refused.stderr


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def commands(page):
    """The programs of a page's only block of commands, as lists of arguments."""
    (block,) = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return [line.removeprefix("python -m simclr_jax ").split() for line in block.splitlines()]


def official_stand_in(prefix):
    """Writes an official network with a classifier as a TF1 checkpoint; returns images and logits.

    The logits are those of the official code's representations, and the images uint8.
    """
    tf = importlib.import_module("tensorflow")
    with np.load(ROOT / "tests/golden/r18_cifar_w0125.npz") as file:
        arrays = {key: file[key] for key in file.files}
    weights = {
        tf1_name(key.removeprefix("w/")): value.astype(np.float32)
        for key, value in arrays.items()
        if key.startswith("w/")
    }
    features = arrays["infer/final_avg_pool"]  # of views 1, then of views 2
    kernel = np.random.default_rng(0).normal(size=(features.shape[1], 10)).astype(np.float32)
    spread = features - features.mean(0)
    kernel *= 10 / np.std(spread @ kernel)
    weights["head_supervised/linear_layer/dense/kernel"] = kernel
    weights["head_supervised/linear_layer/dense/bias"] = -features.mean(0) @ kernel
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[*weights],
        shape_and_slices=[""] * len(weights),
        tensors=[tf.constant(value) for value in weights.values()],
    )
    views = np.concatenate([arrays["x"][..., :3], arrays["x"][..., 3:]]).astype(np.float64)
    return np.round(255 * views).astype(np.uint8), spread @ kernel


@pytest.mark.interop("tensorflow")
def test_the_page_on_published_weights_gives_the_accuracy_of_the_official_logits(tmp_path):
    images, logits = official_stand_in(tmp_path / "model.ckpt-1")
    labels = logits.argmax(1)
    assert len(set(labels)) > 3
    first, second = np.sort(logits)[:, -1], np.sort(logits)[:, -2]
    labels[first - second < 1] += 1  # too close to call after rounding: wrong either way
    labels[:3] += 1
    labels %= 10
    want = np.mean(labels == logits.argmax(1))
    assert 0.4 < want < 0.9
    examples = [
        {"image": png(image), "label": int(label)}
        for image, label in zip(images, labels, strict=True)
    ]
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    dark = {"image": png(np.zeros((32, 32, 3), np.uint8)), "label": 0}
    write_tfds(tmp_path, "cifar10", features, {"train": [dark], "test": examples})
    there = {
        "pretrained/r50_1x_sk0": tmp_path / "model.ckpt-1",
        "runs/published": tmp_path / "published",
        # What networks with the CIFAR stem are judged on.
        "tfds/imagenet2012": "tfds/cifar10",
        "validation": "test",
        "DIR": tmp_path,
    }
    out = ""
    for command in commands("docs/published_weights.md"):
        replaced = [flag.partition("=") for flag in command]
        out = succeed(*(f"{k}{e}{there.get(v, v)}" for k, e, v in replaced))
    assert f"{want:.3f}" in out


@pytest.mark.interop("tensorflow")
def test_a_checkpoint_of_another_depth_is_refused(tmp_path):
    workdir = tmp_path / "imported"
    succeed("import", "--format=tf", f"--checkpoint={R18}", f"--workdir={workdir}")
    result = run(
        *("train", "--config=configs/linear_probe.py:digits", f"--workdir={tmp_path / 'probe'}"),
        *(f"--config.warm_start.checkpoint={workdir}", "--config.encoder.depth=34"),
        *("--config.encoder.width=0.125", "--config.encoder.stem=cifar"),
    )
    assert result.returncode == 2
    assert "imported:batch_stats/encoder does not fit batch_stats/encoder" in result.stderr
    assert "stage1/block2/norm1/mean is not there" in result.stderr


@pytest.mark.interop("torch", "safetensors")
def test_weights_of_timm_are_an_encoder_to_start_from(photos, tmp_path):
    torch = importlib.import_module("torch")
    save_file = importlib.import_module("safetensors.torch").save_file
    from simclr_jax.interop.torch_vit import ViT

    torch.manual_seed(0)
    module, weights = ViT("tiny", 8, 32, learned_positions=32), tmp_path / "timm.safetensors"
    state = {name: torch.randn_like(x) / 11 for name, x in module.state_dict().items()}
    save_file(state, str(weights))
    workdir, tuned = tmp_path / "imported", tmp_path / "tuned"
    take_in = ("import", "--format=safetensors", f"--checkpoint={weights}", f"--workdir={workdir}")
    refused = run(*take_in)
    assert refused.returncode == 2
    assert "--normalization is missing" in refused.stderr
    out = succeed(*take_in, "--normalization=imagenet")
    assert "ViT of size 'tiny' with patches of 8 px" in out
    succeed(
        *("train", "--config=finetune:folder", f"--workdir={tuned}", "--config.run.epochs=1"),
        *(f"--config.data.path={photos}", f"--config.warm_start.checkpoint={workdir}"),
        "--config.schedule.warmup_epochs=0",
    )
    config = json.loads((tuned / "config.json").read_text())
    assert (config["encoder"]["learned_positions"], config["augment"]["size"]) == (32, 32)
    assert "test_top1" in (tuned / "metrics.jsonl").read_text().splitlines()[-1]


@pytest.mark.interop("torch", "safetensors")
def test_five_lines_fine_tune_an_exported_digits_run_in_pytorch(tmp_path):
    torch = importlib.import_module("torch")
    from simclr_jax.interop.torch_resnet import load_encoder

    workdir, file = tmp_path / "run", tmp_path / "mine.safetensors"
    succeed("train", "--config=configs/simclr_digits.py:smoke", f"--workdir={workdir}")
    out = succeed("export", f"--workdir={workdir}", "--format=safetensors", f"--output={file}")
    assert difference(out) < 1e-5

    images, labels = torch.rand(20, 3, 28, 28), torch.arange(20) % 10
    losses = []
    encoder = load_encoder(str(file)).train()
    model = torch.nn.Sequential(encoder, torch.nn.Linear(encoder.output_dim, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_stablehlo_file_runs_in_jax_alone(tiny_config, tmp_path):
    workdir, file = tmp_path / "run", tmp_path / "mine.stablehlo"
    tiny_config["data"]["fraction"] = 0.02
    train(tiny_config | {"evals": {}}, str(workdir))
    out = succeed("export", f"--workdir={workdir}", "--format=stablehlo", f"--output={file}")
    assert difference(out) < 1e-5
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    features = exported.call(np.ones((3, 12, 12, 3), np.float32))
    assert features.shape == (3, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=pickle", "--output=x.pkl"], "pickle"),
        (["--format=stablehlo", "--output=nowhere/x.stablehlo"], "nowhere"),
        (["--format=stablehlo", "--output=x.onnx"], ".stablehlo"),
    ],
)
def test_a_mistake_in_an_export_is_told_before_any_work(arguments, message):
    result = run("export", "--workdir=runs/none", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
