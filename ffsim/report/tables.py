"""Answers as text: what a command shows, and how it is written in each format.

A command hands over a `Presentation`: titled tables for people, plain data for machines. `render` writes it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tabulate import tabulate

Format = Literal["table", "json", "csv", "markdown"]
Cell = str | int | float


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table; columns that hold numbers are aligned right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: Sequence[int] = ()
    footer: str = ""


@dataclass(frozen=True, slots=True)
class Presentation:
    """What a command has to show.

    Attributes:
        title: first line.
        tables: for people.
        data: for machines: JSON, and CSV if there are no records.
        records: rows for CSV, all with the same keys.
    """

    title: str
    tables: Sequence[Table]
    data: Any
    records: Sequence[dict[str, Any]] = field(default=())


def render(presentation: Presentation, format_: Format) -> str:
    """Write a presentation; the text ends with a line feed."""
    return {"table": _text, "json": _json, "csv": _csv, "markdown": _markdown}[format_](presentation)


def _text(presentation: Presentation) -> str:
    parts = [presentation.title] if presentation.title else []
    parts += [_one(table, "simple") for table in presentation.tables]
    return "\n\n".join(parts) + "\n"


def _markdown(presentation: Presentation) -> str:
    title = presentation.title.replace("\n", "  \n")
    parts = [f"# {title}"] if title else []
    parts += [_one(table, "github") for table in presentation.tables]
    return "\n\n".join(parts) + "\n"


def _one(table: Table, style: str) -> str:
    rows = [[_escaped(cell) for cell in row] for row in table.rows] if style == "github" else table.rows
    align = ["right" if column in table.right else "left" for column in range(len(table.columns))]
    body = tabulate(
        rows,
        headers=table.columns,
        tablefmt=style if any(table.columns) or style == "github" else "plain",
        colalign=align,
        disable_numparse=True,
        preserve_whitespace=True,
    )
    if not any(table.columns) and style != "github":
        body = body.lstrip("\n")
    heading = f"### {table.title}\n\n" if style == "github" else f"{table.title}\n"
    return (heading if table.title else "") + body + (f"\n\n{table.footer}" if table.footer else "")


def _escaped(cell: Cell) -> Cell:
    return cell.replace("|", "\\|") if isinstance(cell, str) else cell


def _json(presentation: Presentation) -> str:
    return json.dumps(presentation.data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(presentation: Presentation) -> str:
    records = presentation.records or [{"path": path, "value": value} for path, value in _flat(presentation.data, "")]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _flat(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Leaves of nested data under dotted paths."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _flat(value, f"{path}.{index}")
    else:
        yield path, data
