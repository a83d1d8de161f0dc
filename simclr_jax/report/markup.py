"""Small pieces of HTML. Whatever comes from a file or a user passes through `escape`."""

import base64
import html
import importlib.resources
import io
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MAX_PICTURE_PX = 96  # twice the size at which the page shows a picture
# Marker names of matplotlib -> the same shape in text; "-" and "--" are line styles.
SYMBOLS = {
    "o": "&#9679;",
    "s": "&#9632;",
    "^": "&#9650;",
    "D": "&#9670;",
    "-": "&#9473;&#9473;",
    "--": "&#9473;&#8201;&#9473;",
}


def document(title: str, body: str) -> str:
    """Returns a page; `title` is plain text and `body` HTML.

    It carries a Content-Security-Policy that forbids scripts and any request, so a file name made
    to attack a reader has nothing to reach even if escaping had a hole.
    """
    style = importlib.resources.files("simclr_jax.report").joinpath("style.css").read_text("utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def escape(text: object) -> str:
    """Returns `text` fit for HTML content and for quoted attribute values."""
    shown = str(text).encode("utf-8", "backslashreplace").decode()  # a name may be no UTF-8
    return html.escape(shown, quote=True)


def percent(fraction: float | int) -> str:
    """Returns a fraction in [0, 1] as "81.2 %"."""
    return f"{100 * fraction:.1f}&nbsp;%"


def count(number: float | int) -> str:
    """Returns a count with thousands separators, such as "4,000"."""
    return f"{number:,.0f}"


def missing(explanation: str) -> str:
    """Returns the line that stands where a part of the page has no data; `explanation` is HTML."""
    return f'<p class="missing">{explanation}</p>'


def section(anchor: str, heading: str, *parts: str) -> str:
    """Returns a section of the page; `parts` are HTML."""
    return f'<section id="{anchor}">\n<h2>{heading}</h2>\n' + "\n".join(parts) + "\n</section>"


def figure(heading: str, body: str, caption: str) -> str:
    """Returns a picture with its heading above and what to look for below; all three are HTML."""
    return f"<figure>\n<h3>{heading}</h3>\n{body}\n<figcaption>{caption}</figcaption>\n</figure>"


def legend(items: Iterable[tuple[str, str, str]]) -> str:
    """Returns a legend that wraps; each item is (CSS colour, key of `SYMBOLS`, plain text)."""
    entries = "".join(
        f'<li><span style="color:{color}" aria-hidden="true">{SYMBOLS[symbol]}</span>'
        f"{escape(text)}</li>"
        for color, symbol, text in items
    )
    return f'<ul class="legend">{entries}</ul>'


def picture(pixels: UInt8[np.ndarray, "h w 3"], description: str) -> str:
    """Returns an <img> with its data inside, no larger than `MAX_PICTURE_PX` on a side.

    PNG or JPEG, whichever is smaller: drawings stay exact and photographs stay small.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_PICTURE_PX, MAX_PICTURE_PX), Image.Resampling.BOX)
    if (pixels == pixels[..., :1]).all():
        image = image.convert("L")
    encoded = {}
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 88})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda kind: len(encoded[kind]))
    data = base64.b64encode(encoded[kind]).decode("ascii")
    text = escape(description)
    return (
        f'<img src="data:image/{kind};base64,{data}" alt="{text}" title="{text}"'
        f' width="{image.width}" height="{image.height}">'
    )


def sound(wav: bytes) -> str:
    """Returns a player with its sound, a WAV file, inside."""
    data = base64.b64encode(wav).decode("ascii")
    return f'<audio controls preload="none" src="data:audio/wav;base64,{data}"></audio>'
