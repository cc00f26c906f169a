"""Bandwidth of collectives over size, or over nodes, as SVG text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from math import log2
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ffsim.errors import Problem, ScenarioError
from ffsim.report.canvas import INK, drawing, sheet, to_svg
from ffsim.report.collectives import size_text
from ffsim.study.collective_result import CollectiveResult, Measured
from ffsim.units import significant

# Okabe and Ito's colours, one an operation and algorithm; marks tell numbers of nodes apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8f98")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
BODY_PT, LEFT_PT, RIGHT_PT = 210.0, 46.0, 130.0
MOST_SHADED = 3
Line = tuple[str, str, int]


def bandwidth_plot(result: CollectiveResult) -> str:
    """Bus bandwidth over size, a line for each algorithm and number of nodes; over nodes where there is one size.

    The shade behind a line is what its closed-form bounds leave open; many lines are drawn without.

    Raises:
        ScenarioError: nothing moves any bytes, so there is no bandwidth to draw.
    """
    drawn = [one for one in result.measured if one.busbw_bytes_per_s > 0]
    if not drawn:
        raise ScenarioError(
            Problem(where="--plot", what="no bytes are moved, so there is no bandwidth", fix="leave it out")
        )
    over_nodes = len({one.case.size_bytes for one in drawn}) == 1 < len({one.case.nodes for one in drawn})
    lines = _lines(drawn, over_nodes=over_nodes)
    title = _title(drawn, result.question.cluster.name)
    colors = dict(zip(dict.fromkeys(line[:2] for line in lines), cycle(COLORS)))
    marks = dict(zip(dict.fromkeys(line[2] for line in lines), cycle(MARKS)))
    with drawing("collectives"):
        figure, axes = sheet(title, BODY_PT, left=LEFT_PT, right=RIGHT_PT, legend=8.0, bottom=30.0)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        for line, members in lines.items():
            xs = [_x(one, over_nodes=over_nodes) for one in members]
            color, mark = colors[line[:2]], marks[line[2]]
            axes.plot(xs, [one.busbw_bytes_per_s for one in members], color=color, marker=mark, ms=3.0, lw=1.1)
            if len(lines) <= MOST_SHADED:
                _shade(axes, xs, members, color)
        _axes(axes, drawn, over_nodes=over_nodes)
        _legend(axes, lines, colors, marks)
        return to_svg(figure, title)


def _lines(drawn: Sequence[Measured], *, over_nodes: bool) -> dict[Line, list[Measured]]:
    lines: dict[Line, list[Measured]] = {}
    for one in drawn:
        key = (one.case.op, one.case.algorithm, 0 if over_nodes else one.case.nodes)
        lines.setdefault(key, []).append(one)
    for members in lines.values():
        members.sort(key=lambda one: _x(one, over_nodes=over_nodes))
    return lines


def _x(one: Measured, *, over_nodes: bool) -> float:
    return float(one.case.nodes) if over_nodes else one.case.size_bytes


def _title(drawn: Sequence[Measured], cluster: str) -> str:
    """The finding: which algorithm is fastest, and how fast."""
    best = max(drawn, key=lambda one: one.busbw_bytes_per_s)
    rate = significant(best.busbw_bytes_per_s / 1e9, 3)
    return (
        f"{best.case.op} on {cluster}: the highest bus bandwidth is {rate} GB/s, by {best.case.algorithm} on "
        f"{best.case.nodes} nodes at {size_text(best.case.size_bytes)}"
    )


def _shade(axes: Axes, xs: Sequence[float], members: Sequence[Measured], color: str) -> None:
    if any(one.upper_s is None or one.upper_s <= 0 for one in members):
        return
    scale = [one.busbw_bytes_per_s * one.time_s for one in members]
    low = [bytes_ / (one.upper_s or 1.0) for bytes_, one in zip(scale, members, strict=True)]
    high = [bytes_ / one.lower_s for bytes_, one in zip(scale, members, strict=True)]
    axes.fill_between(xs, low, high, color=color, alpha=0.12, linewidth=0)


def _axes(axes: Axes, drawn: Sequence[Measured], *, over_nodes: bool) -> None:
    values = [_x(one, over_nodes=over_nodes) for one in drawn]
    ticks = sorted(set(values)) if len(set(values)) <= 12 else list(_powers(min(values), max(values)))
    axes.set_xticks(ticks, [f"{tick:,.0f}" if over_nodes else size_text(tick) for tick in ticks])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    steps = [digit * 10.0**power for power in range(15) for digit in (1, 2, 5)]
    rates = [step for step in steps if low <= step <= high]
    axes.set_yticks(rates, [significant(rate / 1e9) for rate in rates])
    axes.grid(color=INK, alpha=0.15, linewidth=0.4)
    for spine in axes.spines.values():
        spine.set_alpha(0.4)
    axes.set_xlabel("nodes of a group" if over_nodes else "size of the buffer on each rank")
    axes.set_ylabel("bus bandwidth, GB/s")


def _powers(low: float, high: float) -> Iterator[float]:
    """Powers of four between two sizes."""
    for power in range(0, 60, 2):
        if low <= 2.0**power <= high:
            yield 2.0**power


def _legend(axes: Axes, lines: dict[Line, list[Measured]], colors: dict[Any, str], marks: dict[int, str]) -> None:
    """Names at the right, in the order of the lines' right ends."""
    several = len({op for op, _, _ in lines}) > 1
    order = sorted(lines, key=lambda line: -log2(lines[line][-1].busbw_bytes_per_s))
    handles = [Line2D([], [], color=colors[line[:2]], marker=marks[line[2]], ms=3.0, lw=1.1) for line in order]
    names = []
    for op, algorithm, nodes in order:
        words = [op] if several else []
        words += [algorithm, *([f"{nodes:,} nodes"] if nodes else [])]
        names.append(", ".join(words))
    axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=6.5, handlelength=2.0)
