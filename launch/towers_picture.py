"""The pictures in docs: what two towers found for each other, from the report of a run.

python launch/towers_picture.py runs/openmoji/report.html docs/methods/openmoji.png
"""

import argparse
import base64
import html
import io
import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROWS = 6  # of the examples each way
WIDTH, ROW, SIDE, LINE = 920, 84, 72, 15  # px
TEXT = 480  # where the right half begins
FRAME = (42, 120, 214)


def picture(report: str) -> Image.Image:
    """Returns examples of a report, words for pictures on the left, pictures for words beside.

    Args:
      report: text of report.html of a run with two towers that was judged.

    Raises:
      ValueError: if it has no such examples.
    """
    # Lists of texts lie within those of pictures.
    items = re.findall(
        r'<li class="neighbors">(.*?)</li>\s*(?=<li class="neighbors">|</ul>)', report, re.DOTALL
    )
    seen = [item for item in items if "<ol>" in item][:ROWS]
    asked = [item for item in items if "<span>" in item][:ROWS]
    if not seen or not asked:
        raise ValueError("This report has no examples of two towers: evaluate, then report again.")
    sheet = Image.new("RGB", (WIDTH, ROW * max(len(seen), len(asked))), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, item in enumerate(seen):
        sheet.paste(_pictures(item)[0], (6, row * ROW + 6))
        said = re.findall(r"<li>(.*?)</li>", item + "</li>", re.DOTALL)
        for k, text in enumerate(said):
            draw.text((90, row * ROW + 5 + k * LINE), _words(text, 60), "black", font)
    for row, item in enumerate(asked):
        text = re.findall(r"<span>(.*?)</span>", item, re.DOTALL)[0]
        draw.text((TEXT, row * ROW), _words(text, 64), "black", font)
        own = re.findall(r'<div class="(same|neighbor)">', item)
        for k, (found, kind) in enumerate(zip(_pictures(item), own, strict=True)):
            at = (TEXT + k * (SIDE + 12), row * ROW + 18)
            small = found.resize((SIDE - 10, SIDE - 10))
            sheet.paste(small, at)
            if kind == "same":
                box = (at[0] - 2, at[1] - 2, at[0] + small.width + 1, at[1] + small.height + 1)
                draw.rectangle(box, outline=FRAME, width=2)
    return sheet


def _pictures(item: str) -> list[Image.Image]:
    data = re.findall(r'src="data:image/\w+;base64,([^"]+)"', item)
    images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in data]
    return [image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST) for image in images]


def _words(text: str, most: int) -> str:
    words = html.unescape(text)
    return words if len(words) <= most else words[: most - 3] + "..."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("report", type=Path, help="report.html")
    parser.add_argument("picture", type=Path, help="PNG to write")
    given = parser.parse_args()
    picture(given.report.read_text()).quantize(64).save(given.picture, optimize=True)
