"""The report of one run: a single HTML file that loads nothing and runs nothing."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from simclr_jax.core.files import write_text
from simclr_jax.evals.results import by_images
from simclr_jax.report import markup, results, training
from simclr_jax.report.contents import Embedding, ReportContents
from simclr_jax.report.embedding import map_section, neighbors_section
from simclr_jax.report.groups import groups_table
from simclr_jax.report.tables import table_section
from simclr_jax.report.towers import PROTOCOLS, towers_section

__all__ = ["Embedding", "ReportContents", "render", "write_report"]

MAX_CARDS = 12


def write_report(contents: ReportContents, path: epath.PathLike) -> None:
    """Writes the report to `path`; an existing file is replaced only by a complete one.

    Raises:
      StorageError: if the file cannot be written there.
    """
    write_text(path, render(contents))


def render(contents: ReportContents) -> str:
    """Returns the report as one HTML document."""
    in_words, contents = contents.results, _of_labels(contents)
    body = "\n".join(
        (
            _header(contents),
            results.results_section(
                contents.results, contents.examples, from_labels=contents.labels_used != "none"
            ),
            *([table_section("groups", groups_table(contents.groups))] if contents.groups else []),
            towers_section(in_words, contents.metrics, contents.pairs),
            training.training_section(contents.metrics, contents.verdict, contents.examples),
            map_section(contents.embedding, contents.class_names),
            neighbors_section(contents.embedding, contents.class_names),
            _views_section(contents.views, contents.examples),
            _config_section(contents.config),
        )
    )
    return markup.document(contents.title, body)


def _of_labels(contents: ReportContents) -> ReportContents:
    """Returns the contents without the rows of zero-shot and retrieval: these have no labels."""
    rows = [row for row in contents.results if row["protocol"] not in PROTOCOLS]
    return dataclasses.replace(contents, results=rows)


def config_text(config: Mapping[str, Any], indent: str = "") -> str:
    """Returns a nested config as indented "key: value" lines; plain text."""
    lines = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{key}:\n{config_text(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {json.dumps(value, default=str, ensure_ascii=False)}")
    return "\n".join(lines)


def _header(contents: ReportContents) -> str:
    finding = results.headline(contents.results) or "No finding yet: the encoder was not judged."
    unreadable = (
        f", of which {markup.count(contents.num_unreadable)} could not be read"
        if contents.num_unreadable
        else ""
    )
    facts = {
        "Trained on": f"{contents.dataset}, {markup.count(contents.num_images)} {contents.examples}"
        f"{unreadable}",
        "Labels used": contents.labels_used,
        "Encoder": f"{contents.encoder}, {markup.count(contents.num_params)} parameters",
        "Training": f"{contents.epochs:g} epochs, batch {markup.count(contents.batch_size)}",
        "Time": "unknown" if contents.wall_seconds is None else duration(contents.wall_seconds),
        "Devices": contents.devices,
    }
    rows = "\n".join(
        f"<div><dt>{name}</dt><dd>{markup.escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return (
        f"<header>\n<h1>{markup.escape(contents.title)}</h1>\n"
        f'<p class="headline">{finding}</p>\n{_key_figures(contents)}\n'
        f'<dl class="facts">\n{rows}\n</dl>\n</header>'
    )


def _key_figures(contents: ReportContents) -> str:
    """Returns the few numbers to remember, each with what it is compared with."""
    tiles = []
    lead = by_images(contents.results)[0] if contents.results else []
    judged = [row for row in lead if row["features"] == "encoder"]
    for protocol in results.PROTOCOLS:
        rows = sorted(
            (row for row in judged if row["protocol"] == protocol),
            key=lambda row: row["num_train"],
        )
        for row in rows[:1] + rows[1:][-1:]:  # fewest and most labels
            what = f"{results.protocol_name(protocol)}, {markup.count(row['num_train'])} labels"
            tiles.append((markup.percent(row["top1"]), what))
    loss = training.series(contents.metrics, "loss")
    chance = training.series(contents.metrics, "loss_chance")
    if loss is not None:
        beside = f" (chance {chance.y[-1]:.3g})" if chance is not None else ""
        tiles.append((f"{loss.y[-1]:.3g}", f"final loss{beside}"))
    speed = training.series(contents.metrics, "pairs_per_second")
    if speed is not None:
        tiles.append((markup.count(float(np.median(speed.y))), f"{contents.examples} per second"))
    items = "".join(f"<li><strong>{value}</strong>{what}</li>" for value, what in tiles)
    return f'<ul class="figures">{items}</ul>' if tiles else ""


def duration(seconds: float | int) -> str:
    """Returns a time as "8 min 12 s", "3 h 5 min" or "2 d 4 h"."""
    left = round(seconds)
    for (size, unit), (small, small_unit) in (
        ((86400, "d"), (3600, "h")),
        ((3600, "h"), (60, "min")),
        ((60, "min"), (1, "s")),
    ):
        if left >= size:
            return f"{left // size} {unit} {left % size // small} {small_unit}"
    return f"{left} s"


def _views_section(views: UInt8[np.ndarray, "m v h w 3"] | None, examples: str) -> str:
    if views is None or not len(views):
        missing = markup.missing("No augmented views were drawn.")
        return markup.section("views", "What the encoder was trained on", missing)
    cards = "".join(
        "<li>"
        + "".join(
            markup.picture(view, f"Image {i + 1}, view {v + 1}") for v, view in enumerate(card)
        )
        + "</li>"
        for i, card in enumerate(views[:MAX_CARDS])
    )
    if views.shape[1] == 1:
        title, note = (
            "What the encoder was trained on",
            f"A random view of some training {examples}.",
        )
    else:
        title, note = (
            "What the encoder was trained to match",
            f"Two random views of each of some training {examples}, as the encoder sees them. You"
            " should be able to tell that both show the same thing, and not from colour alone: a"
            " pair you cannot match teaches nothing, a pair of equal pictures as little.",
        )
    return markup.section(
        "views", title, f'<p class="note">{note}</p>', f'<ul class="pairs">{cards}</ul>'
    )


def _config_section(config: Mapping[str, Any]) -> str:
    heading = ("config", "Settings")
    if not config:
        return markup.section(*heading, markup.missing("The config of this run was not found."))
    text = markup.escape(config_text(config))
    return markup.section(
        *heading, f"<details><summary>The resolved config</summary><pre>{text}</pre></details>"
    )
