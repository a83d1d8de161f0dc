"""compare: figures as the workdirs have them, each beside its images; dashes; mistakes."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.report.comparison import (
    facts,
    missing,
    read_runs,
    settings_that_differ,
    tables,
    write_comparison,
)
from simclr_jax.report.sweep import Point, measures, sweep_table
from tests.program import run

ATTACK = "<script>alert(1)</script>\"'> \x1b[31m[red][/x]"


def config(method, **sections):
    return {
        "version": 2,
        "data": {"name": "digits", "path": None, "split": "train", "test_split": "test"},
        "encoder": {"name": "resnet", "depth": 18, "width": 0.25},
        "method": {"name": method, "temperature": 0.1},
        **sections,
    }


def judged(
    protocol, fraction, top1, *, std=0.0, data="digits", features="encoder", step=90, **more
):
    return {
        "protocol": protocol,
        "features": features,
        "label_fraction": fraction,
        "num_train": round(4000 * fraction),
        "num_test": 1000,
        "top1": top1,
        "top1_std": std,
        "draws": 10 if std else 1,
        "train_data": f"{data}/train",
        "test_data": f"{data}/test",
        "step": step,
        **more,
    }


FULL = [
    judged("knn", 1.0, 0.933, effective_rank=40.25),
    judged("linear", 0.01, 0.8657, std=0.0196),
    judged("linear", 0.1, 0.9417, std=0.0066),
    judged("linear", 1.0, 0.966),
    judged("linear", 1.0, 0.914, features="pixels"),
]
METRICS = [
    {"step": 10, "epoch": 0.5, "loss": 5.0, "loss_chance": 6.25, "seconds": 9.0},
    {"step": 20, "epoch": 1, "loss": 4.0, "loss_chance": 6.25, "pairs_per_second": 700.0},
    {"step": 90, "epoch": 4.5, "loss": 2.8, "loss_chance": 6.25, "pairs_per_second": 900.0}
    | {"seconds": 84.0, "alignment": 0.5, "uniformity": -2.0},
]


@pytest.fixture
def workdir(tmp_path):
    """Returns a function that writes a workdir by hand and returns its path."""

    def write(name, settings, metrics=(), results=None, step="90"):
        directory = tmp_path / name
        (directory / "checkpoints" / step).mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(settings))
        (directory / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
        if results is not None:
            (directory / "results.json").write_text(json.dumps(results))
        return str(directory)

    return write


def table(runs, title):
    """Returns run (or setting) -> head -> cell of the table with a title."""
    (found,) = [t for t in tables(runs) if t.title == title]
    return {row[0]: dict(zip(found.heads, row, strict=True)) for row in found.rows}


def test_figures_are_those_of_the_workdir(workdir):
    runs = read_runs([workdir("a", config("simclr"), METRICS, FULL)])
    assert facts(runs[0]) == {
        "workdir": runs[0].workdir,
        "method": "simclr",
        "encoder": "resnet, depth 18, width 0.25",
        "trained_on": "digits/train",
        "epochs": 4.5,
        "steps": 90,
        "loss": 2.8,
        "loss_chance": 6.25,
        "projection_std": None,
        "below_chance": 6.25 - 2.8,
        "alignment": 0.5,
        "uniformity": -2.0,
        "effective_rank": 40.25,
        "effective_rank_of": "digits/test",
        "images_per_second": 800.0,
        "seconds": 84.0,
    }
    assert table(runs, "Training")["a"] == {
        "run": "a",
        "epochs": "4.5",
        "steps": "90",
        "loss": "2.800",
        "chance": "6.250",
        "deviation": "-",
        "examples/s": "800",
        "time": "1 min 24 s",
    }
    assert table(runs, "Representation")["a"] == {
        "run": "a",
        "chance - loss": "3.450",
        "alignment": "0.500",
        "uniformity": "-2.000",
        "effective rank, digits/test": "40.2",
    }
    assert table(runs, "Fitted on digits/train, judged on digits/test")["a"] == {
        "run": "a",
        "step": "90",
        "linear probe 1 %": "86.6\u00b12.0",
        "linear probe 10 %": "94.2\u00b10.7",
        "linear probe 100 %": "96.6",
        "kNN 100 %": "93.3",
    }
    assert missing(runs) == []


def test_a_loss_without_a_chance_level_stands_beside_what_shows_a_collapse(workdir):
    logged = {"step": 10, "epoch": 1, "loss": 0.25, "projection_std": 0.0123}
    runs = read_runs(
        [
            workdir("a", config("byol"), [logged]),
            workdir("b", config("simclr"), [{**logged, "loss_chance": 6.25}]),
        ]
    )
    shown = {
        name: (row["chance"], row["deviation"]) for name, row in table(runs, "Training").items()
    }
    assert shown == {"a": ("-", "0.0123"), "b": ("6.250", "-")}


def test_figures_on_other_images_stand_in_a_table_of_their_own(workdir):
    other = [judged("knn", 1.0, 0.5, data="tfds/cifar10")]
    runs = read_runs(
        [workdir("a", config("simclr"), (), FULL), workdir("b", config("byol"), (), other)]
    )
    digits = table(runs, "Fitted on digits/train, judged on digits/test")
    cifar = table(runs, "Fitted on tfds/cifar10/train, judged on tfds/cifar10/test")
    assert [digits[run]["kNN 100 %"] for run in "ab"] == ["93.3", "-"]
    assert [cifar[run]["kNN 100 %"] for run in "ab"] == ["-", "50.0"]


def test_an_effective_rank_is_of_the_runs_own_test_images_whatever_was_judged_first(workdir):
    other = judged("knn", 1.0, 0.5, data="tfds/cifar10", effective_rank=7.0)
    a = workdir("a", config("simclr"), (), [other, *FULL])
    b = workdir("b", config("byol"), (), [FULL[0] | {"effective_rank": 30.0}, other])
    runs = read_runs([a, b])
    assert [facts(run)["effective_rank"] for run in runs] == [40.25, 30.0]
    ranks = {name: row["effective rank, digits/test"] for name, row in shown(runs).items()}
    assert ranks == {"a": "40.2", "b": "30.0"}
    assert [*measures(Point(1, 0, runs[0])).items()][:4] == [
        ("linear 0.01", 0.8657),
        ("linear 0.1", 0.9417),
        ("linear 1", 0.966),
        ("knn 1", 0.933),
    ]


def test_a_column_has_effective_ranks_of_one_data_set(workdir):
    cifar = config("byol", data={"name": "tfds/cifar10", "path": "/tfds", "test_split": "test"})
    other = judged("knn", 1.0, 0.5, data="tfds/cifar10", effective_rank=7.0)
    a, b = workdir("a", config("simclr"), (), FULL), workdir("b", cifar, (), [FULL[0], other])
    runs = read_runs([a, b])
    heads = ["effective rank, digits/test", "effective rank, tfds/cifar10/test"]
    assert [[row[head] for head in heads] for row in shown(runs).values()] == [
        ["40.2", "-"],
        ["40.2", "7.0"],
    ]
    swept = sweep_table("data.name", [Point("digits", 0, runs[0]), Point("cifar10", 0, runs[1])])
    assert swept.notes[-1] == (
        "Not alike: judged on digits/test at digits, tfds/cifar10/test at cifar10."
    )


def shown(runs):
    return table(runs, "Representation")


def test_what_has_no_checkpoint_is_told_and_not_to_be_judged(workdir):
    runs = read_runs(
        [workdir("a", config("simclr"), (), FULL), workdir("b", config("byol"), step="")]
    )
    assert missing(runs) == []
    assert tables(runs)[0].notes == ["Without a checkpoint, so there is nothing to judge yet: b."]
    assert tables(runs[:1])[0].notes == []


def test_a_figure_that_is_not_there_is_a_dash_with_the_command_that_makes_it(workdir):
    part = [judged("knn", 0.05, 0.7, data="folder /photos of me", std=0.1)]
    runs = read_runs(
        [workdir("a", config("simclr"), (), part), workdir("b", config("vicreg"), (), None)]
    )
    title = "Fitted on folder /photos of me/train, judged on folder /photos of me/test"
    assert set(table(runs, title)["b"].values()) == {"b", "-"}
    assert set(table(runs, "Training")["b"].values()) == {"b", "-"}
    how = (
        "--protocol=knn,linear --fractions=0.01,0.05,0.1,1 --data=folder '--path=/photos of me'"
        " --split=train --test_split=test"
    )
    assert missing(runs) == [
        f"python -m simclr_jax evaluate --workdir={run.workdir} {how}" for run in runs
    ]


def test_a_classifier_is_not_asked_of_a_run_that_has_none(workdir):
    row = judged("classifier", 0.01, 0.878)
    runs = read_runs(
        [workdir("a", config("supervised"), (), [row]), workdir("b", config("simclr"), ())]
    )
    title = "Fitted on digits/train, judged on digits/test"
    assert table(runs, title) == {"a": {"run": "a", "step": "90", "classifier": "87.8"}}
    assert missing(runs) == [f"python -m simclr_jax evaluate --workdir={runs[1].workdir}"]


def test_figures_of_one_column_that_are_not_alike_are_marked(workdir):
    other = [{**FULL[0], "k": 20, "pretrained_on_test": 7}, *FULL[1:]]
    runs = read_runs(
        [workdir("a", config("simclr"), (), FULL), workdir("b", config("byol"), (), other)]
    )
    (notes,) = [t.notes[1:] for t in tables(runs) if t.title.startswith("Fitted")]
    assert notes == [
        "Not alike, kNN 100 %: k is None in a, 20 in b.",
        "Not alike, kNN 100 %: pretrained_on_test is None in a, 7 in b.",
    ]


def test_settings_are_those_that_differ(workdir):
    a, b = (
        workdir("a", config("simclr", optim={"name": "lars", "rates": [1, 2]})),
        workdir("b", config("simclr", optim={"name": "lars", "rates": [1, 3], "b1": 0.9})),
    )
    assert settings_that_differ(read_runs([a, b])) == {
        "optim.rates": {a: [1, 2], b: [1, 3]},
        "optim.b1": {b: 0.9},
    }
    assert table(read_runs([a, b]), "Settings that differ")["optim.b1"]["a"] == "-"


def test_an_import_has_no_training_and_does_not_differ_by_it(workdir):
    settings = {k: v for k, v in config("").items() if k != "method"}
    imported = workdir("b", {**settings, "imported": {"format": "tf"}})
    runs = read_runs([workdir("a", config("simclr")), imported])
    assert table(runs, "Runs")["b"]["method"] == "import of tf"
    assert table(runs, "Runs")["b"]["trained on"] == "-"
    assert settings_that_differ(runs) == {}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.cells = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not {"src", "href", "onerror"} & {name for name, _ in attrs}

    def handle_data(self, data):
        self.cells.append(data)


def test_the_page_has_every_cell_and_runs_nothing_that_a_workdir_says(workdir, tmp_path):
    rows = [{**row, "test_data": ATTACK} for row in FULL]
    hostile = config(ATTACK, optim={ATTACK: ATTACK})
    runs = read_runs(
        [workdir("a", config("simclr"), METRICS, FULL), workdir("b", hostile, METRICS, rows)]
    )
    write_comparison(runs, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "default-src 'none'" in text
    assert "\x1b" not in text
    for found in tables(runs):
        assert {cell for row in found.rows for cell in row} <= set(page.cells)


@pytest.mark.parametrize("results", ["{}", "[1]", '[{"train_data": 1, "test_data": 1}'])
def test_damaged_results_are_named(workdir, tmp_path, results):
    path = workdir("a", config("simclr"))
    (tmp_path / "a/results.json").write_text(results)
    with pytest.raises(UserError, match=re.escape(f"{path}/results.json is damaged")):
        read_runs([path])


@pytest.mark.parametrize("key", ["label_fraction", "step"])
def test_a_row_that_lacks_what_all_have_is_damage(workdir, key):
    row = {name: value for name, value in FULL[0].items() if name != key}
    path = workdir("a", config("simclr"), (), [row])
    with pytest.raises(UserError, match=f"{re.escape(path)}/results.json is damaged"):
        read_runs([path])


@pytest.mark.parametrize("change", [{"top1": "high"}, {"protocol": "guess"}])
def test_a_row_that_is_no_figure_is_named(workdir, change):
    path = workdir("a", config("simclr"), (), [{**FULL[0], **change}])
    with pytest.raises(UserError, match="is no figure"):
        read_runs([path])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["{a}/../a/"], "is given 2 times"),
        (["{a}/link"], "is given 2 times"),
        ([""], "is empty"),
        (["{a}/none"], "holds no run"),
    ],
)
def test_a_workdir_that_cannot_be_compared_is_named(workdir, tmp_path, others, message):
    a = workdir("a", config("simclr"), METRICS, FULL)
    (tmp_path / "a/link").symlink_to(a)
    with pytest.raises(UserError, match=message):
        read_runs([a, *(other.format(a=a) for other in others)])


def compare(*arguments):
    return run("compare", *arguments)


def test_the_verb_prints_tables_with_no_figure_cut_off_and_writes_the_page(workdir, tmp_path):
    more = [judged("knn", share, 0.5, std=0.1) for share in (0.01, 0.1)]
    a = workdir("a", config("simclr"), METRICS, [*FULL, *more])
    b = workdir("a_name_that_takes_much_room", config(ATTACK), METRICS)
    page = tmp_path / "page.html"
    result = compare(f"--workdir={a}", f"--workdir={b}", f"--output={page}")
    assert result.returncode == 0, result.stderr
    assert re.search("86.6\u00b12.0 .* 96.6 .* 50.0\u00b110.0 .* 93.3 ", result.stdout)
    assert "[red]" in result.stdout
    assert "\x1b" not in result.stdout
    assert f"evaluate --workdir={b} --protocol=knn,linear" in result.stdout
    assert "86.6\u00b12.0" in page.read_text()


def test_json_is_one_object(workdir):
    a = workdir("a", config("simclr"), METRICS, FULL)
    b = workdir("b", config("byol"), METRICS)
    result = compare(f"--workdir={a}", f"--workdir={b}", "--json")
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert [run["loss"] for run in printed["runs"]] == [2.8, 2.8]
    assert printed["runs"][0]["results"] == FULL[:-1]
    assert printed["settings"] == {"method.name": {a: "simclr", b: "byol"}}
    assert len(printed["missing"]) == 1


def test_a_mistake_exits_with_2_and_one_message(workdir, tmp_path):
    a = workdir("a", config("simclr"), METRICS, FULL)
    result = compare(f"--workdir={a}", f"--workdir={a}x", f"--output={tmp_path}/page.html")
    assert result.returncode == 2
    assert f"{a}x holds no run" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_reader_that_ends_first_leaves_no_traceback(workdir):
    runs = [workdir(f"run{i}", config("simclr"), METRICS, FULL) for i in range(40)]
    verb = [sys.executable, "-m", "simclr_jax", "compare", *(f"--workdir={run}" for run in runs)]
    for how in ([], ["--json"]):
        with subprocess.Popen(
            [*verb, *how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as program:
            assert program.stdout is not None
            assert program.stderr is not None
            program.stdout.close()
            assert program.stderr.read() == ""
        assert program.returncode == 1
