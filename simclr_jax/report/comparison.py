"""Runs side by side, from what their workdirs hold: tables and one page. Nothing is judged anew."""

import dataclasses
import itertools
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import absolute, in_a_bucket, write_text
from simclr_jax.data.files import source_name
from simclr_jax.evals.results import CURE, FILE, IMAGES, Row, by_images, own_first, read_results
from simclr_jax.report import markup, training
from simclr_jax.report.page import duration
from simclr_jax.report.results import PROTOCOLS, accuracy_text, column, column_name, in_order
from simclr_jax.report.tables import Table, printable, table_section
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.metrics import read_metrics
from simclr_jax.train.workdir import load_config

DASH = "-"
# Protocol and share of the labels of what every run should have on the same images.
EXPECTED = {("knn", 1.0), ("linear", 0.01), ("linear", 0.1), ("linear", 1.0)}
CONDITIONS = ("num_train", "num_test", "draws", "k", "temperature", "pretrained_on_test")
ENCODER_SIZES = ("depth", "width", "size", "patch")
MAX_CHARACTERS = 40  # of a setting in a table


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir holds.

    Attributes:
      workdir: directory of the run, as given.
      name: what sets it apart from the others, the end of its directory; plain text.
      settings: values of its config by key, such as "optim.name".
      metrics: rows of metrics.jsonl.
      results: rows of results.json that judge its encoder or its classifier, those on its own test
        images first.
      has_checkpoint: whether there is anything to judge.
    """

    workdir: str
    name: str
    settings: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    results: Sequence[Row]
    has_checkpoint: bool = True


def read_runs(workdirs: Sequence[str]) -> list[Run]:
    """Reads what workdirs say of their runs or imports.

    Raises:
      UserError: if a directory is given twice, holds none, or one of its files is damaged.
    """
    _require_distinct(workdirs)
    parts = [workdir.rstrip("/").split("/") for workdir in workdirs]
    above = zip(*(part[:-1] for part in parts), strict=False)
    shared = len([*itertools.takewhile(lambda names: len(set(names)) == 1, above)])
    names = [printable("/".join(part[shared:])) for part in parts]
    return [*map(_read_run, workdirs, names)]


def facts(run: Run) -> dict[str, Any]:
    """Returns what one run was, by name, as its report has it; None for what it does not say."""
    said, last = run.settings, run.metrics[-1] if run.metrics else {}
    loss, chance, speed = (
        training.series(run.metrics, key) for key in ("loss", "loss_chance", "pairs_per_second")
    )
    final = lambda series: None if series is None else float(series.y[-1])
    below = None if loss is None or chance is None else float(chance.y[-1] - loss.y[-1])
    ranks = _ranks(run)
    sizes = [f"{key} {said[f'encoder.{key}']}" for key in ENCODER_SIZES if f"encoder.{key}" in said]
    is_import = "imported.format" in said
    place = f"{said.get('data.name')} {said.get('data.path') or ''}".rstrip()
    return {
        "workdir": run.workdir,
        "method": f"import of {said['imported.format']}" if is_import else said.get("method.name"),
        "encoder": ", ".join([str(said.get("encoder.name")), *sizes]),
        "trained_on": None if is_import else f"{place}/{said.get('data.split')}",
        "epochs": last.get("epoch"),
        "steps": last.get("step"),
        "loss": final(loss),
        "loss_chance": final(chance),
        "projection_std": None if chance else final(training.series(run.metrics, "projection_std")),
        "below_chance": below,
        "alignment": final(training.series(run.metrics, "alignment")),
        "uniformity": final(training.series(run.metrics, "uniformity")),
        "effective_rank": next(iter(ranks.values()), None),
        "effective_rank_of": next(iter(ranks), None),
        "images_per_second": None if speed is None else float(np.median(speed.y)),
        "seconds": last.get("seconds"),
    }


def settings_that_differ(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Returns key -> workdir -> value of the settings that are not the same in all runs.

    A workdir is left out where its config has no such key; those keys come last. A config that
    lacks a whole section, such as that of an import, does not count as different there.
    """
    differing = {}
    section = lambda key: key.partition(".")[0]
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values = {run.workdir: run.settings[key] for run in runs if key in run.settings}
        having = [run for run in runs if section(key) in map(section, run.settings)]
        if len(values) < len(having) or len({json.dumps(value) for value in values.values()}) > 1:
            differing[key] = values
    return dict(sorted(differing.items(), key=lambda item: len(item[1]) < len(runs)))


def tables(runs: Sequence[Run]) -> list[Table]:
    """Returns runs, training, representation, accuracy by pair of data sets, and settings."""
    accuracy = [_accuracy_table(runs, group) for group in _groups(runs)]
    learned = [_training_table(runs), _representation_table(runs)]
    return [_run_table(runs), *learned, *accuracy, _settings_table(runs)]


def missing(runs: Sequence[Run]) -> list[str]:
    """Returns the commands that make what is a dash in the tables of accuracy.

    A run without a checkpoint cannot be judged, so it has none; a note of the first table says so.
    """
    commands = []
    for group in _groups(runs):
        needed = {column for column in _columns(group) if column[0] != "classifier"}
        shares = ",".join(f"{share:g}" for share in sorted({share for _, share in needed}))
        how = ["--protocol=knn,linear", f"--fractions={shares}", *_image_flags(group[0])]
        commands += [(run, how) for run in runs if needed - _cells(run, group[0]).keys()]
    named = [run for run, _ in commands]
    commands += [(run, []) for run in runs if not run.results and run not in named]
    program = ["python", "-m", "simclr_jax", "evaluate"]
    lines = (
        shlex.join([*program, f"--workdir={run.workdir}", *how])
        for run, how in commands
        if run.has_checkpoint
    )
    return [printable(line) for line in lines]


def write_comparison(
    runs: Sequence[Run],
    path: epath.PathLike,
    *,
    title: str = "Comparison",
    first: Sequence[str] = (),
) -> None:
    """Writes the page; an existing file is replaced only by a complete one.

    Args:
      runs: what is compared.
      path: the file.
      title: heading of the page; plain text.
      first: sections of HTML that lead the page.

    Raises:
      StorageError: if the file cannot be written there.
    """
    parts = [*first]
    parts += [table_section(f"table{i}", table) for i, table in enumerate(tables(runs))]
    if commands := missing(runs):
        lines = markup.escape("\n".join(commands))
        parts.append(markup.section("missing", "What makes the dashes", f"<pre>{lines}</pre>"))
    lead = f"<h1>{markup.escape(title)}</h1>"
    heading = f'<header>\n{lead}\n<p class="headline">{len(runs)} runs</p>\n</header>'
    write_text(path, markup.document(title, "\n".join([heading, *parts])))


def _require_distinct(workdirs: Sequence[str]) -> None:
    if not all(workdirs):
        raise UserError("--workdir= is empty: give the directory of a run.")
    real = lambda path: path.rstrip("/") if in_a_bucket(path) else os.path.realpath(path)
    ((path, count),) = Counter(real(absolute(path)) for path in workdirs).most_common(1)
    if count > 1:
        raise UserError(f"--workdir={path} is given {count} times: give each run once.")


def _read_run(workdir: str, name: str) -> Run:
    settings = _leaves(load_config(workdir, ("data", "encoder")))
    results = [row for row in read_results(workdir) if row.get("features") == "encoder"]
    for row in results:
        numbers = [row.get("top1"), row.get("top1_std", 0.0), row.get("label_fraction", 0.0)]
        if (
            row.get("protocol") not in PROTOCOLS
            or "step" not in row
            or not all(isinstance(number, int | float) for number in numbers)
        ):
            raise UserError(f"{epath.Path(workdir) / FILE} is damaged: {row} is no figure. {CURE}")
    has_checkpoint = bool(Checkpoints(workdir).steps())
    results = own_first(results, _own_test(settings))
    return Run(workdir, name, settings, read_metrics(workdir), results, has_checkpoint)


def _own_test(settings: Mapping[str, Any]) -> str | None:
    """Returns the name of a run's own test images, None if it has none."""
    keys = ("name", "path", "test_split")
    name, path, split = (settings.get(f"data.{key}") for key in keys)
    return None if name is None or split is None else source_name(name, path, split)


def _ranks(run: Run) -> dict[str, float]:
    """Returns effective ranks by the images that they are of, the run's own test images first."""
    ranked = [row for row in run.results if "effective_rank" in row]
    return {row["test_data"]: row["effective_rank"] for row in ranked}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in values.items():
        deeper = isinstance(value, dict) and value
        leaves |= _leaves(value, f"{prefix}{key}.") if deeper else {f"{prefix}{key}": value}
    return leaves


def _fact_rows(runs: Sequence[Run], shown: Mapping[str, Callable[[Any], str]]) -> list[list[str]]:
    rows = []
    for run in runs:
        said = facts(run)
        cells = [DASH if said[key] is None else show(said[key]) for key, show in shown.items()]
        rows.append([run.name, *map(printable, cells)])
    return rows


def _run_table(runs: Sequence[Run]) -> Table:
    rows = _fact_rows(runs, {"method": str, "encoder": str, "trained_on": str})
    untrained = [run.name for run in runs if not run.has_checkpoint]
    notes = [f"Without a checkpoint, so there is nothing to judge yet: {', '.join(untrained)}."]
    heads = ["run", "method", "encoder", "trained on"]
    return Table("Runs", heads, rows, 4, notes if untrained else [])


def _training_table(runs: Sequence[Run]) -> Table:
    shown = {
        "epochs": "{:.4g}".format,
        "steps": "{:,}".format,
        "loss": "{:.3f}".format,
        "loss_chance": "{:.3f}".format,
        "projection_std": "{:.3g}".format,
        "images_per_second": markup.count,
        "seconds": duration,
    }
    heads = ["run", "epochs", "steps", "loss", "chance", "deviation", "examples/s", "time"]
    note = (
        "Losses of different methods measure different things: read each beside its own chance"
        " level or, where it has none, beside the deviation of its projections: 1/sqrt(d) in d"
        " dimensions is most, and 0 is a collapse. Examples, such as images, per second and time"
        " are of the machine that trained."
    )
    return Table("Training", heads, _fact_rows(runs, shown), 1, [note])


def _representation_table(runs: Sequence[Run]) -> Table:
    keys = ("below_chance", "alignment", "uniformity")
    heads = ["run", "chance - loss", "alignment", "uniformity"]
    notes = [
        "Of the last logged step. Chance - loss, in nats: a lower bound on the mutual information "
        "of two views where the loss is NT-Xent, at most log(2b - 1). Alignment in [0, 4] and "
        "uniformity in [-8, 0] are of the projections: small is good.",
        "Effective rank: directions that the encoder's features use, of a run's own test images if "
        "it was judged on them; `evaluate` measures it.",
    ]
    rows = _fact_rows(runs, dict.fromkeys(keys, "{:.3f}".format))
    judged_on = dict.fromkeys(next(iter(_ranks(run)), None) for run in runs)
    for images in [name for name in judged_on if name is not None] or [None]:
        heads.append("effective rank" if images is None else f"effective rank, {images}")
        for row, run in zip(rows, runs, strict=True):
            rank = _ranks(run).get(images or "")
            row.append(DASH if rank is None else f"{rank:.1f}")
    heads = [*map(printable, heads)]
    return Table("Representation", heads, rows, 1, notes)


def _groups(runs: Sequence[Run]) -> list[list[Row]]:
    return by_images([row for run in runs for row in run.results])


def _columns(group: Sequence[Row]) -> list[tuple[str, float]]:
    """Returns what was judged on the images of a group, and what should be where features were."""
    found = {column(row) for row in group}
    expected = EXPECTED if {protocol for protocol, _ in found} - {"classifier"} else set()
    return in_order(found | expected)


def _cells(run: Run, images: Row) -> dict[tuple[str, float], Row]:
    same = [row for row in run.results if all(row[key] == images[key] for key in IMAGES)]
    return {column(row): row for row in same}


def _accuracy_table(runs: Sequence[Run], group: Sequence[Row]) -> Table:
    columns = _columns(group)
    heads = [*map(column_name, columns)]
    cells = {run.name: _cells(run, group[0]) for run in runs}
    notes = [
        "Top-1 in %, mean and standard deviation over draws of the labels; step: of the checkpoint."
    ]
    for head, judged in zip(heads, columns, strict=True):
        for key in CONDITIONS:
            told = {name: own[judged].get(key) for name, own in cells.items() if judged in own}
            if len(set(told.values())) > 1:
                values = ", ".join(f"{value} in {name}" for name, value in told.items())
                notes.append(printable(f"Not alike, {head}: {key} is {values}."))
    rows = []
    for name, own in cells.items():
        if not own and not {*columns} >= EXPECTED:
            continue  # no command judges it on a classifier's labels
        steps = sorted({str(row["step"]) for row in own.values()})
        figures = [accuracy_text(own[key]) if key in own else DASH for key in columns]
        rows.append([name, printable(", ".join(steps)) or DASH, *figures])
    title = f"Fitted on {group[0]['train_data']}, judged on {group[0]['test_data']}"
    return Table(printable(title), ["run", "step", *heads], rows, 1, notes)


def _settings_table(runs: Sequence[Run]) -> Table:
    rows = []
    for key, values in settings_that_differ(runs).items():
        texts = [json.dumps(values[r.workdir]) if r.workdir in values else DASH for r in runs]
        short = [t if len(t) <= MAX_CHARACTERS else f"{t[: MAX_CHARACTERS - 3]}..." for t in texts]
        rows.append([printable(key), *short])
    heads = ["setting", *(run.name for run in runs)]
    return Table("Settings that differ", heads, rows, len(heads), [] if rows else ["None."])


def _image_flags(images: Row) -> list[str]:
    """Returns the flags of `evaluate` that lead to images, from their names in a row."""
    train, test = (str(images[key]) for key in IMAGES)
    name, _, split = train.rpartition("/")
    data, _, path = name.partition(" ")
    where = [f"--data={data}", *([f"--path={path}"] if path else [])]
    return [*where, f"--split={split}", f"--test_split={test.removeprefix(f'{name}/')}"]
