"""The measured kernels that ship with ffsim: what profiles are fitted to and what answers are checked against."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

FOLDER = Path(__file__).parent / "measured"
Table = Literal["gemm", "grouped_gemm", "attention", "elementwise"]
Columns = dict[str, np.ndarray[Any, Any]]

_TEXT = {"gpu", "dtype", "direction", "op", "kernel", "source"}


@lru_cache(maxsize=8)
def measured(table: Table) -> Columns:
    """One table as columns; times in seconds under ``s``, text columns as text, the rest as floats."""
    with (FOLDER / f"{table}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([row[name] for row in rows], dtype=None if name in _TEXT else float) for name in rows[0]}
    columns["s"] = columns.pop("us") * 1e-6
    return columns


def select(columns: Columns, **wanted: object) -> Columns:
    """The rows in which every named column has the wanted value."""
    keep = np.logical_and.reduce([columns[name] == value for name, value in wanted.items()])
    return {name: values[keep] for name, values in columns.items()}
