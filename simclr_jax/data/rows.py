"""Rows of tables in text files: CSV and TSV with a header line, JSON lines, and plain lines."""

import csv
import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import reason

# By kind of table. One of plain lines has one column, "text".
EXTENSIONS = {"csv": (".csv", ".tsv"), "jsonl": (".jsonl", ".ndjson"), "txt": (".txt",)}
Row: TypeAlias = dict[str, Any]


def column_names(path: str, kind: str) -> list[str]:
    """Returns the names of a table's columns, in the order in which they come.

    Args:
      path: the table.
      kind: one of `EXTENSIONS`, whatever its own is.

    Raises:
      UserError: if the table cannot be read, or has no header.
    """
    if kind == "csv":
        return _header(path)[0]
    if kind == "txt":
        return ["text"]
    return list(dict.fromkeys(key for _, row in _json_rows(path) for key in row))


def read_rows(path: str, kind: str) -> Iterator[tuple[int, Row]]:
    """Yields the rows of a table, each with the number of the line that it begins in.

    Raises:
      UserError: if a line is no row, or not UTF-8.
    """
    readers = {"csv": _csv_rows, "jsonl": _json_rows, "txt": _text_rows}
    return readers[kind](path)


def _lines(path: str) -> Iterator[str]:
    """Yields the lines of a file with their ends; a mark at its begin is left out."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}, line {number}, is not UTF-8: byte {line[error.start]:#04x} at "
                        f"{error.start + 1}. Convert it once, such as: iconv -f latin1 -t utf-8."
                    ) from error
                yield text
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error


def _header(path: str) -> tuple[list[str], str]:
    """Returns the columns of a CSV file, and what stands between them.

    That is whichever of comma, tab and semicolon its first line has most of.
    """
    first = next(_lines(path), "").strip("\r\n")
    delimiter = max(",\t;", key=first.count)
    names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    if not any(names):
        raise UserError(f"{path} is empty, or its first line is: the names of its columns.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} has two columns called {twice[0]!r}: rename one.")
    return names, delimiter


def _csv_rows(path: str) -> Iterator[tuple[int, Row]]:
    names, delimiter = _header(path)
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    line = 1
    try:
        next(reader)
        while True:
            line = reader.line_num + 1
            values = next(reader)
            if values and len(values) != len(names):
                raise UserError(
                    f"{path}, line {line}, has {len(values)} fields, and the header {len(names)}. "
                    'A field that holds the delimiter stands in quotes: "a, b".'
                )
            if values:  # no empty line
                yield line, dict(zip(names, values, strict=True))
    except StopIteration:
        return
    except csv.Error as error:
        raise UserError(f"{path}, line {line}, is no row of a CSV file: {error}.") from error


def _json_rows(path: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}, is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(
                f'{path}, line {number}, is no JSON object such as {{"image": "a.jpg"}}.'
            )
        yield number, row


def _text_rows(path: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield number, {"text": line}
