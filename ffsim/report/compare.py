"""Candidates side by side: what each takes, costs and needs, who is best, and by what it was judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ffsim.report.tables import Presentation, Table
from ffsim.report.wording import cause, span
from ffsim.study.compare import Comparison, Group
from ffsim.study.compare_measure import Measured
from ffsim.units import (
    BYTES,
    ENERGY,
    ENERGY_PRICE,
    GPU_HOUR_PRICE,
    MONEY,
    POWER,
    TIME,
    percent,
    significant,
)

Write = Callable[[float], str]
BEST = " *"
NOTHING = "-"


def _number(digits: int) -> Write:
    return lambda value: significant(value, digits)


@dataclass(frozen=True, slots=True)
class Column:
    """A figure as a column, perhaps with its range and its relation to the first candidate beside it.

    Attributes:
        write: none where only the relation means anything.
    """

    heading: str
    figure: str
    write: Write | None
    with_range: bool = False
    with_relation: bool = False


MAIN = (
    Column("step", "step_s", TIME.format, with_range=True, with_relation=True),
    Column("tokens/s", "tokens_per_s", _number(4)),
    Column("GPUs", "gpus", _number(7)),
    Column("GPU-hours", "gpu_hours", _number(4)),
    Column("USD per GPU-hour", "gpu_hour_cost_usd", _number(3), with_range=True),
    Column("USD per Mtoken", "cost_per_mtoken_usd", _number(3), with_range=True, with_relation=True),
    Column("in all", "cost_usd", MONEY.format),
)
ENERGY_AND_PRICE = (
    Column("energy per Mtoken", "energy_per_mtoken_j", lambda x: ENERGY.format(x, 3), True, True),
    Column("in all", "energy_j", ENERGY.format),
    Column("its USD per GPU-hour", "gpu_hour_energy_cost_usd", _number(3), with_range=True),
    Column("price per GPU", "relative_price_per_gpu", _number(4), with_relation=True),
    Column("price for the same tokens/s", "relative_price_per_token_rate", None, with_relation=True),
)
MACHINE = (
    Column("MFU", "mfu_frac", percent),
    Column("peak memory", "peak_memory_bytes", BYTES.format, with_range=True),
    Column("to spare", "memory_margin_bytes", BYTES.format),
    Column("bubble", "bubble_s", lambda x: TIME.format(x, 3) if x else "0"),
)
SHARES = (
    Column("exposed in all", "exposed_communication_frac", percent),
    Column("network's share", "network_frac", percent),
    Column("node links' share", "node_links_frac", percent),
)
FOOTER = (
    "* best of its column. Relations (x) are to the first candidate. A share is the part of the step that goes with "
    "the rate of NICs and switches, or of PCIe and NVLink."
)
PRICES: dict[str, tuple[str, Write]] = {
    "rental": ("rental", GPU_HOUR_PRICE.format),
    "node_power": ("node power", POWER.format),
    "pue": ("PUE", _number(3)),
    "energy_price": ("energy price", ENERGY_PRICE.format),
    "relative_price_nodes": ("relative price of nodes", _number(6)),
    "relative_price_network": ("relative price of network", _number(6)),
}


def present_comparison(comparison: Comparison) -> Presentation:
    """The answer to a comparison: tables by workload, who wins, and the prices behind it."""
    tables = [table for group in comparison.groups for table in group_tables(group).values()]
    if prices := price_table(comparison):
        tables.append(prices)
    return Presentation(answer(comparison), tables, comparison.to_dict(), comparison.rows())


def answer(comparison: Comparison) -> str:
    """One sentence a workload."""
    return "\n".join(f"{group.title}: {group.explain()}" for group in comparison.groups)


def group_tables(group: Group, *, stacked: bool = False) -> dict[str, Table]:
    """What the candidates with one workload take and cost, why, and which wins.

    Args:
        group: the candidates.
        stacked: ranges and relations stand below the values, not beside them.
    """
    tables = {"main": _table(group, f"{group.title}: time and rent", MAIN, reasons=True, stacked=stacked)}
    if group.ran:
        causes = dict.fromkeys(name for one in group.ran.values() for name, seconds in one.exposed.items() if seconds)
        communication = [
            Column(f"exposed {cause(name).partition(',')[0]}", name, lambda x: TIME.format(x, 3) if x else "0")
            for name in causes
            if name.startswith("exposed/")
        ]
        machine = (*MACHINE, *communication, *SHARES)
        tables["energy"] = _table(group, f"{group.title}: energy and price", ENERGY_AND_PRICE, stacked=stacked)
        why = _table(group, f"{group.title}: memory and where the step goes", machine, stacked=stacked)
        tables["machine"] = replace(why, footer=FOOTER)
    if group.pairings:
        lines = [(pairing.text,) for pairing in group.pairings]
        tables["wins"] = Table(f"{group.title}: which wins when", ("",), lines)
    return tables


def _table(
    group: Group, title: str, figures: Sequence[Column], *, reasons: bool = False, stacked: bool = False
) -> Table:
    """One row a candidate; columns that no candidate has a value for are left out.

    Args:
        group: the candidates.
        title: of the table.
        figures: the columns.
        reasons: candidates that cannot run are in it, too, with why.
        stacked: see `group_tables`.
    """
    outcomes = [one for one in group.outcomes if reasons or one.measured is not None]
    names = [one.candidate.name for one in outcomes]
    columns = [("candidate", names)]
    for column in figures:
        parts = list(_columns(group, [(one.candidate.name, one.measured) for one in outcomes], column))
        columns += [_stack(parts)] if stacked and parts else parts
    right = tuple(range(1, len(columns)))
    if reasons and any(one.refused for one in outcomes):
        columns.append(("", [one.refused for one in outcomes]))
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    return Table(title, [heading for heading, _ in columns], rows, right)


def _columns(
    group: Group, candidates: Sequence[tuple[str, Measured | None]], column: Column
) -> Iterator[tuple[str, list[str]]]:
    """A figure, its range and its relation to the first candidate, as headings with cells."""
    figure, write = column.figure, column.write
    values = [None if one is None else _value(one, figure) for _, one in candidates]
    if all(value is None for value in values):
        return
    marks = [BEST if name in group.best.get(figure, ()) else "" for name, _ in candidates]
    if write is not None:
        cells = [NOTHING if value is None else write(value) for value in values]
        yield column.heading, [cell + mark for cell, mark in zip(cells, marks, strict=True)]
        ends = [None if one is None else one.ranges.get(figure) for _, one in candidates]
        if column.with_range and any(ends):
            yield "range", [span(write(pair[0]), write(pair[1])) if pair else NOTHING for pair in ends]
    if column.with_relation and len(group.ran) > 1:
        ratios = [None if one is None else group.relative(name).get(figure) for name, one in candidates]
        cells = [NOTHING if ratio is None else f"{ratio:.3f}" for ratio in ratios]
        alone = write is None
        yield (
            column.heading if alone else "x",
            [cell + (mark if alone else "") for cell, mark in zip(cells, marks, strict=True)],
        )


def _stack(parts: Sequence[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    """Several columns as one, whose cells have a line for each."""
    lines = [[f"x {cell}" if name == "x" else cell for cell in cells] for name, cells in parts]
    return parts[0][0], ["\n".join(dict.fromkeys(cells)) for cells in zip(*lines, strict=True)]


def _value(measured: Measured, figure: str) -> float | None:
    return measured.exposed.get(figure, 0.0) if figure.startswith("exposed/") else measured.figures.get(figure)


def price_table(comparison: Comparison) -> Table | None:
    """Every figure that money and energy rest on, with date, range and source; none where nothing ran."""
    rows: dict[tuple[Any, ...], None] = {}
    for group in comparison.groups:
        for measured in group.ran.values():
            for price in measured.prices:
                label, write = PRICES[price.name]
                one = price.figure
                ends = "" if one.low is None else span(*map(write, one.bounds))
                rows[measured.cluster_name, label, write(one.value), ends, one.source.date, one.source.ref] = None
    if not rows:
        return None
    columns = ("cluster", "price", "value", "range", "date", "source")
    return Table("prices", columns, list(rows), right=(2, 3))
