"""The package as pip installs it: what is in it, and that its command needs no checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "setuptools", minversion="77", reason="requirements-release.txt is not installed"
)
pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "simclr_jax", "configs")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with nothing but the installed package; what it needs is there already."""
    copy, target = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:  # a build leaves files beside its sources
        take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        take(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "--target", target, copy], check=True)
    return target


def run(installed, cwd, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    command = [installed / "bin" / "simclr-jax", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_every_module_and_recipe_is_inside(installed):
    def files(top, *patterns):
        return {path.relative_to(top) for pattern in patterns for path in top.rglob(pattern)}

    package = installed / "simclr_jax"
    assert files(package / "configs", "*.py") == files(ROOT / "configs", "*.py")
    kinds = ("*.py", "*.css", "py.typed")
    inside = {path for path in files(package, *kinds) if path.parts[0] != "configs"}
    assert inside == files(ROOT / "simclr_jax", *kinds)


def test_the_command_takes_recipes_by_name_and_by_path_from_any_directory(installed, tmp_path):
    shutil.copy(ROOT / "configs/simclr_digits.py", tmp_path / "own.py")
    for recipe in ("simclr_digits:smoke", "own.py:smoke"):
        result = run(installed, tmp_path, "train", f"--config={recipe}", "--help-config")
        assert result.returncode == 0, result.stderr
        assert "config.run.epochs" in result.stdout


def test_the_command_says_what_it_is(installed, tmp_path):
    assert run(installed, tmp_path, "--help").stdout.startswith("usage: simclr-jax VERB")
    assert run(installed, tmp_path, "--version").stdout.startswith("simclr_jax 0.")
    assert "simclr_folder" in run(installed, tmp_path, "train", "--config=x", "--workdir=D").stderr
