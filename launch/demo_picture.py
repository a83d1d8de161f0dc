"""The picture in README: the charts of accuracy over labels of a report, beside each other.

python launch/demo_picture.py runs/demo/report.html launch/demo.svg
"""

import argparse
import re
from pathlib import Path
from xml.etree import ElementTree

from simclr_jax.report.figures import COLORS

WIDTH, HEIGHT = 420, 290  # of a chart
LEGEND = {"encoder": "trained encoder", "pixels": "raw pixels", "random": "random features"}


def picture(report: str) -> str:
    """Returns an SVG with the first two charts of a report, a title each and a legend.

    Args:
      report: text of report.html. Its colours are variables of the page's style, which a picture
        lacks.
    """
    charts = re.findall(r"<svg.*?</svg>", report, flags=re.DOTALL)[:2]
    size = f'width="{2 * WIDTH}" height="{HEIGHT + 60}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, (color, text) in enumerate(LEGEND.items()):
        parts.append(f'<text x="{30 + 170 * i}" y="20" fill="var(--{color})">{text}</text>')
    for i, chart in enumerate(charts):
        title = ElementTree.fromstring(chart).attrib["aria-label"]
        parts.append(f'<text x="{30 + WIDTH * i}" y="48" font-size="14">{title}</text>')
        place = f'x="{WIDTH * i}" y="56" width="{WIDTH}" height="{HEIGHT}" viewBox'
        parts.append(re.sub(r"width=.*?viewBox", place, chart, count=1))
    text = "\n".join([*parts, "</svg>", ""])
    return re.sub(r"var\(--([\w-]+)\)", lambda name: COLORS[name[1]], text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("report", type=Path, help="report.html")
    parser.add_argument("picture", type=Path, help="SVG to write")
    given = parser.parse_args()
    given.picture.write_text(picture(given.report.read_text()))
