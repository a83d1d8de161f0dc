"""What the bench found, as a table and as rows that can be kept."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("what", "ours", "peer", "theirs", "ratio", "wanted", "quiet samples")


def machine() -> str:
    """Returns the processor of this machine, and how many of them there are."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
        model = next(
            (value.strip() for key, _, value in lines if key.strip() == "model name"), model
        )
    return f"{os.cpu_count()} x {model}"


def facts(peers: Mapping[str, str] | None) -> dict[str, Any]:
    """Returns when and where rows are made, and by which versions."""
    ours = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {**ours, **(peers or {})},
    }


def cells(row: Mapping[str, Any]) -> list[str]:
    """Returns a line of the table."""
    ours, theirs = row["ours"], row["theirs"]
    counts = [f"{side['quiet']} of {side['samples']}" for side in (ours, theirs) if side]
    return [
        row["what"],
        _seconds(ours),
        row["peer"] if theirs else "-",
        _seconds(theirs) if theirs else "not run",
        f"{row['ratio']:.2f}" if theirs else "-",
        f"{row['bar']:.2f}",
        ", ".join(dict.fromkeys(counts)),
    ]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Returns the table for a terminal."""
    return f"{aligned([COLUMNS, *map(cells, rows)])}\n{origin(facts)}\n"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Returns lines of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "".join(f"{line}\n" for line in padded)


def origin(facts: Mapping[str, Any]) -> str:
    """Returns when and where rows were made, in words."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['date']}, {facts['machine']}; {versions}"


def _seconds(times: Mapping[str, Any]) -> str:
    """Returns a median, and the middle half of the samples."""
    unit, scale = ("s", 1) if times["median"] >= 1 else ("ms", 1000)
    median, low, high = (times[key] * scale for key in ("median", "low", "high"))
    digits = max(0, 2 - len(str(int(median))) + 1)
    return f"{median:.{digits}f} {unit} ({low:.{digits}f} to {high:.{digits}f})"
