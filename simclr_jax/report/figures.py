"""Charts as inline SVG, in the colours of the page.

Text stays text, so it takes the page's font, can be searched and scales with the chart; each
chart is drawn on a canvas about as wide as a phone, where it must still be read. Colours
become CSS variables, so the same SVG serves light and dark.
"""

import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

# The colours of charts by the CSS variable that replaces them in the SVG. The stylesheet
# gives the values for light and dark; these only have to differ from each other.
COLORS = {
    "ink": "#1b1f24",
    "muted": "#5b6470",
    "grid": "#e2e5e9",
    "encoder": "#0b62a8",
    "pixels": "#c2570c",
    "random": "#7a828c",
}
# Ten colours told apart with any colour vision (Petroff 2021, https://arxiv.org/abs/2107.02270),
# readable on white and on black.
CLASS_COLORS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
_POINTS_PER_INCH = 72  # so that one unit of the viewBox is one point
_WIDTH = 420
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "simclr_jax",  # the same data gives the same bytes
    "text.parse_math": False,  # a "$" in a class name is a dollar
    "font.size": 12.5,
    "text.color": COLORS["ink"],
    "axes.edgecolor": COLORS["muted"],
    "axes.labelcolor": COLORS["muted"],
    "axes.labelsize": 12.5,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLORS["grid"],
    "grid.linewidth": 1.0,
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "lines.markersize": 7.0,
}


class Curve(NamedTuple):
    """One line of a chart; `color` is a key of `COLORS`, `note` a text above its right end."""

    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    color: str
    marker: str = ""
    line: str = "-"
    error: Float[np.ndarray, " n"] | None = None
    note: str = ""


class Group(NamedTuple):
    """Points of one class on the map; `color` is a CSS colour or a key of `COLORS`."""

    members: Int[np.ndarray, " m"]
    color: str
    marker: str
    note: str = ""


def line_chart(
    name: str,
    description: str,
    curves: Sequence[Curve],
    *,
    x_label: str,
    from_zero: bool = False,
    ticks: Sequence[tuple[float, str]] = (),
) -> str:
    """Returns curves over training time, or over the values of a setting.

    Args:
      name: prefix of the ids inside the SVG; unique on the page.
      description: what the chart shows, for a screen reader.
      curves: lines in drawing order.
      x_label: unit of x.
      from_zero: whether the y axis starts at zero.
      ticks: (x, text) of the x axis; it has round numbers if there are none.
    """
    with matplotlib.rc_context(_STYLE):
        fig, ax = _axes(height=230)
        _draw(ax, curves)
        ax.set_xlabel(x_label)
        ax.margins(x=0.02, y=0.08)
        if from_zero:
            ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        if ticks:
            ax.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
        return _svg(fig, name, description)


def label_chart(
    name: str,
    description: str,
    curves: Sequence[Curve],
    *,
    ticks: Sequence[tuple[int, str]],
    chance: float | int | None,
) -> str:
    """Returns accuracy in percent over the number of labels, x in logarithmic steps.

    Args:
      name: prefix of the ids inside the SVG; unique on the page.
      description: what the chart shows, for a screen reader.
      curves: one line per kind of features, y in percent.
      ticks: (number of labels, text) of the x axis.
      chance: accuracy of a guess in percent, None if unknown.
    """
    with matplotlib.rc_context(_STYLE):
        fig, ax = _axes(height=290)
        if chance is not None:
            ax.axhline(chance, color=COLORS["muted"], linestyle=":", linewidth=1.5)
            ax.annotate(
                "guessing",
                (1, chance),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=COLORS["muted"],
            )
        _draw(ax, curves)
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
        ax.margins(x=0.1)
        ax.set_ylim(0, 100)
        ax.set_xlabel("training labels")
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        return _svg(fig, name, description)


def map_chart(
    name: str, description: str, points: Float[np.ndarray, "n 2"], groups: Sequence[Group]
) -> str:
    """Returns a scatter of points by class; a group's note stands at its most central point."""
    with matplotlib.rc_context(_STYLE):
        fig, ax = _axes(height=380)
        ax.set_axis_off()
        ax.set_aspect("equal", adjustable="datalim")
        for group in groups:
            x, y = points[group.members].T
            color = COLORS.get(group.color, group.color)
            ax.plot(x, y, group.marker, color=color, markersize=4.2, markeredgewidth=0)
        for group in groups:
            if group.note and len(group.members):
                mates = points[group.members]
                apart = np.linalg.norm(mates[:, None] - mates[None], axis=-1)  # [m, m]
                x, y = mates[np.median(apart, axis=1).argmin()]
                ax.text(x, y, group.note, ha="center", va="center", fontweight="bold")
        return _svg(fig, name, description)


def _axes(height: int) -> tuple[Figure, Axes]:
    size = (_WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
    fig = Figure(figsize=size, dpi=_POINTS_PER_INCH, layout="constrained")
    return fig, fig.add_subplot()


def _draw(ax: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        color = COLORS[curve.color]
        ax.errorbar(
            curve.x,
            curve.y,
            yerr=curve.error,
            color=color,
            marker=curve.marker or None,
            linestyle=curve.line,
            capsize=4,
            elinewidth=1.5,
        )
        if curve.note:
            ax.annotate(
                curve.note,
                (curve.x[-1], curve.y[-1]),
                xytext=(0, 5),
                textcoords="offset points",
                ha="right",
                color=color,
            )


def _svg(fig: Figure, name: str, description: str) -> str:
    """Returns the figure as an <svg> element that can stand beside others on one page."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Only widths are measured with matplotlib's font; the reader's browser has the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        fig.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(buffer.getvalue())
    variables = {color: f"var(--{css})" for css, color in COLORS.items()}
    for element in root.iter():
        for style in element.findall(f"{{{_SVG}}}style"):
            element.remove(style)  # its "*" would reach the whole page
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{_XLINK}}}href":
                element.set(key, value.replace("#", f"#{name}-"))
            elif key == "clip-path":
                element.set(key, value.replace("url(#", f"url(#{name}-"))
            elif key == "style":
                for color, variable in variables.items():
                    value = value.replace(color, variable)
                element.set(key, value)
    root.set("role", "img")
    root.set("aria-label", description)
    return ElementTree.tostring(root, encoding="unicode")
