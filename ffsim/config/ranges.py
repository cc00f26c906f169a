"""Rows of values written short: ``2:128`` doubles from 2 to 128, ``1MiB:1GiB:4`` grows by fours, ``2,16,128`` lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ffsim.units import BYTES

MAX_VALUES = 1000
LARGEST_COUNT = 2**31
_TOUCHING = re.compile(r"(?<=[\d.])(?=[A-Za-z])")
N = TypeVar("N", int, float)


def parse_counts(data: object) -> tuple[int, ...]:
    """Read whole numbers: one, a list, or text such as ``2:128`` or ``2,16,128``.

    Raises:
        ValueError: not such text, a number below 1, a range that falls or has too many values.

    >>> parse_counts("2:20"), parse_counts("1:27:3"), parse_counts([8, 4])
    ((2, 4, 8, 16), (1, 3, 9, 27), (8, 4))
    """
    return _parse(data, _count, "counts")


def parse_sizes(data: object) -> tuple[float, ...]:
    """Read sizes in bytes: one, a list, or text such as ``1MiB:1GiB`` or ``64 kB, 186 MiB``.

    Raises:
        ValueError: as `parse_counts`; a size without a unit, or one of zero in a range.

    >>> parse_sizes("1MiB:4 MiB"), parse_sizes(["1 kB", "2 kB"])
    ((1048576.0, 2097152.0, 4194304.0), (1000.0, 2000.0))
    """
    return _parse(data, _size, "sizes")


def _parse(data: object, read: Callable[[object], N], what: str) -> tuple[N, ...]:
    if isinstance(data, str):
        items: list[object] = [part.strip() for part in data.split(",")]
    else:
        items = list(data) if isinstance(data, list | tuple) else [data]
    values = [value for item in items for value in _expand(item, read)]
    if not values:
        raise ValueError(f"no {what}: give at least one")
    if len(values) > MAX_VALUES:
        raise ValueError(f"{len(values):,} {what} are too many: give at most {MAX_VALUES:,}")
    return tuple(values)


def _expand(item: object, read: Callable[[object], N]) -> list[N]:
    """One value, or the values of a range."""
    if not (isinstance(item, str) and ":" in item):
        return [read(item)]
    first, last, *rest = (part.strip() for part in item.split(":"))
    if len(rest) > 1 or (rest and not rest[0].isdigit()):
        raise ValueError(f"cannot read {item!r} as a range: write first:last or first:last:factor")
    factor = int(rest[0]) if rest else 2
    value, end = read(first), read(last)
    if factor < 2 or not 0 < value <= end:
        raise ValueError(f"range {item!r} does not grow: write smaller:larger, and a factor of at least 2")
    values = [value]
    while values[-1] * factor <= end:
        values.append(values[-1] * factor)
    return values


def _count(item: object) -> int:
    if isinstance(item, str) and item.isdigit():
        item = int(item)
    if isinstance(item, bool) or not isinstance(item, int):
        raise ValueError(f"cannot read {item!r} as a whole number: write 16, 2:128 or 2,16,128")
    if not 1 <= item <= LARGEST_COUNT:
        raise ValueError(f"{item:,} is no count: give 1 or more")
    return item


def _size(item: object) -> float:
    return BYTES.parse(_TOUCHING.sub(" ", item) if isinstance(item, str) else item)


@dataclass(frozen=True)
class Listed:
    """Marks a tuple field that files write as one value, a list or a range."""

    parse: Callable[[object], tuple[Any, ...]]
    examples: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "type": ["string", "integer", "array"],
            "description": "one value, a list, or a range first:last that doubles, first:last:factor that grows faster",
            "examples": list(self.examples),
        }


Counts = Annotated[tuple[int, ...], Listed(parse_counts, ("16", "2:128", "2,16,128"))]
Sizes = Annotated[tuple[float, ...], Listed(parse_sizes, ("186 MiB", "1MiB:1GiB", "1MiB:1GiB:4"))]
