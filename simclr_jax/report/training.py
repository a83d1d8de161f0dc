"""The section on training: the verdict, loss against chance, accuracies, rate, throughput."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from simclr_jax.report import figures, markup
from simclr_jax.report.figures import Curve
from simclr_jax.train.verdict import Verdict

MAX_POINTS = 300  # on a curve; a longer run is averaged down to this


class Series(NamedTuple):
    """One metric over time."""

    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    unit: str  # of x: "epoch", or "step" where a row has no epoch


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> Series | None:
    """Returns the finite values of one metric in order of step, None if it has none.

    A step that was logged twice (a run that was resumed) counts once, as logged last.
    """
    rows = {
        row["step"]: row
        for row in metrics
        if "step" in row and isinstance(row.get(key), int | float) and np.isfinite(row[key])
    }
    if not rows:
        return None
    ordered = [rows[step] for step in sorted(rows)]
    unit = "epoch" if all("epoch" in row for row in ordered) else "step"
    x = np.array([row[unit] for row in ordered], np.float64)
    y = np.array([row[key] for row in ordered], np.float64)
    if len(x) > MAX_POINTS:
        x, y = (
            np.array([part.mean() for part in np.array_split(values, MAX_POINTS)])
            for values in (x, y)
        )
    return Series(x, y, unit)


def training_section(
    metrics: Sequence[Mapping[str, Any]],
    verdict: Verdict | None = None,
    examples: str = "images",
) -> str:
    """Returns the section, with one chart for each metric that was logged.

    Args:
      metrics: rows of `metrics.jsonl`.
      verdict: what they say of the run.
      examples: what it was trained on, in words.
    """
    charts = [
        chart
        for chart in (
            _loss(metrics, examples),
            _accuracy(metrics),
            _rate(metrics),
            _throughput(metrics, examples),
        )
        if chart
    ]
    if not charts:
        body = markup.missing("No metrics yet: they appear once training has logged a step.")
    else:
        body = '<div class="charts">\n' + "\n".join(charts) + "\n</div>"
    return markup.section("training", "Training", *_verdict(verdict), body)


def _verdict(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return []
    if not verdict.findings:
        return [f"<p>{markup.escape(verdict.headline)}</p>"]
    return [
        f"<p><strong>{markup.escape(finding.what)}</strong> ({markup.escape(finding.figures)})"
        f"<br>What to try: {markup.escape(finding.advice)}.</p>"
        for finding in verdict.findings
    ]


def _loss(metrics: Sequence[Mapping[str, Any]], examples: str) -> str:
    loss, chance = series(metrics, "loss"), series(metrics, "loss_chance")
    if loss is None:
        return ""
    at_chance = f"such as ln(2b &minus; 1) for two views of each of b {examples} in a batch"
    curves = [Curve(loss.x, loss.y, "encoder")]
    caption = f"Ends at {loss.y[-1]:.3g}. "
    if chance is None:
        caption += "No chance level was logged for this method."
    else:
        note = f"chance: {chance.y[-1]:.3g}"
        curves.append(Curve(chance.x, chance.y, "muted", line="--", note=note))
        if loss.y[-1] < chance.y[-1]:
            caption += (
                f"Look for a curve that falls below the dashed chance line, {at_chance}:"
                " then what belongs together is told from the rest."
            )
        else:
            caption += (
                f"It has not fallen below the dashed chance line, {at_chance}: nothing has been"
                " learned yet."
            )
    svg = figures.line_chart(
        "loss", "Training loss and its chance level", curves, x_label=loss.unit
    )
    return markup.figure("Loss", svg, caption)


# Metric -> (colour, marker, name, what to look for), the one that matters most last: on top.
ACCURACIES = {
    "contrastive_accuracy": (
        "encoder",
        "",
        "pairs matched in the batch",
        "Pairs matched: how often a view's nearest in the batch is its partner.",
    ),
    "agreement": ("encoder", "", "agreement with the teacher", "Same class as the teacher says."),
    "top1": ("random", "", "in training", "A gap to what was held out is overfitting."),
    "knn_top1": (
        "pixels",
        "s",
        "online kNN, held out",
        "Online kNN ends at {}: it should climb as the loss falls.",
    ),
    "test_top1": ("encoder", "o", "classifier, held out", "On what was held out: {}."),
}


def _accuracy(metrics: Sequence[Mapping[str, Any]]) -> str:
    known = {name: series(metrics, name) for name in ACCURACIES}
    curves, items, captions, unit = [], [], [], ""
    for name, (color, marker, label, caption) in ACCURACIES.items():
        if (values := known[name]) is None:
            continue
        unit = values.unit
        curves.append(Curve(values.x, 100 * values.y, color, marker=marker))
        items.append((f"var(--{color})", marker or "-", label))
        captions.append(caption.format(markup.percent(values.y[-1])))
    if not curves:
        return ""
    svg = figures.line_chart(
        "accuracy", "Accuracy during training", curves, x_label=unit, from_zero=True
    )
    return markup.figure("Accuracy, %", markup.legend(items) + svg, " ".join(captions))


def _rate(metrics: Sequence[Mapping[str, Any]]) -> str:
    rate = series(metrics, "lr")
    if rate is None:
        return ""
    svg = figures.line_chart(
        "rate",
        "Learning rate",
        [Curve(rate.x, rate.y, "encoder")],
        x_label=rate.unit,
        from_zero=True,
    )
    caption = (
        f"Peaks at {rate.y.max():.3g}, ends at {rate.y[-1]:.2g}. Where the loss jumps as the rate"
        " peaks, a lower rate or a longer warm-up helps."
    )
    return markup.figure("Learning rate", svg, caption)


def _throughput(metrics: Sequence[Mapping[str, Any]], examples: str) -> str:
    speed = series(metrics, "pairs_per_second")
    if speed is None:
        return ""
    svg = figures.line_chart(
        "throughput",
        f"{examples.capitalize()} per second",
        [Curve(speed.x, speed.y, "encoder")],
        x_label=speed.unit,
        from_zero=True,
    )
    caption = (
        f"Median {markup.count(float(np.median(speed.y)))} {examples}/s. Flat is good; a dip is"
        " compilation, a checkpoint, an evaluation, or another program on the machine."
    )
    return markup.figure(f"Throughput, {examples} per second", svg, caption)
