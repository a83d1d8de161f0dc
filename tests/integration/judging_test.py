"""select and bias on a small run: files of names, tables, the report; mistakes in words."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import read_table
from simclr_jax.report.groups import groups_table
from simclr_jax.run import train
from simclr_jax.trained.groups import judge_groups, read_groups
from tests.program import run
from tests.tiny import runs_on, tiny_is_known, tiny_settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 6 steps; tests write into copies of it."""
    config, workdir = tiny_settings(), tmp_path_factory.mktemp("trained") / "run"
    config["data"] |= {"fraction": 0.08, "batch_size": 64}
    with tiny_is_known(), runs_on(1):
        train(config | {"evals": {}}, str(workdir))
    return workdir


@pytest.fixture
def workdir(trained, tiny_config, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def verb(*arguments):
    """Runs a verb; returns its exit code and what it printed."""
    said = run(*arguments)
    return said.returncode, said


def names_in(path):
    with path.open() as file:
        return [row["name"] for row in csv.DictReader(file)]


def test_the_next_images_are_none_of_those_before(workdir, tmp_path):
    select = ("select", f"--workdir={workdir}", "--count=6")
    code, said = verb(*select, "--curve=10", "--draws=2", "--json")
    assert code == 0, said.stderr
    first = names_in(workdir / "selected.csv")
    found = json.loads(said.stdout)
    assert found["names"] == first
    assert len(set(first)) == 6
    assert [(row["count"], row["method"]) for row in found["curve"]] == [
        (10, "coreset"),
        (10, "random"),
    ]
    assert all(0 <= row["top1"] <= 1 for row in found["curve"])
    then = tmp_path / "then.csv"
    labelled = f"--labelled={workdir / 'selected.csv'}"
    code, said = verb(*select, "--method=cluster", labelled, f"--output={then}")
    assert code == 0, said.stderr
    assert not {*first} & {*names_in(then)}
    (tmp_path / "wrong.csv").write_text("name\nno-such.png\n")
    code, said = verb(*select, f"--labelled={tmp_path / 'wrong.csv'}")
    assert code == 2
    assert "1 of 1 lines name no image" in said.stderr


@pytest.mark.thorough
def test_groups_of_test_images_are_compared_and_stand_in_the_report(workdir, tmp_path):
    """The odd hundred of the digits' numbers is one group, the even one the other."""
    groups = tmp_path / "groups.csv"
    numbers = range(4, 5000, 5)  # those of the test images
    lines = [f"digits/{i},{'odd' if i // 100 % 2 else 'even'}" for i in numbers if i < 4000]
    groups.write_text("\n".join(["name,group", *lines]) + "\n")
    code, said = verb("bias", f"--workdir={workdir}", f"--groups={groups}", "--json")
    assert code == 0, said.stderr
    found = json.loads(said.stdout)
    assert found == read_groups(workdir)
    assert found["num_test"] == 800
    assert {row["group"]: row["num"] for row in found["groups"]} == {"even": 400, "odd": 400}
    by_measure = {(row["measure"], row["group"]): row for row in found["groups"]}
    for measure in ("kNN", "linear probe", "class purity", "group purity", "similarity"):
        even, odd = by_measure[measure, "even"], by_measure[measure, "odd"]
        assert even["gap"] == pytest.approx(-odd["gap"])
        assert even["low"] <= even["gap"] <= even["high"]
    assert len(groups_table(found).rows) == 10
    code, said = verb("report", f"--workdir={workdir}")
    assert code == 0, said.stderr
    assert "Groups of digits/test" in (workdir / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,group\na,b\n", "must have the columns name,group"),
        ("name,group\ndigits/4,a\ndigits/4,b\n", "line 3: each image needs one name and one group"),
        (
            "name,group\nw.png,a\nx.png,a\ny.png,b\nz.png,b\n",
            r"4 of its names are of no image of digits/test, such as 'w.png'",
        ),
    ],
)
def test_a_file_of_groups_that_does_not_fit_is_refused(workdir, tmp_path, text, message):
    groups = tmp_path / "groups.csv"
    groups.write_text(text)
    with pytest.raises(UserError, match=message):
        judge_groups(str(workdir), str(groups))
    assert not (workdir / "groups.json").exists()


NOTHING_IN_IT = [
    ("", "must have the columns name"),
    ("name,group\n", "has no lines below the first"),
    ("name,group\ncaf\xe9,a\n", "is not UTF-8"),
    (None, "cannot be read: Is a directory"),
]


def no_embedding(*arguments, **settings):
    raise AssertionError("an image was embedded")


@pytest.mark.parametrize(("text", "message"), [*NOTHING_IN_IT, ("name,group\na,b\n", "1 groups")])
def test_a_file_with_no_groups_in_it_is_refused_before_images_are_read(
    workdir, tmp_path, monkeypatch, text, message
):
    monkeypatch.setattr("simclr_jax.trained.groups.embed", no_embedding)
    groups = tmp_path / "groups.csv"
    groups.mkdir() if text is None else groups.write_text(text, "latin-1")
    with pytest.raises(UserError, match=rf"--groups={groups}.* {message}"):
        judge_groups(str(workdir), str(groups))


@pytest.mark.parametrize(("text", "message"), NOTHING_IN_IT)
def test_a_file_of_labelled_names_is_refused_in_words(workdir, tmp_path, text, message):
    path = tmp_path / "names.csv"
    path.mkdir() if text is None else path.write_text(text, "latin-1")
    code, said = verb("select", f"--workdir={workdir}", "--count=6", f"--labelled={path}")
    assert code == 2, said.stderr
    assert f"error: --labelled={path}" in said.stderr
    assert message in said.stderr


def test_the_files_of_a_spreadsheet_are_read(workdir, tmp_path):
    path = tmp_path / "names.csv"
    path.write_bytes(b"\xef\xbb\xbfname,note\r\ndigits/3,\r\ndigits/8,a\r\n")
    assert read_table(str(path), "--labelled", ["name"]) == [
        {"name": "digits/3"},
        {"name": "digits/8"},
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--curve=1,5000"], "--curve=1,5000: 5000 labels of"),
        (["--curve=many"], "--curve=many must be whole numbers"),
        (["--method=core"], "--method=core is none of coreset"),
        (["--count=9000"], "--count=9000: "),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_by_its_flag(workdir, more, message):
    code, said = verb("select", f"--workdir={workdir}", "--count=5", *more)
    assert code == 2, said.stderr
    assert f"error: {message}" in said.stderr


def test_one_command_judges_on_several_data_sets_and_one_table_shows_them(workdir, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(16):
        where = tmp_path / "photos" / ("train" if i % 2 else "test") / ("a" if i < 8 else "b")
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8)).save(where / f"{i}.png")
    images = ["--data=digits", "--path=", "--data=folder", f"--path={tmp_path / 'photos'}"]
    how = ["--split=train", "--test_split=test", "--fractions=1", "--features=encoder"]
    evaluate = ("evaluate", f"--workdir={workdir}", *how, *images)
    code, said = verb(*evaluate)
    assert code == 0, said.stderr
    rows = json.loads((workdir / "results.json").read_text())
    assert [row["test_data"].split("/")[-1] for row in rows] == ["test"] * 4
    table = said.stdout.partition("The encoder on each data set")[2]
    for row in rows:
        assert f"{100 * row['top1']:.1f}" in table
    assert "digits/test" in table
    code, said = verb(*evaluate, "--split=train", "--split=train")
    assert code == 2
    assert "--split is given 3 times, and --data 2 times" in said.stderr
