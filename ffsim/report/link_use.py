"""How full links are over time: a table of stretches, and a map of the busiest links."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from ffsim.report.canvas import INK, drawing, sheet, to_svg
from ffsim.report.wording import seconds_scale
from ffsim.topology import LinkKind, Topology
from ffsim.units import percent

Floats = np.ndarray[Any, Any]

N_DRAWN = 32
N_LISTED = 500
ROW_PT = 9.0


def use_csv(topology: Topology, end_s: float, use: Floats) -> tuple[str, int]:
    """Use of the busiest links, one row a link and stretch of time.

    Args:
        topology: what the links belong to.
        end_s: where the last stretch ends.
        use: ``[n_stretches, n_links]``, shares of what each could carry.

    Returns:
        The text of a CSV file, and how many links carried something, of which `N_LISTED` at most are in it.
    """
    links, n_used = _busiest(use, N_LISTED)
    edges = np.linspace(0.0, end_s, len(use) + 1)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("link", "kind", "start_s", "end_s", "use_frac"))
    for link in links:
        name, kind = topology.link_name(link), LinkKind(topology.link_kind[link]).name.lower()
        for stretch, share in enumerate(use[:, link].tolist()):
            writer.writerow((name, kind, edges[stretch], edges[stretch + 1], share))
    return buffer.getvalue(), n_used


def use_map(topology: Topology, end_s: float, use: Floats) -> str:
    """The busiest links over time as SVG text: a row a link, darker where it is fuller."""
    links, n_used = _busiest(use, N_DRAWN)
    mean = use[:, links[0]].mean() if links else 0.0
    shown = f"; the {len(links)} busiest of {n_used:,} links in use" if n_used > len(links) else ""
    name = topology.link_name(links[0]) if links else "no link"
    title = f"{name} is used most, {percent(mean, 3)} of what it could carry{shown}"
    unit, scale = seconds_scale(end_s)
    with drawing("link-use"):
        figure, axes = sheet(title, ROW_PT * max(len(links), 4), left=170.0, right=40.0, legend=4.0, bottom=28.0)
        shade = axes.imshow(
            use[:, links].T,
            aspect="auto",
            cmap="cividis_r",
            vmin=0.0,
            vmax=1.0,
            interpolation="nearest",
            extent=(0.0, end_s * scale, len(links) - 0.5, -0.5),
        )
        axes.set_yticks(range(len(links)), [topology.link_name(link) for link in links], fontsize=6.0)
        axes.set_xlabel(f"time, {unit}")
        bar = figure.colorbar(shade, ax=axes, fraction=0.03, pad=0.02, ticks=[0, 0.25, 0.5, 0.75, 1.0])
        bar.ax.set_yticklabels([f"{tick:.0%}" for tick in (0, 0.25, 0.5, 0.75, 1.0)], color=INK, fontsize=6.0)
        return to_svg(figure, title)


def _busiest(use: Floats, most: int) -> tuple[list[int], int]:
    """Links by mean use, most first, and how many carry anything."""
    mean = use.mean(axis=0)
    order = np.argsort(-mean, kind="stable")
    used = int((mean > 0).sum())
    return order[: min(used, most)].tolist(), used
