"""The section on two towers: what was told in words, how the towers lie, examples both ways."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from simclr_jax.evals.results import Row
from simclr_jax.report import figures, markup
from simclr_jax.report.figures import Curve
from simclr_jax.report.training import series

NUM_EXAMPLES = 8
NUM_FOUND = 5
PROTOCOLS = {
    "zero_shot": "class told by its name (zero-shot)",
    "image_to_text": "caption of an image",
    "text_to_image": "image of a caption",
    "audio_to_text": "caption of a sound",
    "text_to_audio": "sound of a caption",
}
# Metric -> what the page calls it, as it ends.
ENDS = {
    "scale": "scale of the cosines, 1 / temperature",
    "positive_cosine": "cosine of pairs",
    "negative_cosine": "cosine of other combinations",
    "modality_gap": "distance between the mean rows of the towers",
    "duplicates": "share of captions that are in the batch already",
}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Test images and their captions where the towers meet.

    Attributes:
      image_rows: one row per image, any scale; compared by cosine.
      thumbnails: one small picture per image.
      captions: different captions of these images.
      caption_rows: one row per caption.
      belongs: whether a caption is of an image.
      examples: what the images are called, such as "sounds".
      play: index of a sound -> the bytes of a WAV file of it; None for images.
    """

    image_rows: Float[np.ndarray, "n d"]
    thumbnails: UInt8[np.ndarray, "n h w 3"]
    captions: Sequence[str]
    caption_rows: Float[np.ndarray, "m d"]
    belongs: Bool[np.ndarray, "n m"]
    play: Callable[[int], bytes] | None = None
    examples: str = "images"


def towers_section(
    results: Sequence[Row], metrics: Sequence[Mapping[str, Any]], pairs: Pairs | None
) -> str:
    """Returns the section, "" for a run without a text tower."""
    if pairs is None:
        return ""
    return markup.section(
        "towers",
        f"{pairs.examples.capitalize()} and words",
        _table(results),
        _halves(metrics),
        _ends(metrics),
        *_examples(pairs),
    )


def _table(results: Sequence[Row]) -> str:
    rows = [row for row in results if row["protocol"] in PROTOCOLS]
    if not rows:
        return markup.missing(
            "Not judged yet: run <code>python -m simclr_jax evaluate"
            " --protocol=zero_shot,retrieval</code> on this workdir, then make the report again."
        )
    percents = lambda row, *keys: "".join(
        f'<td class="number">{100 * row[key]:.1f}</td>'
        if key in row
        else '<td class="number">&ndash;</td>'
        for key in keys
    )
    lines = [
        f'<tr><th scope="row">{PROTOCOLS[row["protocol"]]}</th>'
        f"<td>{markup.escape(row['test_data'])}</td>"
        f"{percents(row, 'top1', 'top5', 'top10', 'top1_chance')}</tr>"
        for row in rows
    ]
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("what is asked", "of", "first", "in 5", "in 10", "first by chance")
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + '\n</tbody></table></div><p class="note">In % of what was asked; any own caption counts,'
        " and a tie counts against.</p>"
    )


def _halves(metrics: Sequence[Mapping[str, Any]]) -> str:
    ways = [(f"{seen}_to_text", f"text_to_{seen}") for seen in ("image", "audio")]
    both = [[series(metrics, f"loss_{way}") for way in pair] for pair in ways]
    found = [(pair, halves) for pair, halves in zip(ways, both, strict=True) if None not in halves]
    if not found:
        return ""
    names, (first, second) = found[0]
    assert first is not None
    assert second is not None
    curves = [Curve(first.x, first.y, "encoder"), Curve(second.x, second.y, "pixels")]
    items = [
        ("var(--encoder)", "-", names[0].replace("_", " ")),
        ("var(--pixels)", "-", names[1].replace("_", " ")),
    ]
    svg = figures.line_chart("halves", "Both halves of the loss", curves, x_label=first.unit)
    caption = (
        f"They end at {first.y[-1]:.3g} and {second.y[-1]:.3g}. A gap between them says that the"
        " rows of one tower have a direction in common."
    )
    return markup.figure("Both halves of the loss, nats", markup.legend(items) + svg, caption)


def _ends(metrics: Sequence[Mapping[str, Any]]) -> str:
    ends = {name: series(metrics, name) for name in ENDS}
    rows = "\n".join(
        f"<div><dt>{ENDS[name]}</dt><dd>{values.y[-1]:.3g}</dd></div>"
        for name, values in ends.items()
        if values is not None
    )
    return f'<dl class="facts">\n{rows}\n</dl>' if rows else ""


def _examples(pairs: Pairs) -> list[str]:
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosines = unit(pairs.image_rows) @ unit(pairs.caption_rows).T  # [n, m]
    parts = []
    for image in _spaced(len(cosines)):
        found = np.argsort(-cosines[image], kind="stable")[:NUM_FOUND]
        said = "".join(
            f"<li>{markup.escape(pairs.captions[i])}, {cosines[image, i]:.2f}</li>" for i in found
        )
        picture = _shown(pairs, image, f"one of the test {pairs.examples}")
        parts.append(
            f'<li class="neighbors"><div class="query">{picture}</div><ol>{said}</ol></li>'
        )
    asked = []
    for caption in _spaced(len(pairs.captions)):
        found = np.argsort(-cosines[:, caption], kind="stable")[:NUM_FOUND]
        cells = "".join(
            f'<div class="{"same" if pairs.belongs[i, caption] else "neighbor"}">'
            + _shown(pairs, int(i), f"cosine {cosines[i, caption]:.2f}")
            + "</div>"
            for i in found
        )
        text = markup.escape(pairs.captions[caption])
        asked.append(f'<li class="neighbors"><span>{text}</span>{cells}</li>')
    note = (
        f"Beside each picture the nearest of {markup.count(len(pairs.captions))} captions with"
        f" their cosines; beside each caption the nearest of {markup.count(len(cosines))}"
        f" {pairs.examples}, a blue frame around its own. Both are spaced evenly, not picked by"
        " result."
    )
    return [
        f'<p class="note">{note}</p>',
        f'<ul class="cards">{"".join(parts)}</ul>',
        f'<ul class="cards">{"".join(asked)}</ul>',
    ]


def _shown(pairs: Pairs, index: int, description: str) -> str:
    picture = markup.picture(pairs.thumbnails[index], description)
    return picture + markup.sound(pairs.play(index)) if pairs.play else picture


def _spaced(count: int) -> Sequence[int]:
    num = min(NUM_EXAMPLES, count)
    return [i * count // num for i in range(num)]
