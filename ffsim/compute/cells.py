"""Rows of measured tables: cells that collect what is wrong with them, and the cases they become."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ffsim.compute.measured import Call
from ffsim.errors import Problem
from ffsim.model.precision import Dtype

DTYPES: dict[str, Dtype] = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "bf16",
    "float16": "bf16",
    "half": "bf16",
    "tf32": "tf32",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "fp8_block_wgrad": "fp8_block_wgrad",
}
BF16_BYTES = 2
FALSE = frozenset({"0", "False", "false"})


class Skip(Exception):  # noqa: N818 - not an error: a row that says what ffsim does not model
    """A row of a kind that ffsim does not model; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measured row.

    Attributes:
        line: in the file.
        label: family under which its error is reported.
        what: the shape, for people.
        calls: the kernel calls it is made of; each carries the row's own time.
        seconds: measured.
    """

    line: int
    label: str
    what: str
    calls: tuple[Call, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """One measured row that another part predicts.

    Attributes:
        case: the row, made of no kernel calls.
        seconds: predicted.
        least_s: what no machine of that data sheet can do in less.
    """

    case: Case
    seconds: float
    least_s: float


@dataclass(slots=True)
class Cells:
    """One line of a file: reads its cells and collects what is wrong with them."""

    cells: Mapping[str, str]
    where: str
    problems: list[Problem] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        """Whether one of the columns holds something."""
        return any((self.cells.get(name) or "").strip() for name in names)

    def text(self, name: str, default: str = "") -> str:
        """A cell as text."""
        return (self.cells.get(name) or "").strip() or default

    def count(self, *names: str, default: int | None = None) -> int:
        """A positive whole number from the first of the columns that holds one."""
        return int(self._number(names, default, whole=True))

    def number(self, *names: str) -> float:
        """A positive number from the first of the columns that holds one."""
        return self._number(names, None, whole=False)

    def _number(self, names: Sequence[str], default: float | None, *, whole: bool) -> float:
        name = next((name for name in names if self.has(name)), None)
        if name is None:
            if default is None:
                self.fail(names[0], "is missing", f"fill in {' or '.join(names)}")
            return 1.0 if default is None else default
        try:
            value = float(self.text(name))
        except ValueError:
            self.fail(name, f"{self.text(name)!r} is not a number", "write a number")
            return 1.0
        if not math.isfinite(value) or value <= 0:
            self.fail(name, f"{self.text(name)} is not a positive number", "measure again or remove the line")
            return 1.0
        if whole and value != int(value):
            self.fail(name, f"{self.text(name)} is not a whole number", "write a whole number")
            return 1.0
        return value

    def fail(self, path: str, what: str, fix: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(where=self.where, path=path, what=what, fix=fix))


def dtype_of(cells: Cells) -> Dtype:
    """The number format of a row.

    Raises:
        Skip: ffsim has no model of it.
    """
    name = cells.text("dtype", "bf16")
    if name not in DTYPES:
        raise Skip(f"{cells.text('op')} in {name}")
    return DTYPES[name]


ForeignReader = Callable[[Cells, int], Foreign | None]
"""Cells of a row and its line to what another part makes of it; none where the cells are wrong, which they then say."""
