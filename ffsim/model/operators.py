"""Operators as GPUs run them: one table row per kernel, with the work and the bytes it moves.

`ffsim.model.lowering` makes them from the tape of a shape-only pass; `ffsim.compute` turns them into seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from ffsim.model.precision import Dtype
from ffsim.model.tape import Phase

Family = Literal[
    "gemm",
    "grouped_gemm",
    "attention_forward",
    "attention_backward",
    "attention_decode",
    "elementwise",
    "host_copy",
    "convolution",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operator.

    Attributes:
        name: scope and operator (``attention/wq_b/linear``); casts and replays say so in the name.
        phase: F forward, R forward of a whole piece computed again, B input gradient (recomputation of parts included),
            W weight gradient.
        segment: how many messages between ranks come before it: with experts 0 before the dispatch, 1 up to the
            combine, 2 after it.
        family, dtype: which cost model it belongs to.
        groups, m, n, k: the product; for attention groups = batch x heads, m = queries, n = keys, k = both widths;
            a convolution is the product of every pixel's neighbourhood with the filters.
        batch: equal products that one batched call computes, as unfused attention's are (sequences x heads of them).
        flop: useful work, causal attention counted exactly.
        read_bytes, write_bytes: traffic of a fused kernel: every operand once.
        kernels: kernels launched, where it is more than one.
    """

    name: str
    phase: Phase
    segment: int
    family: Family
    dtype: Dtype = "bf16"
    groups: int = 1
    batch: int = 1
    m: int = 1
    n: int = 1
    k: int = 1
    flop: float = 0.0
    read_bytes: float = 0.0
    write_bytes: float = 0.0
    kernels: int = 1


@dataclass(frozen=True, slots=True)
class Operators:
    """A table of operators as columns (`Row` describes them), so that a cost model can time all of them at once."""

    name: np.ndarray[Any, Any]
    phase: np.ndarray[Any, Any]
    segment: np.ndarray[Any, Any]
    family: np.ndarray[Any, Any]
    dtype: np.ndarray[Any, Any]
    groups: np.ndarray[Any, Any]
    batch: np.ndarray[Any, Any]
    m: np.ndarray[Any, Any]
    n: np.ndarray[Any, Any]
    k: np.ndarray[Any, Any]
    flop: np.ndarray[Any, Any]
    read_bytes: np.ndarray[Any, Any]
    write_bytes: np.ndarray[Any, Any]
    kernels: np.ndarray[Any, Any]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Operators:
        """Columns from rows."""
        rows = tuple(rows)
        columns = {field.name: np.array([getattr(row, field.name) for row in rows]) for field in fields(Row)}
        return cls(**columns)

    @classmethod
    def concatenate(cls, tables: Sequence[Operators]) -> Operators:
        """One table after another."""
        return cls(**{name: np.concatenate([getattr(each, name) for each in tables]) for name in cls.__slots__})

    def __len__(self) -> int:
        return len(self.family)

    def take(self, rows: np.ndarray[Any, Any]) -> Operators:
        """Some of the rows, by mask or index."""
        columns = {name: getattr(self, name)[rows] for name in self.__slots__}
        return Operators(**columns)

    @property
    def total_bytes(self) -> np.ndarray[Any, Any]:
        """Bytes read and written."""
        total: np.ndarray[Any, Any] = self.read_bytes + self.write_bytes
        return total
