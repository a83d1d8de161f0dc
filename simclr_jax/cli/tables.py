"""Tables in a terminal."""

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

from simclr_jax.report.tables import Table


def print_table(table: Table) -> None:
    """Prints a table, in lines too long for the terminal rather than with figures cut off."""
    shown = rich.table.Table(title=Text(table.title), box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(table.heads):
        if i < table.first_number:
            shown.add_column(Text(head), overflow="fold")
        else:  # no number is broken over lines
            longest = max(map(len, [*head.split(), *(row[i] for row in table.rows)]))
            shown.add_column(Text(head), justify="right", min_width=longest)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console = Console()
    width = max(console.width, console.measure(shown).minimum)
    console.print(shown, width=width, crop=False)
    console.print(*map(Text, table.notes), sep="\n")
