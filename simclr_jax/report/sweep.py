"""What a sweep found: a table and charts of measures over the values of one setting."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from simclr_jax.evals.results import by_images
from simclr_jax.report import figures, markup
from simclr_jax.report.comparison import DASH, Run, facts, write_comparison
from simclr_jax.report.figures import Curve
from simclr_jax.report.results import column, column_name, in_order
from simclr_jax.report.tables import Table, printable, table_section

# Measure -> (name, digits, what a chart says of it); accuracies come before them.
LABEL_FREE = {
    "below_chance": (
        "chance - loss",
        3,
        "In nats. Where the loss is NT-Xent, a lower bound on the mutual information of two views: "
        "log(2b - 1) - loss. Too weak views make it large and teach little.",
    ),
    "alignment": ("alignment", 3, "Mean squared distance of two views of an image: small is good."),
    "uniformity": ("uniformity", 3, "How evenly projections cover the sphere: small is good."),
    "effective_rank": ("effective rank", 1, "Directions that the encoder's features use."),
}


class Point(NamedTuple):
    """A run of a sweep: the value of the setting, the seed, and what the workdir says.

    `failure` says why the run came to no end, which then has no measures; "" if it did.
    """

    value: Any
    seed: int
    run: Run
    failure: str = ""


def as_row(point: Point) -> dict[str, Any]:
    """Returns value, seed, workdir and measures of a run, and its failure if it failed."""
    failure = {"failure": point.failure} if point.failure else {}
    told = {"value": point.value, "seed": point.seed, "workdir": point.run.workdir}
    return {**told, **measures(point), **failure}


def measures(point: Point) -> dict[str, float | None]:
    """Returns the measures of a run by name, accuracies such as "knn 1" first; None if unknown.

    Accuracies are those on the run's own test images, in [0, 1], by protocol and share of the
    labels. The others are `LABEL_FREE`.
    """
    said, rows = facts(point.run), point.run.results
    top1 = {column(row): row["top1"] for row in (by_images(rows)[0] if rows else [])}
    accuracy = {_name(key): top1[key] for key in in_order(top1)}
    return {**accuracy, **{name: said[name] for name in LABEL_FREE}}


def sweep_table(key: str, points: Sequence[Point]) -> Table:
    """Returns a row for each value, mean and standard deviation over seeds."""
    names = _names(points)
    heads = [key, "seeds", *map(_head, names)]
    rows = []
    for value, group in _by_value(points):
        cells = [_cell(name, _known(name, group)) for name in names]
        rows.append([f"{value}", f"{sum(not point.failure for point in group)}", *cells])
    notes = ["Accuracies are top-1 in %. Several seeds: mean and standard deviation."]
    images = {f"{p.value}": p.run.results[0]["test_data"] for p in points if p.run.results}
    if len(set(images.values())) > 1:
        told = ", ".join(f"{name} at {value}" for value, name in images.items())
        notes.append(printable(f"Not alike: judged on {told}."))
    notes += [printable(f"Failed, {line}") for line in failures(key, points)]
    return Table(f"Sweep of {key}", heads, rows, 1, notes)


def failures(key: str, points: Sequence[Point]) -> list[str]:
    """Returns a line for each run that failed: its value, its seed and why."""
    return [
        f"{key}={point.value}, seed {point.seed}: {point.failure}"
        for point in points
        if point.failure
    ]


def write_sweep(key: str, points: Sequence[Point], path: epath.PathLike) -> None:
    """Writes the page: charts and table of the sweep, then all runs side by side.

    Raises:
      StorageError: if the file cannot be written there.
    """
    names = _names(points)
    accuracies = [name for name in names if name not in LABEL_FREE]
    charts = [_chart(key, [name], points) for name in LABEL_FREE if name in names]
    if accuracies:
        charts.insert(0, _chart(key, accuracies, points))
    body = '<div class="charts">\n' + "\n".join(charts) + "\n</div>"
    first = [
        markup.section("charts", f"Over {markup.escape(key)}", body),
        table_section("sweep", sweep_table(key, points)),
    ]
    runs = [point.run for point in points if not point.failure]
    write_comparison(runs, path, title=f"Sweep of {key}", first=first)


def _chart(key: str, names: Sequence[str], points: Sequence[Point]) -> str:
    groups = _by_value(points)
    positions = _positions([value for value, _ in groups])
    accuracy = names[0] not in LABEL_FREE
    styles = [(color, marker) for marker in "os^D" for color in ("encoder", "pixels", "random")]
    curves, items = [], []
    for name, (color, marker) in zip(names, styles, strict=False):
        known = [(x, _known(name, group)) for x, (_, group) in zip(positions, groups, strict=True)]
        known = [(x, numbers) for x, numbers in known if numbers]
        scale = 100 if accuracy else 1
        x = np.array([x for x, _ in known], np.float64)
        y, error = (
            np.array([scale * statistic(numbers) for _, numbers in known], np.float64)
            for statistic in (np.mean, np.std)
        )
        curves.append(Curve(x, y, color, marker, error=error if error.any() else None))
        items.append((f"var(--{color})", marker, _head(name)))
    what = "accuracy" if accuracy else _head(names[0])
    svg = figures.line_chart(
        f"sweep_{names[0].replace(' ', '_')}",
        f"{what} over {key}",
        curves,
        x_label=key,
        ticks=[(x, f"{value}") for x, (value, _) in zip(positions, groups, strict=True)],
    )
    legend = markup.legend(items) if accuracy else ""
    caption = "Top-1 in %." if accuracy else LABEL_FREE[names[0]][2]
    return markup.figure(markup.escape(what.capitalize()), legend + svg, markup.escape(caption))


def _positions(values: Sequence[Any]) -> list[float]:
    """Returns where values stand on the x axis: where they are if numbers, or else in a row."""
    is_number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    if all(is_number(value) and math.isfinite(value) for value in values):
        return [float(value) for value in values]
    return [float(i) for i in range(len(values))]


def _by_value(points: Sequence[Point]) -> list[tuple[Any, list[Point]]]:
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(repr(point.value), []).append(point)
    found = [(group[0].value, group) for group in groups.values()]
    numbers = all(isinstance(value, int | float) for value, _ in found)
    return sorted(found, key=lambda pair: pair[0]) if numbers else found


def _names(points: Sequence[Point]) -> list[str]:
    """Returns the measures that some run has, accuracies first."""
    known = {}
    for point in points:
        known |= {name: None for name, value in measures(point).items() if value is not None}
    return sorted(known, key=lambda name: name in LABEL_FREE)


def _known(name: str, group: Sequence[Point]) -> list[float]:
    values = [{name: None, **measures(point)}[name] for point in group]
    return [value for value in values if value is not None]


def _head(name: str) -> str:
    if name in LABEL_FREE:
        return LABEL_FREE[name][0]
    protocol, _, share = name.partition(" ")
    return column_name((protocol, float(share or 0)))


def _name(key: tuple[str, float]) -> str:
    protocol, share = key
    return f"{protocol} {share:g}" if share else protocol


def _cell(name: str, numbers: Sequence[float]) -> str:
    if not numbers:
        return DASH
    scale, digits = (1, LABEL_FREE[name][1]) if name in LABEL_FREE else (100, 1)
    spread = f"\u00b1{scale * np.std(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{scale * np.mean(numbers):.{digits}f}{spread}"
