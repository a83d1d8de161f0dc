"""Tables of plain text, which a terminal and a page show alike."""

import dataclasses
from collections.abc import Sequence

from simclr_jax.report import markup


@dataclasses.dataclass(frozen=True)
class Table:
    """Plain text in rows; columns from `first_number` on hold numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    first_number: int
    notes: Sequence[str]


def printable(text: str) -> str:
    """Returns text that moves no cursor: names of files may come from somebody else."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table_section(anchor: str, table: Table) -> str:
    """Returns a table as a section of a page, in HTML."""
    kind = lambda i: "number" if i >= table.first_number else "text"
    cells = lambda tag, texts: "".join(
        f'<{tag} class="{kind(i)}">{markup.escape(text)}</{tag}>' for i, text in enumerate(texts)
    )
    rows = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    head = f"<thead><tr>{cells('th', table.heads)}</tr></thead>"
    body = f'<div class="scroll"><table>\n{head}\n<tbody>\n{rows}\n</tbody></table></div>'
    notes = [f'<p class="note">{markup.escape(note)}</p>' for note in table.notes]
    return markup.section(anchor, markup.escape(table.title), body, *notes)
