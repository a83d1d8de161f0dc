"""The program from Python: train, load, embed, evaluate, and what it says of mistakes."""

import importlib
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import simclr_jax
from tests.tiny import write_recipe

importlib.import_module("simclr_jax.train.loop")  # the room named like the function is there
pytestmark = pytest.mark.integration


@pytest.fixture
def recipe(tiny_config, tmp_path):
    return write_recipe(tmp_path / "own.py", tiny_config)


@pytest.fixture
def workdir(recipe, tmp_path):
    simclr_jax.train(
        str(recipe),
        workdir=tmp_path / "run",
        data={"fraction": 0.02},
        evals={"knn": None},
        method={"temperature": 0.4},
    )
    return tmp_path / "run"


def test_what_is_trained_can_be_loaded_judged_and_asked(workdir, tmp_path, tiny_encoder):
    config = json.loads((workdir / "config.json").read_text())
    assert (config["data"]["fraction"], config["method"]["temperature"]) == (0.02, 0.4)
    assert config["evals"]["knn"] is None

    encoder = simclr_jax.load(workdir)
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    features = encoder([tmp_path / "0.png", images[1], Image.fromarray(images[2])])
    # Images of the view's size are seen as they are.
    variables = {name: tree["encoder"] for name, tree in encoder.run.variables.items()}
    want = tiny_encoder.apply(variables, jnp.asarray(images / 255, jnp.float32), train=False)
    np.testing.assert_allclose(features, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(encoder(images), features)

    rows = simclr_jax.evaluate(workdir, protocol=["knn"], fractions=[1], features=["encoder"])
    assert [(row["protocol"], row["num_train"]) for row in rows] == [("knn", 4000)]
    assert json.loads((workdir / "results.json").read_text()) == rows
    for ask in (
        lambda: encoder.project(images),
        lambda: encoder.embed_text(["a digit"]),
        lambda: simclr_jax.evaluate(workdir, protocol=["zero_shot"]),
    ):
        with pytest.raises(simclr_jax.UserError, match="has no text tower"):
            ask()

    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    with pytest.raises(simclr_jax.UserError, match=r"1 of 2 images .*image 1 \(.*broken.jpg\)"):
        encoder([images[0], str(tmp_path / "broken.jpg")])
    with pytest.raises(simclr_jax.UserError, match=r"put a single image into a list"):
        encoder(images[0])
    with pytest.raises(simclr_jax.UserError, match=r"the list is empty"):
        encoder([])
    with pytest.raises(simclr_jax.UserError, match=r"Image 0 of .*must be uint8 .*got float64"):
        encoder([images[0] / 255])

    exported = encoder.export(tmp_path / "encoder.stablehlo", format="stablehlo")
    assert exported.difference.relative < 1e-4
    assert (tmp_path / "encoder.stablehlo").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "simclr_digit"}, r"no recipe of that name. Did you mean 'simclr_digits'\?"),
        ({"dta": {"path": "x"}}, r"config.dta does not exist. Did you mean 'data'\?"),
        ({"data": {"pth": "x"}}, r"config.data.pth .*Did you mean 'path'\?"),
        ({"data": "photos"}, r"data='photos' must be a dict"),
        ({"run": {"epochs": "many"}}, r"config.run.epochs.*many"),
        ({"method": {"memory": {"sise": 4}}}, r"config.method.memory.sise .*'size'"),
    ],
)
def test_a_mistake_raises_what_the_command_line_says(recipe, tmp_path, arguments, message):
    given = {"recipe": str(recipe), "workdir": tmp_path / "run", **arguments}
    with pytest.raises(simclr_jax.UserError, match=message):
        simclr_jax.train(given.pop("recipe"), **given)
    assert not (tmp_path / "run").exists()


def test_a_workdir_without_a_run_is_named(tmp_path):
    for ask in (simclr_jax.load, simclr_jax.evaluate):
        with pytest.raises(simclr_jax.UserError, match="holds no run"):
            ask(tmp_path)


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, simclr_jax; print([m for m in ('jax', 'numpy') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_an_unknown_attribute_is_one():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = simclr_jax.trian  # pyright: ignore[reportAttributeAccessIssue] - on purpose
