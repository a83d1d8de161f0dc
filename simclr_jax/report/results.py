"""The finding in one sentence, and accuracy over the number of labels as chart and table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from simclr_jax.evals.results import Row, by_images
from simclr_jax.report import figures, markup
from simclr_jax.report.figures import Curve

# Name in results.json -> (name on the page, colour, marker), best expected first.
FEATURES = {
    "encoder": ("trained encoder", "encoder", "o"),
    "pixels": ("raw pixels", "pixels", "s"),
    "random_features": ("random features", "random", "^"),
}
PROTOCOLS = {"classifier": "classifier", "linear": "linear probe", "knn": "kNN"}
NOT_JUDGED = (
    "The encoder has not been judged yet: run <code>python -m simclr_jax evaluate</code> on this"
    " workdir, then make the report again. It needs labels."
)


def features_name(features: str) -> str:
    """Returns what the page calls a kind of features; plain text."""
    return FEATURES[features][0] if features in FEATURES else features


def protocol_name(protocol: str) -> str:
    """Returns what the page calls a protocol; plain text."""
    return PROTOCOLS.get(protocol, protocol)


def column(row: Row) -> tuple[str, float]:
    """Returns what sets a figure apart on the same images: protocol and share of the labels.

    For a classifier, the name of the images that it was fitted on says how many labels there were.
    """
    return row["protocol"], 0.0 if row["protocol"] == "classifier" else row["label_fraction"]


def in_order(columns: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Returns columns in the page's order, each once."""
    return sorted({*columns}, key=lambda c: (list(PROTOCOLS).index(c[0]), c[1]))


def column_name(column: tuple[str, float]) -> str:
    """Returns the heading of a column, such as "linear probe 10 %"; plain text."""
    protocol, share = column
    return protocol_name(protocol) + (f" {100 * share:g} %" if share else "")


def accuracy_text(row: Row) -> str:
    """Returns a top-1 in %, with its deviation over draws of the labels if there are several."""
    spread = f"\u00b1{100 * row['top1_std']:.1f}" if row.get("draws", 1) > 1 else ""
    return f"{100 * row['top1']:.1f}{spread}"


def few_label_rows(results: Sequence[Row]) -> list[Row]:
    """Returns rows of one protocol at the fewest labels, the trained encoder's first.

    The protocol is the linear probe if it ran. Empty if no encoder was judged.
    """
    judged = [row for row in results if row["features"] == "encoder"]
    if not judged:
        return []
    order = list(PROTOCOLS)
    rank = lambda row: order.index(row["protocol"]) if row["protocol"] in order else len(order)
    best = min(judged, key=lambda row: (rank(row), row["num_train"]))
    others = [
        row
        for row in results
        if row["features"] != "encoder"
        and (row["protocol"], row["num_train"]) == (best["protocol"], best["num_train"])
    ]
    return [best, *others]


def headline(results: Sequence[Row]) -> str:
    """Returns the finding on the first images as one sentence of HTML, "" if there is none yet."""
    rows = few_label_rows(by_images(results)[0]) if results else []
    if not rows:
        return ""
    best, *others = rows
    name = markup.escape(protocol_name(best["protocol"]))
    article = {"classifier": "the ", "linear": "a "}.get(best["protocol"], "")
    sentence = (
        f"With {markup.count(best['num_train'])} labels of {markup.escape(best['train_data'])},"
        f" {article}{name} on the trained encoder's features classifies"
        f" <strong>{markup.percent(best['top1'])}</strong> of"
        f" {markup.escape(best['test_data'])} correctly"
    )
    rivals = ", ".join(
        f"{markup.escape(features_name(row['features']))}: {markup.percent(row['top1'])}"
        for row in others
    )
    return sentence + (f" ({rivals})." if rivals else ".")


def results_section(
    results: Sequence[Row], examples: str = "images", *, from_labels: bool = False
) -> str:
    """Returns the section, with a part for each pair of images that was fitted and judged on.

    Args:
      results: rows of `results.json`.
      examples: what the images are called, such as "sounds".
      from_labels: whether the encoder learned from labels.
    """
    if not results:
        return markup.section("results", "What it learned", markup.missing(NOT_JUDGED))
    kinds = _kinds(results)
    items = [
        (f"var(--{color})", marker, features_name(kind)) for kind, (color, marker) in kinds.items()
    ]
    return markup.section(
        "results",
        "What it learned",
        "<p>For kNN and linear probe the encoder is frozen. A linear probe fits one layer to the"
        f" labels; kNN fits nothing and lets the nearest labelled {examples} vote. Raw pixels and"
        " random features show what is there without pretraining. Random features are those of the"
        " same network before training: its random weights, with the residual branches, which start"
        f" closed, opened, and BatchNorm statistics of training {examples}.</p>",
        markup.legend(items),
        *(
            _part(f"labels{i}", rows, examples, from_labels)
            for i, rows in enumerate(by_images(results))
        ),
    )


def _part(name: str, results: Sequence[Row], examples: str, from_labels: bool) -> str:
    """Returns heading, charts and table of rows on the same images."""
    protocols = sorted({row["protocol"] for row in results}, key=_position(PROTOCOLS))
    charts = "\n".join(
        _chart(f"{name}_{i}", protocol, results) for i, protocol in enumerate(protocols)
    )
    draws = sorted({row["draws"] for row in results if row.get("draws", 1) > 1})
    spread = (
        f"&plusmn; is the standard deviation over {' or '.join(map(str, draws))} draws of the"
        " labels; a row without it was measured once. "
        if draws
        else ""
    )
    first = results[0]
    tests = sorted({row["num_test"] for row in results if "num_test" in row})
    on_what = f"Top-1 accuracy in % on {' or '.join(map(markup.count, tests))} test {examples}. "
    seen = first.get("pretrained_on_test", 0)
    warning = ""
    if seen:
        known = f"was trained on {markup.count(seen)} of them"
        warning = (
            f"The encoder, which learned from labels, {known}. "
            if from_labels
            else f"The encoder {known}, without their labels. "
        )
    heading = (
        f"Fitted on {first['train_data']}, judged on {first['test_data']}, step {first['step']}"
    )
    return "\n".join(
        (
            f"<h3>{markup.escape(heading)}</h3>",
            f'<div class="charts">\n{charts}\n</div>',
            _table(results, protocols, list(_kinds(results))),
            f'<p class="note">{on_what if tests else ""}{warning}{spread}Bold: best of its column'
            " and protocol.</p>",
        )
    )


def _position(known: Mapping[str, Any]) -> Any:
    order = list(known)
    return lambda name: (order.index(name) if name in order else len(order), name)


def _kinds(results: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Returns colour and marker of each kind of features present, in the page's order."""
    present = sorted({row["features"] for row in results}, key=_position(FEATURES))
    return {kind: FEATURES.get(kind, ("", "ink", "D"))[1:] for kind in present}


def _tick(row: Row) -> str:
    share = f"\n{100 * row['label_fraction']:g} %" if "label_fraction" in row else ""
    return markup.count(row["num_train"]) + share


def _chart(name: str, protocol: str, results: Sequence[Row]) -> str:
    rows = [row for row in results if row["protocol"] == protocol]
    num_classes = rows[0].get("num_classes")
    curves = []
    # Reversed: the trained encoder is drawn last, on top.
    for kind, (color, marker) in reversed(_kinds(rows).items()):
        points = sorted(
            (row["num_train"], 100 * row["top1"], 100 * (row.get("top1_std") or 0.0))
            for row in rows
            if row["features"] == kind
        )
        x, y, error = np.array(points, np.float64).T
        curves.append(Curve(x, y, color, marker, error=error))
    title = f"Test accuracy, {markup.escape(protocol_name(protocol))}"
    svg = figures.label_chart(
        name,
        f"Accuracy of {protocol_name(protocol)} over the number of labels",
        curves,
        ticks=sorted({row["num_train"]: _tick(row) for row in rows}.items()),
        chance=100 / num_classes if num_classes else None,
    )
    kinds = {row["features"] for row in rows}
    caption = []
    if {"encoder", "pixels"} <= kinds:
        caption.append("Blue circles above orange squares: the features beat raw pixels.")
    if {"encoder", "random_features"} <= kinds:
        caption.append("The gap down to the grey triangles is what training added.")
    return markup.figure(title, svg, " ".join(caption))


def _table(results: Sequence[Row], protocols: Sequence[str], kinds: Sequence[str]) -> str:
    cells = {(row["protocol"], row["features"], row["num_train"]): row for row in results}
    columns = sorted({row["num_train"]: row for row in results}.items())
    lines = []
    for protocol in protocols:
        present = [kind for kind in kinds if any(key[:2] == (protocol, kind) for key in cells)]
        best = {
            size: max(
                (cells[key]["top1"] for key in cells if key[0] == protocol and key[2] == size),
                default=None,
            )
            for size, _ in columns
        }
        lines.append(
            f'<tr class="group"><th colspan="{len(columns) + 1}" scope="rowgroup">'
            f"{markup.escape(protocol_name(protocol))}</th></tr>"
        )
        for kind in present:
            values = "".join(
                _cell(cells.get((protocol, kind, size)), best[size]) for size, _ in columns
            )
            lines.append(
                f'<tr><th scope="row">{markup.escape(features_name(kind))}</th>{values}</tr>'
            )
    heads = "".join(
        f'<th scope="col">{_tick(row).replace(chr(10), "<br>")}</th>' for _, row in columns
    )
    return (
        '<div class="scroll"><table>\n<thead><tr><th scope="col">Top-1, %,<br>by labels</th>'
        f"{heads}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )


def _cell(row: Row | None, best: float | None) -> str:
    if row is None:
        return '<td class="number">&ndash;</td>'
    value = f"{100 * row['top1']:.1f}"
    if row["top1"] == best:
        value = f"<strong>{value}</strong>"
    if row.get("top1_std") and row.get("draws", 1) > 1:
        value += f' <span class="spread">&plusmn;&nbsp;{100 * row["top1_std"]:.1f}</span>'
    return f'<td class="number">{value}</td>'
