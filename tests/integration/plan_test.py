"""`plan` as a user calls it, with the TPU compiler and without."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from simclr_jax.plan.text import describe
from tests.program import run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.integration
HAVE_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.plan("libtpu")
DIGITS = "--config=configs/simclr_digits.py"
SMOKE = "--config=configs/simclr_imagenet.py:smoke"
PROBE = "--config=configs/linear_probe.py:v2_r50_1x"
TINY = ("--config.encoder.width=0.0625", "--config.augment.size=20")


def plan(*arguments):
    command = [sys.executable, "-m", "simclr_jax", "plan", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def plan_json(*arguments):
    result = plan(*arguments, "--json")
    assert result.returncode in (0, 1), result.stderr
    answer = json.loads(result.stdout)
    assert answer["fits"] == (result.returncode == 0)
    return answer, result


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((DIGITS, "--topology=v5e-64"), "Did you mean 'v5litepod-64'"),
        ((DIGITS, "--topology=v5e:2x2", "--price=0"), "--price=0.0 must be a number above 0"),
        ((DIGITS, "--topology=v5e:2x2", "--price=nan"), "--price=nan must be a number above 0"),
    ],
)
def test_mistakes_are_named_before_anything_is_compiled(arguments, says):
    result = run("plan", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert says in result.stderr
    assert "Compiling" not in result.stderr


def test_what_a_step_takes_on_this_machine():
    result = run("plan", DIGITS, "--topology=here", "--json", *TINY)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["fits"]
    assert (answer["topology"], answer["devices"]) == ("here", 1)
    kinds = ("arguments", "temporaries", "line", "next_batch")
    parts = sum(answer[f"{kind}_bytes"] for kind in kinds)
    assert answer["needed_hbm_bytes"] == pytest.approx(parts, rel=0.02)
    batch = answer["arguments_bytes"] - answer["state_bytes_per_device"]
    assert batch == pytest.approx(answer["next_batch_bytes"], rel=0.01)
    assert sum(part["hbm_bytes"] for part in answer["traffic"]) == answer["hbm_bytes"]
    assert "estimate" not in answer, "no data sheet of this machine is known"
    page = describe(answer)
    assert "on this machine fits" in page
    assert "RAM traffic by part" in page
    assert not re.search("HBM|program", page), "its program is not counted"


@pytest.mark.skipif(HAVE_LIBTPU, reason="requirements-tpu.txt is installed")
def test_without_the_compiler_says_how_to_install_it():
    result = run("plan", DIGITS, "--topology=v5e:2x2")
    assert result.returncode == 2
    assert "pip install -r requirements-tpu.txt" in result.stderr


@needs_libtpu
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((DIGITS, "--topology=v5e:8x8", "--config.data.batch_size=100"), "batch_size=100 cannot"),
        (
            ("--config=configs/simclr_folder.py", "--topology=v5e:2x2", "--config.data.path=/none"),
            "--num_images=N",
        ),
        (
            (PROBE, "--topology=v5e:2x2", "--config.data.name=folder", "--num_images=100"),
            "--config.heads.classifier.num_classes=N",
        ),
    ],
)
def test_mistakes_in_a_config(arguments, says):
    result = plan(*arguments)
    assert result.returncode == 2
    assert says in result.stderr


@needs_libtpu
def test_the_figures_agree_with_each_other():
    answer, result = plan_json(DIGITS, "--topology=v3-8", "--price=2", *TINY)
    noise = [
        line for line in result.stderr.splitlines() if not re.search("Compiling|It fits", line)
    ]
    assert noise == [], "libtpu looks for a machine that is not there"
    assert (answer["topology"], answer["chips"], answer["devices"]) == ("v3:2x2", 4, 8)
    assert (answer["batch_per_device"], answer["images"]["count"]) == (16, 4000)
    # On a v3 the compiler counts what is in HBM and nothing else, but loops once.
    assert answer["hbm_bytes"] == pytest.approx(answer["bytes_accessed"], rel=0.25)
    assert answer["collectives"]["all-reduce"]["count"] > 0
    for kind, row in answer["overlapped"].items():
        assert row["count"] <= answer["collectives"][kind]["count"]
    assert sum(part["hbm_bytes"] for part in answer["traffic"]) == answer["hbm_bytes"]
    assert {"forward", "backward"} <= {part["pass"] for part in answer["traffic"]}
    estimate = answer["estimate"]
    assert "not a measurement" in estimate["basis"]
    by_bytes = answer["hbm_bytes"] / (answer["chip"]["hbm_bandwidth"] / 2)
    by_flops = answer["flops"] / (answer["chip"]["peak_bf16_flops"] / 2)
    assert estimate["step_seconds"] == pytest.approx(max(by_bytes, by_flops))
    assert estimate["pairs_per_second"] == pytest.approx(128 / estimate["step_seconds"])
    assert estimate["steps"] == pytest.approx(4000 * 50 / 128, abs=0.5)
    assert estimate["usd"] == pytest.approx(2 * 4 * estimate["hours"])
    image_bytes = 2 * (20 * 20 * 3 + 2 * 4) + 2 * 4  # two cuts and their sizes, a label and an id
    assert estimate["host_to_device_bytes"] == 128 * image_bytes
    assert estimate["images_per_host_second"] == pytest.approx(estimate["pairs_per_second"])
    page = describe(answer | {"flags": ["--config.encoder.remat=blocks"]})
    assert "The first settings that fit: --config.encoder.remat=blocks" in page
    assert re.search(r"all-reduce +\d+, [\d.]+ \w?B of results; all else waits", page)


@needs_libtpu
def test_images_and_checkpoints_that_are_not_there_are_stood_in_for():
    small = ("--config.data.batch_size=8", "--config.encoder.width=0.0625", "--topology=v5e:2x2")
    recipe = "--config=configs/distill.py:v2_r50_1x"
    answer, _ = plan_json(recipe, *small, "--config.augment.size=32", "--config.data.canvas=32")
    assert answer["images"]["count"] == 1_281_167
    assert "not here" in answer["images"]["how"]
    assert "teacher" in answer["assumed"]
    assert answer["overrides"]["encoder.width"] == 0.0625


@needs_libtpu
def test_people_get_a_page():
    result = plan(SMOKE, "--topology=v5litepod-4", *TINY, "--num_images=1000")
    assert result.returncode == 0, result.stderr
    for words in ("on v5e:2x2 fits", "as many as --num_images says", "not a measurement"):
        assert words in result.stdout


@needs_libtpu
def test_a_step_that_does_not_fit_gets_what_would_bring_it_in():
    large = ("--config.augment.size=112", "--config.data.batch_size=65536", "--num_images=100000")
    result = plan(DIGITS, "--topology=v2-8", *large)
    assert result.returncode == 1, result.stderr
    for words in ("does not fit", "too much", "RESOURCE_EXHAUSTED", "8192 now", "--fit"):
        assert words in result.stdout
    for knob in (
        "parallel.preset=zero1 or fsdp",
        "encoder.remat=convs or blocks",
        "method.grad_cache_chunks=2 or 4",
    ):
        assert f"--config.{knob}" in result.stdout
