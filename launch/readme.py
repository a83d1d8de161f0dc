"""Parts of README.md that scripts write, each between two marks."""

from pathlib import Path

from simclr_jax.core.files import write_text

README = Path(__file__).parents[1] / "README.md"


def replace_between(start: str, end: str, text: str) -> None:
    """Replaces what stands between the lines `start` and `end` of README.md.

    Raises:
      ValueError: if one of them is not there.
    """
    before, found_start, rest = README.read_text().partition(start)
    _, found_end, after = rest.partition(end)
    if not found_start or not found_end:
        raise ValueError(f"{README} lacks the line {start.strip()} or {end.strip()}.")
    write_text(README, before + start + text + end + after)
