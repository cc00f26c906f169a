"""Measured operators from CSV files: every ``op`` by its own columns, every problem with its line.

The conventions are those of `docs/reference/measured-operators.md`: times in microseconds (``us`` or ``latency_us``),
sizes in elements unless the column says bytes. Operators that ffsim has no model for are counted, not guessed.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffsim.compute.cells import FALSE, Case, Cells, Foreign, ForeignReader, Skip, dtype_of
from ffsim.compute.layers import LAYER_TIMES, layer_cases
from ffsim.compute.measured import Call, Context
from ffsim.compute.operator_rows import PASSES, READERS, TRANSPOSED
from ffsim.compute.profile import BATCHED
from ffsim.errors import Problem, ScenarioError
from ffsim.model.operators import Row

TIMES = ("us", "latency_us")
OTHER_UNITS = ("s", "ms", "ns", "latency", "latency_ms", "time", "time_ms", "duration", "latency_s", "latency_ns")
PACKAGED = "aiconfigurator:"  # before the name of a table that the package of that name ships
DEFAULT_LIBRARY = "torch"  # tables of single PyTorch calls name no library
LAYER = "layer"
_COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "send_recv",
    "custom_",
    "nccl_",
    "vidur_",
)
_EXCHANGES = ("deepep_", "moe_a2a_")


@dataclass(frozen=True, slots=True)
class Table:
    """What a file of measured operators holds.

    Attributes:
        cases: rows of kernels that run on one GPU.
        skipped: why other rows were left out, with their number.
        foreign: rows of what runs over links, predicted by whoever knows links.
    """

    cases: tuple[Case, ...]
    skipped: Mapping[str, int]
    foreign: tuple[Foreign, ...] = ()


def read_measured(path: Path, gpus: Sequence[str], sms: int, foreign: ForeignReader | None = None) -> Table:
    """Read a file of measured operators.

    Args:
        path: CSV file.
        gpus: names of the wanted GPU; rows whose ``gpu`` column names another are left out.
        sms: SMs of the GPU, for rows that do not say how many they used.
        foreign: reads rows of collectives and expert exchanges; without it they are left out.

    Raises:
        ScenarioError: the file cannot be read, or everything that is wrong in it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = tuple(reader.fieldnames or ())
            _check_header(path, header)
            lines = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(Problem(where=str(path), what=f"cannot be read: {error}", fix="give a CSV file")) from None
    return read_rows(str(path), lines, gpus, sms, foreign=foreign)


def read_rows(
    where: str,
    rows: Iterable[tuple[int, Mapping[str, str]]],
    gpus: Sequence[str],
    sms: int,
    left_out: Mapping[str, int] | None = None,
    foreign: ForeignReader | None = None,
) -> Table:
    """Read the rows of a table of measured operators, whatever file they come from.

    Args:
        where: name of the table, for messages.
        rows: number and cells of each row, in the columns of the CSV files.
        gpus: names of the wanted GPU; rows whose ``gpu`` column names another are left out.
        sms: SMs of the GPU, for rows that do not say how many they used.
        left_out: rows that did not get this far, by reason.
        foreign: reads rows of collectives and expert exchanges; without it they are left out.

    Raises:
        ScenarioError: everything that is wrong in the rows, or none of them can be compared.
    """
    cases: list[Case] = []
    elsewhere: list[Foreign] = []
    problems: list[Problem] = []
    skipped = Counter(left_out or {})
    for number, raw in rows:
        cells = Cells(raw, place(where, number))
        if None in raw:
            cells.fail("", "has more cells than the header", "mend the commas")
        elif cells.has("gpu") and cells.text("gpu").replace("_", "-").lower() not in gpus:
            skipped[f"of another GPU ({cells.text('gpu')})"] += 1
            continue
        else:
            try:
                if foreign is not None and _is_foreign(cells):
                    found = foreign(cells, number)
                    elsewhere += [] if found is None else [found]
                else:
                    cases += _cases(cells, number, sms)
            except Skip as reason:
                skipped[str(reason)] += 1
        problems += cells.problems
    if problems:
        raise ScenarioError(problems)
    if not cases and not elsewhere:
        left = "; ".join(f"{count} {why}" for why, count in skipped.items()) or "it has no rows"
        raise ScenarioError(Problem(where=where, what=f"holds nothing to compare: {left}", fix="check --gpu and op"))
    return Table(tuple(cases), dict(skipped), tuple(elsewhere))


def is_parquet(where: Path | str) -> bool:
    """Whether a table is a Parquet file, or one of the installed package that ships such files."""
    return str(where).startswith(PACKAGED) or str(where).endswith(".parquet")


def place(where: str, number: int) -> str:
    """A row as messages name it: Parquet files have rows, counted from 1, and CSV files lines."""
    return f"{where}: row {number}" if is_parquet(where) else f"{where}:{number}"


def _check_header(path: Path, header: tuple[str, ...]) -> None:
    problems = []
    if "op" not in header:
        known = ", ".join(sorted(READERS))
        problems.append(Problem(where=f"{path}:1", what="no column op", fix=f"name each row's operator: {known}"))
    if not set(header) & {*TIMES, *LAYER_TIMES}:
        near = [name for name in header if name in OTHER_UNITS]
        found = f", found {', '.join(near)}" if near else ""
        fix = "give microseconds in a column us (layer rows: fwd_us, fwdbwd_us)"
        problems.append(Problem(where=f"{path}:1", what=f"no time column{found}", fix=fix))
    doubled = [name for name, times in Counter(header).items() if times > 1]
    if doubled:
        problems.append(Problem(where=f"{path}:1", what=f"column {doubled[0]} occurs twice", fix="keep one"))
    if problems:
        raise ScenarioError(problems)


def _is_foreign(cells: Cells) -> bool:
    return cells.text("op").startswith(_COLLECTIVES + _EXCHANGES)


def _cases(cells: Cells, line: int, sms: int) -> list[Case]:
    op = cells.text("op")
    if op == LAYER:
        return layer_cases(cells, line, sms)
    reader = READERS.get(op)
    if reader is None:
        if _is_foreign(cells):
            raise Skip("of collectives, which run over links and not on one GPU")
        cells.fail("op", f"unknown operator {op!r}", f"use one of {', '.join(sorted({*READERS, LAYER}))}")
        return []
    label, rows = reader(cells)
    seconds = cells.number(*TIMES) * 1e-6
    context = Context(_library(cells), cells.text("beside", "0") not in FALSE)
    used = cells.count("sms", default=sms)
    if used > sms:
        cells.fail("sms", f"{used} of {sms} SMs", "check --gpu")
    issued = not cells.has("kernel", "library")
    calls = tuple(Call(row=row, context=context, sms=used, issued=issued, seconds=seconds) for row in rows)
    what = " ".join(f"{name}={value}" for name, value in _shown(rows[0]).items())
    return [Case(line=line, label=label, what=what, calls=calls, seconds=seconds)]


def _shown(row: Row) -> dict[str, object]:
    if row.family in {"elementwise", "host_copy"}:
        return {"bytes": f"{row.read_bytes + row.write_bytes:.0f}"}
    return {name: getattr(row, name) for name in ("groups", "m", "n", "k") if getattr(row, name) > 1}


def _library(cells: Cells) -> str:
    library = cells.text("kernel", cells.text("library", DEFAULT_LIBRARY))
    op, kv = cells.text("op"), cells.text("kv_dtype")
    if op in PASSES:
        return f"{library}, {op}"
    if op == "batched_gemm":
        return library + BATCHED
    if cells.text("dtype") == "tf32" and (op == "conv_wgrad" or cells.text("layout") == "tn"):
        return library + TRANSPOSED
    return f"{library}, fp8 cache" if kv == "fp8" and dtype_of(cells) != "fp8" else library
