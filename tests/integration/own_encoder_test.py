"""The verbs with an encoder of one's own, and with a ViT, as their page shows them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "encoders.md"
OWN = "my_encoders:ThreeConvs"
DIGITS = ("--config=simclr_digits:smoke", "--config.data.fraction=0.25")
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with the module of the page, which leaves a file behind when it is imported."""
    top = tmp_path_factory.mktemp("own")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    trace = "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n"
    (top / "my_encoders.py").write_text(trace + code)
    return top


def run(folder, *arguments):
    command = [sys.executable, "-m", "simclr_jax", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def succeed(folder, *arguments):
    result = run(folder, *arguments)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.thorough
def test_trains_resumes_and_is_judged_and_no_workdir_imports_it(folder):
    train = ("train", *DIGITS, f"--config.encoder.name={OWN}", "--workdir=run")
    succeed(folder, *train)
    longer = succeed(folder, *train, "--config.run.epochs=2")
    assert "The run is resumed" in longer.stderr
    (folder / "imported").unlink()

    judge = ("evaluate", "--workdir=run", "--protocol=knn", "--fractions=1", "--features=encoder")
    start = ("train", "--config=finetune:folder", "--workdir=next", "--config.data.path=.")
    for arguments in (judge, (*start, "--config.warm_start.checkpoint=run")):
        refused = run(folder, *arguments)
        assert refused.returncode == 2, refused.stderr
        assert f"If you trust that module, say so: --encoder={OWN}" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (folder / "imported").exists()
    assert not (folder / "next").exists()

    judged = succeed(folder, *judge, f"--encoder={OWN}", "--json")
    (row,) = json.loads(judged.stdout)["results"]
    assert row["top1"] > 0.3, "of 10 digits"


@pytest.mark.thorough
def test_a_vit_goes_from_training_to_a_file(tmp_path):
    vit = ("--config.encoder.name=vit", "--config.encoder.size=tiny", "--config.encoder.patch=7")
    succeed(tmp_path, "train", *DIGITS, *vit, "--workdir=run")
    file = "--output=vit.stablehlo"
    out = succeed(tmp_path, "export", "--workdir=run", "--format=stablehlo", file).stdout
    match = re.search(r"which is (\S+) of the largest feature", out)
    assert match is not None, out
    assert float(match[1]) < 1e-5
