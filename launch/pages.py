"""Parts of the documentation that scripts write, each between two marks."""

from pathlib import Path

from simclr_jax.core.files import write_text

DOCS = Path(__file__).parents[1] / "docs"


def replace_between(page: Path, start: str, end: str, text: str) -> None:
    """Replaces what stands between the lines `start` and `end` of a page.

    Raises:
      ValueError: if one of them is not there.
    """
    before, found_start, rest = page.read_text().partition(start)
    _, found_end, after = rest.partition(end)
    if not found_start or not found_end:
        raise ValueError(f"{page} lacks the line {start.strip()} or {end.strip()}.")
    write_text(page, before + start + text + end + after)
