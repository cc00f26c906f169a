"""When every flow of a list ran, as SVG text."""

from __future__ import annotations

from ffsim.report.canvas import INK, PAPER, SMALL_PT, drawing, grid, sheet, to_svg
from ffsim.report.wording import seconds_scale
from ffsim.study.flows import FlowsResult
from ffsim.units import TIME

N_DRAWN = 60
ROW_PT = 8.5
COLOR = "#0072b2"


def flows_plot(result: FlowsResult) -> str:
    """When every flow ran, first the first ones to start, as SVG text."""
    rows = sorted(result.rows(), key=lambda row: (row["start_s"], row["end_s"]))
    drawn = rows[:N_DRAWN]
    unit, scale = seconds_scale(result.makespan_s)
    more = f"; the first {N_DRAWN} of {len(rows):,} are drawn" if len(rows) > N_DRAWN else ""
    title = f"{len(rows):,} flows end within {TIME.format(result.makespan_s)}, held up by {result.bottleneck}{more}"
    with drawing("flows"):
        figure, axes = sheet(title, ROW_PT * max(len(drawn), 4), left=150.0, legend=4.0, bottom=28.0)
        for place, row in enumerate(drawn):
            width = (row["end_s"] - row["start_s"]) * scale
            axes.barh(place, width, 0.7, left=row["start_s"] * scale, color=COLOR, edgecolor=PAPER, linewidth=0.3)
        names = [f"{row['id']}: {row['src']} to {row['dst']}" for row in drawn]
        axes.set_yticks(range(len(drawn)), names, fontsize=SMALL_PT, color=INK)
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(0.0, result.makespan_s * scale or 1.0)
        axes.set_xlabel(f"time, {unit}")
        grid(axes, "x")
        return to_svg(figure, title)
