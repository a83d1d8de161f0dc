"""sweep: a run for each value, done once, with the figures of its workdir; mistakes come first."""

import json
from pathlib import Path

import jax
import pytest

import simclr_jax
from simclr_jax import sweeps
from simclr_jax.core.errors import TryAgainError, UserError
from simclr_jax.train.health import NonFiniteError
from simclr_jax.train.hooks import Terminated
from tests import program
from tests.tiny import runs_on, write_recipe

pytestmark = pytest.mark.integration


@pytest.fixture
def sweep(tiny_config, tmp_path):
    """Returns a function that sweeps the strength of colour jitter in two runs of 5 steps."""
    tiny_config["data"] |= {"fraction": 0.25, "batch_size": 200}
    path = write_recipe(tmp_path / "own.py", tiny_config | {"evals": {}})

    def run(values, **settings):
        given = {"key": "augment.color_strength", "workdir": tmp_path / "sweep", "fractions": [1.0]}
        with runs_on(1):
            return simclr_jax.sweep(str(path), values=values, **given | settings)

    return run


def times(workdir):
    files = (workdir / "checkpoints").glob("*/*"), workdir.glob("*.json*")
    return {path: path.stat().st_mtime_ns for group in files for path in group}


@pytest.mark.thorough
def test_each_value_has_a_run_with_its_figures_and_is_done_once(sweep, tmp_path):
    rows = sweep([1.0, 0.0])
    assert [row["value"] for row in rows] == [1.0, 0.0]
    for row in rows:
        assert row["workdir"].endswith(f"sweep/color_strength={row['value']}")
        directory = tmp_path / "sweep" / f"color_strength={row['value']}"
        config = json.loads((directory / "config.json").read_text())
        assert config["augment"]["color_strength"] == row["value"]
        last = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
        assert row["below_chance"] == pytest.approx(last["loss_chance"] - last["loss"])
        assert (row["alignment"], row["uniformity"]) == (last["alignment"], last["uniformity"])
        judged = json.loads((directory / "results.json").read_text())
        top1 = {result["protocol"]: result["top1"] for result in judged}
        assert (row["knn 1"], row["linear 1"]) == (top1["knn"], top1["linear"])
        assert 1 <= row["effective_rank"] <= 8
    page = (tmp_path / "sweep/sweep.html").read_text()
    assert "Sweep of augment.color_strength" in page
    assert page.count("<svg") == 5
    assert f"{100 * rows[0]['knn 1']:.1f}" in page

    before = times(tmp_path / "sweep/color_strength=1.0")
    (tmp_path / "sweep/color_strength=0.0/results.json").unlink()  # trained, and not judged yet
    trained = times(tmp_path / "sweep/color_strength=0.0")
    assert sweep([1.0, 0.0]) == rows
    assert times(tmp_path / "sweep/color_strength=1.0") == before
    assert trained.items() <= times(tmp_path / "sweep/color_strength=0.0").items()
    with pytest.raises(UserError, match=r"data.fraction: 0.25 there, 0.5 here"):
        sweep([1.0], data={"fraction": 0.5})


def write_configs(patch, fails, trained):
    """Makes runs write their config alone, raise what `fails` has, and be noted in `trained`."""

    def train(config, workdir):
        value = config["augment"]["color_strength"]
        trained.append(value)
        if value in fails:
            raise fails[value]
        Path(workdir).mkdir(parents=True, exist_ok=True)
        (Path(workdir) / "config.json").write_text(json.dumps({"version": 2, **config}))

    patch.setattr(sweeps, "train", train)
    patch.setattr(sweeps, "evaluate", lambda workdir, **how: None)


@pytest.fixture
def diverging(monkeypatch):
    """Returns value -> what its run raises, and the list of the values that were trained."""
    fails, trained = {}, []
    write_configs(monkeypatch, fails, trained)
    return fails, trained


FAILURES = [
    NonFiniteError("The loss is NaN."),
    UserError("The images have no labels."),
    MemoryError(),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_a_run_that_fails_is_told_and_keeps_no_other_from_being_made(
    sweep, diverging, tmp_path, failure
):
    fails, trained = diverging
    fails[0.5] = failure
    for _ in range(2):  # the same call tries it again
        rows = sweep([0.0, 0.5, 1.0])
        told = f"{failure}" or "out of memory"
        assert [row.get("failure") for row in rows] == [None, told, None]
        page = (tmp_path / "sweep/sweep.html").read_text()
        assert f"Failed, augment.color_strength=0.5, seed 0: {told}" in page
        assert "2 runs" in page
    assert trained == 2 * [0.0, 0.5, 1.0]
    assert len(sweep([0.5])) == 1  # a page of nothing else


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated(3), TryAgainError("busy")])
def test_what_stops_a_sweep_stops_all_of_it(sweep, diverging, stop):
    fails, trained = diverging
    fails[0.5] = stop
    with pytest.raises(type(stop)):
        sweep([0.5, 1.0])
    assert trained == [0.5]


def test_a_directory_that_cannot_be_made_is_told_before_anything_is_trained(
    sweep, diverging, tmp_path
):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir=.*file/sweep cannot be made: Not a directory"):
        sweep([1.0], workdir=tmp_path / "file/sweep")
    assert diverging[1] == []


def test_another_run_in_a_directory_is_told_before_anything_is_trained(sweep, diverging, tmp_path):
    _, trained = diverging
    sweep([0.0, 1.0])
    (tmp_path / "sweep/color_strength=1.0/checkpoints/5").mkdir(parents=True)
    trained.clear()
    with pytest.raises(UserError, match=r"data.fraction: 0.25 there, 0.5 here"):
        sweep([0.0, 1.0], data={"fraction": 0.5})
    assert trained == []


def fail_at_half():
    """Makes runs write their config alone, and that of the value 0.5 diverge."""
    write_configs(pytest.MonkeyPatch(), {0.5: NonFiniteError("The loss is NaN.")}, [])


def test_the_verb_prints_all_and_exits_with_1_if_a_run_failed(tiny_config, tmp_path):
    path = write_recipe(tmp_path / "own.py", tiny_config | {"evals": {}})
    words = ("--key=augment.color_strength", "--values=0.5,1", f"--workdir={tmp_path / 'sweep'}")
    said = program.run("sweep", f"--config={path}", *words, "--json", before=fail_at_half)
    assert said.returncode == 1, said.stderr
    assert "error: 1 of 2" in said.stderr, said.stderr
    assert [row["value"] for row in json.loads(said.stdout)["runs"]] == [0.5, 1.0]
    line = "augment.color_strength=0.5, seed 0: The loss is NaN."
    assert f"error: 1 of 2 runs failed:\n{line}\n" in said.stderr
    shown = program.run("sweep", f"--config={path}", *words, before=fail_at_half)
    assert shown.returncode == 1
    assert "Failed, augment.color_strength=0.5" in shown.stdout


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([], {}, "--values is empty"),
        ([1.0, 1.0], {}, "are the same: give each once"),
        ([0.5, -1.0], {}, "color_strength=-1.0 must be between 0"),
        ([1.0], {"key": "augment.colour"}, r"config.augment.colour does not exist"),
        ([1.0], {"fractions": [0.5, 2]}, r"--fractions=2.0 must be"),
        ([0, 1], {"key": "run.seed", "seeds": [5]}, "--seeds=5 both set the seed: leave out"),
        (["bf16"], {"key": "precision"}, "sweep one of them: --key=encoder.dtype"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    sweep, tmp_path, values, settings, message
):
    with pytest.raises(UserError, match=message):
        sweep(values, **settings)
    assert not (tmp_path / "sweep").exists()
