"""The operators of a model's pieces as tables: shape, work, time and how far each is from the roofline."""

from __future__ import annotations

from collections.abc import Sequence

from ffsim.report.presentations import scenario_title
from ffsim.report.tables import Cell, Presentation, Table
from ffsim.study.result import Row, RunResult
from ffsim.training import Condition, OperatorTable
from ffsim.units import significant

PHASE_NAMES = {"F": "forward", "R": "recomputed forward", "B": "input gradient", "W": "weight gradient"}
PIECE_NAMES = {
    "embedding": "embedding",
    "dense": "dense layer",
    "moe": "expert layer",
    "mtp": "MTP module, without its head",
    "head": "head",
    "convolutions": "convolutions",
    "classifier": "classifier",
}
N_LONGEST = 12
WORK = ("GFLOP", "MB", "FLOP/B", "us", "of pass", "of roofline")


def present_operators(result: RunResult, pieces: Sequence[str], condition: Condition | None = None) -> Presentation:
    """The operators of some pieces, one pass over each.

    Args:
        result: a run at any depth.
        pieces: which, of those the model has.
        condition: alone or beside communication; by default where most passes run.
    """
    table = result.operator_table(condition)
    rows = [row for row in table.rows() if row["piece"] in pieces]
    totals = [row for row in table.totals() if row["piece"] in pieces]
    of_pieces = [_piece_table(piece, _of(rows, piece), _of(totals, piece)) for piece in pieces]
    title = f"{scenario_title(result)}\n\n{where(result, table)}"
    data = {
        "schema": "ffsim.operators/1",
        "condition": table.condition,
        "sms": table.sms,
        "operators": rows,
        "totals": totals,
    }
    return Presentation(title, [totals_table(table, totals), *of_pieces], data, rows)


def operator_tables(result: RunResult) -> dict[str, Table]:
    """What a report shows: totals of all pieces, and the longest operators of the layer that matters most."""
    table = result.operator_table()
    own = _of(table.rows(), main_piece(table))
    pass_s = sum(row["seconds"] for row in own)
    longest = sorted(own, key=lambda row: -row["seconds"])[:N_LONGEST]
    shown = [(row["name"].split("/", 1)[-1], PHASE_NAMES[row["phase"]], *_cells(row, pass_s)) for row in longest]
    share = sum(row["seconds"] for row in longest) / pass_s
    columns = ("operator", "phase", "format", "shape", *WORK, "")
    title = (
        f"the longest operators of one pass over {with_article(PIECE_NAMES[main_piece(table)])}, {where(result, table)}"
    )
    footer = f"{len(longest)} of {len(own)} operators, {share:.0%} of the pass; all: ffsim explain --operators"
    return {
        "longest_operators": Table(title, columns, shown, tuple(range(4, 10)), footer),
        "operator_totals": totals_table(table, table.totals()),
    }


def main_piece(table: OperatorTable) -> str:
    """The piece that a step spends most of its computing on."""
    spent: dict[str, float] = {}
    for row in table.totals():
        spent[row["piece"]] = spent.get(row["piece"], 0.0) + row["seconds"] * row["passes_per_step"]
    return max(spent, key=lambda piece: spent[piece])


def where(result: RunResult, table: OperatorTable) -> str:
    """In what conditions the operators of a table run."""
    sms = result.step.prepared.inputs.cluster.gpu.sms.value
    return f"{table.condition}{' communication' * (table.condition == 'beside')}, on {table.sms} of {sms} SMs"


def totals_table(table: OperatorTable, totals: Sequence[Row]) -> Table:
    """One row a piece and phase."""
    step_s = sum(row["seconds"] * row["passes_per_step"] for row in table.totals())
    rows = [
        (
            PIECE_NAMES[row["piece"]] if row["phase"] == "F" else "",
            PHASE_NAMES[row["phase"]],
            row["operators"],
            f"{row['flop'] / 1e12:,.2f}" if row["flop"] else "",
            f"{row['bytes'] / 1e9:,.2f}",
            _intensity(row),
            f"{row['seconds'] * 1e3:,.3f}",
            _share(row["roofline_frac"]),
            f"{row['passes_per_step']:,}",
            _share(row["seconds"] * row["passes_per_step"] / step_s),
        )
        for row in totals
    ]
    columns = ("one pass over", "", "operators", "TFLOP", "GB", "FLOP/B", "ms", "of roofline", "passes", "of all")
    footer = "passes: of a step, over all ranks of a pipeline; of all: share of their time"
    return Table("pieces of the model", columns, rows, tuple(range(2, 10)), footer)


def _piece_table(piece: str, rows: Sequence[Row], totals: Sequence[Row]) -> Table:
    """The operators of a piece below the totals of their phases."""
    pass_s = sum(row["seconds"] for row in totals)
    shown: list[tuple[Cell, ...]] = []
    for total in totals:
        shown.append((PHASE_NAMES[total["phase"]], *_cells(total, pass_s)))
        shown += [(f"  {row['name']}", *_cells(row, pass_s)) for row in rows if row["phase"] == total["phase"]]
    title = f"{PIECE_NAMES[piece]}: {pass_s * 1e3:,.3f} ms"
    return Table(title, ("operator", "format", "shape", *WORK, ""), shown, tuple(range(3, 9)), _above(rows))


def _above(rows: Sequence[Row]) -> str:
    """What to make of operators that are faster than their roofline."""
    above = sum((row["roofline_frac"] or 0.0) > 1 for row in rows)
    if not above:
        return ""
    return f"{above} above the roofline: operands stay in the L2 cache, or the time is too short"


def _cells(row: Row, pass_s: float) -> tuple[Cell, ...]:
    """Format, shape, work, time and basis of an operator or of several together."""
    shape = "x".join(str(row[axis]) for axis in ("groups", "m", "n", "k")) if row.get("m") else ""
    return (
        row.get("dtype") or "",
        shape.removeprefix("1x"),
        f"{row['flop'] / 1e9:,.1f}" if row["flop"] else "",
        f"{row['bytes'] / 1e6:,.1f}" if row["bytes"] else "",
        _intensity(row),
        f"{row['seconds'] * 1e6:,.1f}",
        f"{row['seconds'] / pass_s:.1%}",
        _share(row["roofline_frac"]),
        row.get("basis", ""),
    )


def _intensity(row: Row) -> str:
    return significant(row["intensity_flop_per_byte"], 3) if row["intensity_flop_per_byte"] else ""


def _share(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.1%}"


def with_article(noun: str) -> str:
    """A noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _of(rows: Sequence[Row], piece: str) -> list[Row]:
    return [row for row in rows if row["piece"] == piece]
