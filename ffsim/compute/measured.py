"""Measured kernels as tables: what profiles are fitted to, interpolated from and checked against.

One CSV file per GPU ships with ffsim; ``measured/README.md`` says where the rows come from.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ffsim.model.operators import Operators, Row

Array = np.ndarray[Any, Any]

FOLDER = Path(__file__).parent / "measured"
SHAPE = ("groups", "m", "n", "k")
WORK = ("flop", "read_bytes", "write_bytes")


@dataclass(frozen=True, slots=True)
class Context:
    """Under what circumstances a kernel was timed: whose it is, and whether communication ran beside it."""

    library: str
    beside: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured kernels of one GPU.

    Attributes:
        operators: what was run.
        context: ``[n_ops]``, index into ``contexts``.
        contexts: the circumstances that occur.
        sms: ``[n_ops]``, SMs that the kernel could use.
        issued: ``[n_ops]``, whether the time includes the host's issue of the call, not the kernel alone.
        seconds: ``[n_ops]``, time of one call.
        source: ``[n_ops]``, short name of where the row comes from.
    """

    operators: Operators
    context: Array
    contexts: tuple[Context, ...]
    sms: Array
    issued: Array
    seconds: Array
    source: Array

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, rows: Array) -> Measured:
        """Some of the rows, by mask or index."""
        return Measured(
            operators=self.operators.take(rows),
            context=self.context[rows],
            contexts=self.contexts,
            sms=self.sms[rows],
            issued=self.issued[rows],
            seconds=self.seconds[rows],
            source=self.source[rows],
        )

    def select(
        self,
        *,
        family: str = "",
        dtype: str = "",
        library: str = "",
        beside: bool | None = None,
        batched: bool | None = None,
    ) -> Measured:
        """The rows of a family, number format, library, with or without communication beside, batched or not."""
        keep = np.ones(len(self), dtype=bool)
        if family:
            keep &= self.operators.family == family
        if dtype:
            keep &= self.operators.dtype == dtype
        if library:
            keep &= np.array([context.library == library for context in self.contexts], dtype=bool)[self.context]
        if beside is not None:
            keep &= np.array([context.beside == beside for context in self.contexts], dtype=bool)[self.context]
        if batched is not None:
            keep &= (self.operators.batch > 1) == batched
        return self.take(keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One timed call: the operator, its circumstances, its time and where it comes from."""

    row: Row
    context: Context
    sms: int
    issued: bool = False
    seconds: float
    source: str = ""


def table(calls: Sequence[Call]) -> Measured:
    """A table of timed calls."""
    known = tuple(dict.fromkeys(call.context for call in calls))
    place = {context: number for number, context in enumerate(known)}
    return Measured(
        operators=Operators.of([call.row for call in calls]),
        context=np.array([place[call.context] for call in calls], dtype=np.int64),
        contexts=known,
        sms=np.array([call.sms for call in calls], dtype=np.int64),
        issued=np.array([call.issued for call in calls], dtype=bool),
        seconds=np.array([call.seconds for call in calls], dtype=float),
        source=np.array([call.source for call in calls], dtype=str),
    )


@lru_cache(maxsize=16)
def measured(gpu: str) -> Measured:
    """The shipped table of a GPU, empty if nothing was measured on it."""
    path = FOLDER / f"{gpu}.csv"
    if not path.is_file():
        return table(())
    with path.open(newline="", encoding="utf-8") as file:
        return table([_call(line) for line in csv.DictReader(file)])


def _call(line: Mapping[str, str]) -> Call:
    values: dict[str, Any] = {name: int(line[name]) for name in SHAPE}
    values |= {name: float(line[name]) for name in WORK}
    values["batch"] = int(line.get("batch") or 1)
    return Call(
        row=Row(name="", phase="F", segment=0, family=line["family"], dtype=line["dtype"], **values),  # type: ignore[arg-type]
        context=Context(line["library"], line["beside"] == "1"),
        sms=int(line["sms"]),
        issued=line["issued"] == "1",
        seconds=float(line["us"]) * 1e-6,
        source=line["source"],
    )
