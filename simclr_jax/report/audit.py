"""What an audit found, as tables, a contact sheet and one page."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from simclr_jax.core.files import atomic_write, write_text
from simclr_jax.data.audit import Audit, Member, classes, formats, num_in_groups, sides, spread
from simclr_jax.data.records import left_out
from simclr_jax.data.survey import Survey
from simclr_jax.report import markup
from simclr_jax.report.tables import Table, printable, table_section

Pictures: TypeAlias = Mapping[Member, UInt8[np.ndarray, "h w 3"]]
SHEET_COLUMNS, SHEET_ROWS, TILE_PX = 12, 8, 96
MAX_GROUPS, MAX_IN_GROUP = 12, 6  # of duplicates on the page
MAX_CLASSES = 40  # in a table
MAX_UNREADABLE = 20  # in a table


def tables(found: Audit) -> list[Table]:
    """Returns counts, formats, sides, classes and unreadable images, as far as there are any."""
    names = _short_names(found)
    kinds = [*itertools.product(names, ("shorter side", "longer side"))]
    heads = [kind if len(names) == 1 else f"{name}, {kind}" for name, kind in kinds]
    by_side = [column for part in found.parts for column in sides(part).values()]
    result = [
        _count_table(found, names),
        _counted("Formats", "stored as", names, [formats(part) for part in found.parts]),
        _counted("Sides", "px", heads, by_side),
    ]
    labelled = [(name, part) for name, part in zip(names, found.parts, strict=True) if _has(part)]
    if labelled:
        balance = [classes(part) for _, part in labelled]
        result.append(_counted("Classes", "class", [name for name, _ in labelled], balance))
    if any(part.unreadable for part in found.parts):
        result.append(_unreadable_table(found))
    return result


def shown_members(found: Audit) -> list[Member]:
    """Returns the images that `write_page` and `contact_sheet` show."""
    members = _on_the_sheet(found)
    for groups in (found.leaks, found.copies, found.similar):
        members += [one for group in groups[:MAX_GROUPS] for one in group[:MAX_IN_GROUP]]
    return list(dict.fromkeys(members))


def write_contact_sheet(found: Audit, pictures: Pictures, path: epath.PathLike) -> None:
    """Writes a JPEG of images that are spread evenly over the parts.

    Args:
      found: the audit.
      pictures: at least those of `shown_members`, no side longer than `TILE_PX`.
      path: where it goes; a file that is there is replaced by a complete one.

    Raises:
      StorageError: if it cannot be written.
    """
    chosen = _on_the_sheet(found)
    num_rows = max(1, -(-len(chosen) // SHEET_COLUMNS))
    sheet = np.full((num_rows * TILE_PX, SHEET_COLUMNS * TILE_PX, 3), 255, np.uint8)
    for i, member in enumerate(chosen):
        pixels = pictures[member]
        top, left = np.array(divmod(i, SHEET_COLUMNS)) * TILE_PX
        sheet[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG", quality=88)
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(buffer.getvalue())


def write_page(found: Audit, pictures: Pictures, path: epath.PathLike) -> None:
    """Writes one HTML page that loads nothing and runs nothing; arguments as above."""
    total = sum(map(len, found.parts))
    bad = sum(len(part.unreadable) for part in found.parts)
    headline = f"{total:,} images, {bad:,} of them unreadable; {len(found.notes)} warnings"
    title = printable(" and ".join(part.source.name for part in found.parts))
    header = (
        f"<header>\n<h1>{markup.escape(title)}</h1>\n"
        f'<p class="headline">{markup.escape(headline)}</p>\n</header>'
    )
    notes = "".join(f"<li>{markup.escape(printable(note))}</li>" for note in found.notes)
    body = [
        header,
        markup.section("notes", "What to look at", f"<ul>{notes}</ul>" if notes else "Nothing."),
        *(table_section(f"table{i}", table) for i, table in enumerate(tables(found))),
        _groups_section("leaks", "In more than one part", found, found.leaks, pictures),
        _groups_section("copies", "The same byte for byte", found, found.copies, pictures),
        _groups_section("similar", "Alike to the eye", found, found.similar, pictures),
        _sheet_section(found, pictures),
    ]
    write_text(path, markup.document(f"Audit of {title}", "\n".join(body)))


def _short_names(found: Audit) -> list[str]:
    """Returns the ends of the parts' names, such as "train" and "test", if they are distinct."""
    names = [part.source.name for part in found.parts]
    ends = [name.rpartition("/")[2] for name in names]
    return [*map(printable, ends if len(set(ends)) == len(ends) else names)]


def _has(part: Survey) -> bool:
    return bool(part.source.class_names)


def _count_table(found: Audit, names: Sequence[str]) -> Table:
    heads = ["", "images", "unreadable", "left out", "copies", "alike", "in another part too"]
    rows = []
    for i, (name, part) in enumerate(zip(names, found.parts, strict=True)):
        numbers = (
            len(part),
            len(part.unreadable),
            sum(left_out(part.source).values()),
            num_in_groups(found.copies, i),
            num_in_groups(found.similar, i),
            num_in_groups(found.leaks, i),
        )
        rows.append([name, *(f"{number:,}" for number in numbers)])
    notes = []
    if found.sizes:
        canvas, size = found.sizes
        notes.append(
            f"Sizes that suit: views of {size} px (--config.augment.size={size}), from images "
            f"within {canvas} px (--config.data.canvas={canvas})."
        )
    return Table("Images", heads, rows, 1, notes)


def _counted(
    title: str, what: str, names: Sequence[str], counts: Sequence[Mapping[str, int]]
) -> Table:
    """Returns a table of counts, a row for each key that comes at all, a column for each name."""
    found = dict.fromkeys(key for column in counts for key in column)
    keys = [key for key in found if any(column.get(key) for column in counts)]
    rows = [[printable(key), *(f"{column.get(key, 0):,}" for column in counts)] for key in keys]
    more = len(rows) - MAX_CLASSES
    notes = [f"And {more} more, in audit.json."] if more > 0 else []
    return Table(title, [what, *names], rows[:MAX_CLASSES], 1, notes)


def _unreadable_table(found: Audit) -> Table:
    entries = [entry for part in found.parts for entry in part.unreadable]
    rows = [[printable(entry.name), printable(entry.reason)] for entry in entries]
    more = len(rows) - MAX_UNREADABLE
    notes = [f"And {more} more, in audit.json."] if more > 0 else []
    return Table("Unreadable", ["image", "reason"], rows[:MAX_UNREADABLE], 2, notes)


def _on_the_sheet(found: Audit) -> list[Member]:
    each = SHEET_COLUMNS * SHEET_ROWS // len(found.parts)
    return [Member(i, int(row)) for i, part in enumerate(found.parts) for row in spread(part, each)]


def _groups_section(
    anchor: str,
    heading: str,
    found: Audit,
    groups: Sequence[Sequence[Member]],
    pictures: Pictures,
) -> str:
    if not groups:
        return markup.section(anchor, heading, markup.missing("None."))
    note = f"{len(groups):,} groups; the first {min(len(groups), MAX_GROUPS)} are shown."
    cards = []
    for group in groups[:MAX_GROUPS]:
        cells = [_cell(found, one, pictures) for one in group[:MAX_IN_GROUP]]
        more = len(group) - MAX_IN_GROUP
        cells += [f"<div><span>and {more:,} more</span></div>"] if more > 0 else []
        cards.append(f'<li class="neighbors">{"".join(cells)}</li>')
    body = f'<ul class="cards">{"".join(cards)}</ul>'
    return markup.section(anchor, heading, f'<p class="note">{note}</p>', body)


def _cell(found: Audit, member: Member, pictures: Pictures) -> str:
    name = printable(found.name(member))
    if len(found.parts) > 1:
        name = f"{name} ({_short_names(found)[member.part]})"
    picture = markup.picture(pictures[member], name)
    return f"<div>{picture}<span>{markup.escape(name)}</span></div>"


def _sheet_section(found: Audit, pictures: Pictures) -> str:
    cells = [_cell(found, one, pictures) for one in _on_the_sheet(found)[: 2 * SHEET_COLUMNS]]
    note = '<p class="note">Spread evenly over the parts; contact_sheet.jpg has more.</p>'
    body = f'<div class="neighbors">{"".join(cells)}</div>'
    return markup.section("sheet", "Some of the images", note, body)
