"""The roofline of a GPU and where the products of a layer stand below it, as SVG text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log10
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ffsim.report.canvas import ACTIVITY, INK, PAPER, SMALL_PT, WIDTH_PT, drawing, sheet, to_svg
from ffsim.report.operators import PHASE_NAMES, PIECE_NAMES, main_piece, with_article
from ffsim.report.wording import plain
from ffsim.study.result import Row, RunResult
from ffsim.training import OperatorTable
from ffsim.units import BANDWIDTH, FLOP_RATE, TIME, percent, significant

COLORS = {"F": ACTIVITY["forward"], "B": ACTIVITY["input_gradient"], "W": ACTIVITY["weight_gradient"]}
MARKERS = {
    "gemm": ("o", "product"),
    "convolution": ("D", "convolution"),
    "grouped_gemm": ("s", "expert product"),
    "attention_forward": ("^", "attention"),
    "attention_backward": ("^", "attention"),
}
N_NAMED = 9
BODY_PT, LEFT_PT, RIGHT_PT = 210.0, 42.0, 180.0
NAME_GAP_PT = 17.0
LARGEST_PT2 = 190.0  # area of the marker of the longest operator


def roofline(result: RunResult) -> str:
    """FLOP per byte against FLOP/s of every operator of the main layer that computes; areas are times."""
    table = result.operator_table()
    rows = [row for row in table.rows() if row["piece"] == main_piece(table)]
    products = sorted((row for row in rows if row["family"] in MARKERS), key=lambda row: -row["seconds"])
    title = _title(table, rows, products)
    with drawing("roofline"):
        figure, axes = sheet(title, BODY_PT, left=LEFT_PT, right=RIGHT_PT, legend=16.0, bottom=26.0)
        memory = result.step.prepared.inputs.cluster.gpu.memory_bandwidth.value
        _scales(axes, table, products, memory)
        _roofs(axes, table, memory)
        for row in products:
            area = max(LARGEST_PT2 * row["seconds"] / products[0]["seconds"], 6.0)
            marker, color = MARKERS[row["family"]][0], COLORS[row["phase"]]
            at = (row["intensity_flop_per_byte"], _rate(row))
            axes.scatter(*at, s=area, marker=marker, color=color, edgecolor=PAPER, linewidth=0.5, zorder=3)
        _names(axes, products[:N_NAMED])
        _legend(axes, products)
        return to_svg(figure, title)


def _title(table: OperatorTable, rows: Sequence[Row], products: Sequence[Row]) -> str:
    pass_s, seconds = (sum(row["seconds"] for row in group) for group in (rows, products))
    share = sum(row["roofline_s"] for row in products) / seconds
    rest = sum(row["roofline_s"] for row in rows) - share * seconds
    layer = with_article(PIECE_NAMES[main_piece(table)])
    found = (
        f"{percent(seconds / pass_s, 2)} of the time of {layer} is in products and attention, at {percent(share, 2)} of"
    )
    return f"{found} the roofline; the rest moves bytes, at {percent(rest / (pass_s - seconds), 2)} of it"


def _rate(row: Row) -> float:
    rate: float = row["flop"] / row["seconds"]
    return rate


def _scales(axes: Axes, table: OperatorTable, products: Sequence[Row], memory: float) -> None:
    """Logarithmic axes that hold every operator and every ridge."""
    intensities = [row["intensity_flop_per_byte"] for row in products] + [
        peak / memory for peak in table.peaks.values()
    ]
    rates = [_rate(row) for row in products] + list(table.peaks.values())
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(intensities) / 1.8, max(intensities) * 1.5)
    axes.set_ylim(min(rates) / 1.6, max(rates) * 1.35)
    axes.minorticks_off()
    xticks, yticks = list(_round_between(*axes.get_xlim())), list(_round_between(*axes.get_ylim()))
    axes.set_xticks(xticks, [significant(tick) for tick in xticks])
    axes.set_yticks(yticks, [significant(tick / 1e12) for tick in yticks])
    axes.grid(color=INK, alpha=0.15, linewidth=0.4)
    for spine in axes.spines.values():
        spine.set_alpha(0.4)
    axes.set_xlabel("FLOP per byte of device memory; kernels that only move bytes have none and are not drawn")
    axes.set_ylabel("TFLOP/s")


def _round_between(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 times powers of ten."""
    for power in range(-3, 19):
        for digit in (1, 2, 5):
            if low <= digit * 10.0**power <= high:
                yield digit * 10.0**power


def _roofs(axes: Axes, table: OperatorTable, memory: float) -> None:
    """The slope of the memory and the ceiling of each number format, of the SMs in use."""
    left, right = axes.get_xlim()
    ceilings = {dtype.split("_")[0].upper(): peak for dtype, peak in table.peaks.items()}
    ridge = max(ceilings.values()) / memory
    axes.plot([left, ridge], [left * memory, ridge * memory], color=INK, linewidth=0.9)
    for dtype, peak in ceilings.items():
        axes.plot([peak / memory, right], [peak, peak], color=INK, linewidth=0.9)
        label = f"{dtype}, {FLOP_RATE.format(peak)} on {table.sms} SMs"
        axes.annotate(label, (peak / memory, peak), (12, 2), textcoords="offset points", va="bottom")
    label = f"memory, {BANDWIDTH.format(memory)}"
    axes.annotate(label, (left, left * memory), (12, 4), textcoords="offset points", va="center")


def _names(axes: Axes, rows: Sequence[Row]) -> None:
    """Names of operators in a column at the right, each with a line to its marker."""
    ordered = sorted(rows, key=lambda row: -_rate(row))
    low, high = (log10(limit) for limit in axes.get_ylim())
    heights = [(log10(_rate(row)) - low) / (high - low) * BODY_PT for row in ordered]
    for row, height in zip(ordered, _spread(heights), strict=True):
        text = f"{_short(row)}\n{TIME.format(row['seconds'], 3)}, {percent(row['roofline_frac'], 2)} of the roofline"
        axes.annotate(
            text,
            (row["intensity_flop_per_byte"], _rate(row)),
            (1 + 10 / (WIDTH_PT - LEFT_PT - RIGHT_PT), height / BODY_PT),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL_PT,
            arrowprops={
                "arrowstyle": "-",
                "color": INK,
                "alpha": 0.35,
                "linewidth": 0.4,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """Falling heights in points, moved apart so that no two are nearer than a name is high."""
    placed: list[float] = []
    for number, height in enumerate(heights):
        below = (len(heights) - 1 - number) * NAME_GAP_PT
        top = placed[-1] - NAME_GAP_PT if placed else BODY_PT
        placed.append(min(max(height, below), top))
    return placed


def _short(row: Row) -> str:
    """The end of a name, or the shape where names repeat, and the phase."""
    parts = row["name"].split("/")
    name = plain(" ".join(parts[1:][-2:] or parts))
    if row["family"] == "grouped_gemm":
        name = f"{plain(parts[-1])} {row['n']:,} x {row['k']:,}"
    return f"{name}, {PHASE_NAMES[row['phase']]}"


def _legend(axes: Axes, products: Sequence[Row]) -> None:
    """Colours are phases, markers families."""
    phases = [phase for phase in COLORS if any(row["phase"] == phase for row in products)]
    families = dict.fromkeys(MARKERS[row["family"]] for row in products)
    handles = [Patch(facecolor=COLORS[phase], edgecolor=PAPER, linewidth=0.3) for phase in phases]
    marks = [Line2D([], [], marker=marker, color=INK, linestyle="", markersize=5) for marker, _ in families]
    names = [*(PHASE_NAMES[phase] for phase in phases), *(name for _, name in families)]
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.02), "fontsize": 7.0}
    axes.legend([*handles, *marks], names, ncols=len(names), **where)
