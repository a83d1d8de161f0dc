"""sweep: a run for each value, done once, with the figures of its workdir; mistakes come first."""

import json

import pytest

import simclr_jax
from simclr_jax.core.errors import UserError
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


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([], {}, "--values is empty"),
        ([1.0, 1.0], {}, "are the same: give each once"),
        ([0.5, -1.0], {}, "color_strength=-1.0 must be between 0"),
        ([1.0], {"key": "augment.colour"}, r"config.augment.colour does not exist"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    sweep, tmp_path, values, settings, message
):
    with pytest.raises(UserError, match=message):
        sweep(values, **settings)
    assert not (tmp_path / "sweep").exists()
