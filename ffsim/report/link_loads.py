"""Heat maps of what the links of a fabric carry."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import ceil
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes

from ffsim.report.canvas import INK, SMALL_PT, WIDTH_PT, cells, drawing, fits, legend, sheet, to_svg
from ffsim.topology import Topology, VertexKind
from ffsim.topology.arrays import Floats, Ints
from ffsim.topology.names import SWITCHES, group_of, plural, word
from ffsim.units import BYTES, TIME, percent, significant

MAX_ROWS, MAX_COLUMNS, MAX_WIDE = (
    100,
    48,
    100,
)  # cells of one panel; more switches share a cell, which shows the busiest
CELL_PT, GAP_PT, HEAD_PT, LABEL_PT, PANEL_PT = 4.4, 10.0, 34.0, 34.0, 50.0
# Steps of Tol's YlOrBr, from idle to full: lightness alone tells them apart.
HEAT = ("#fff7bc", "#fee391", "#fec44f", "#fb9a29", "#ec7014", "#cc4c02", "#993404", "#662506")
DOWN = "#3344bb"
IDLE_ALPHA = 0.07


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """Links of one kind and direction.

    Attributes:
        rows, columns: what they are, in words.
        row, column: ``[n_links]`` place of each link.
        wide: as many columns as rows.
    """

    title: str
    rows: str
    columns: str
    links: Ints
    row: Ints
    column: Ints
    wide: bool = False

    @property
    def most_columns(self) -> int:
        """Columns of cells that there is room for."""
        return MAX_WIDE if self.wide else MAX_COLUMNS


def load_map(topology: Topology, loads: Floats, span_s: float | None = None) -> str:
    """Utilisation of every link of the fabric: ports and leaves, leaves and spines, and what is above, up and down.

    Args:
        topology: the cluster.
        loads: ``[n_links]`` bytes that each link carries (`Topology.loads`, or the engine's ``link_bytes``). [bytes]
        span_s: how long that took; as long as the busiest link needs, if left out. [s]

    Returns:
        SVG text.

    Raises:
        ValueError: loads of another shape, or not finite, or a span that is not positive.
    """
    if loads.shape != (topology.n_links,) or not np.isfinite(loads).all() or (loads < 0).any():
        raise ValueError(f"loads are {topology.n_links} numbers of bytes, one a link, none negative")
    if span_s is not None and not (np.isfinite(span_s) and span_s > 0):
        raise ValueError(f"span_s is how long the bytes took: more than 0, got {span_s}")
    panels = panels_of(topology)
    shown = np.concatenate([panel.links for panel in panels])
    busy_s = topology.busy_s(loads)
    span = span_s or float(busy_s[shown].max(initial=0.0))
    use = busy_s / span if span > 0 else busy_s
    title = _title(topology, loads, use, shown, span_s)
    rows = _arranged(panels)
    body = sum(height for _, height in rows)
    with drawing("link-loads"):
        figure, axes = sheet(title, body, left=0.0, right=0.0, legend=14.0, bottom=4.0)
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH_PT)
        axes.set_ylim(body, 0)
        top = 0.0
        for row, height in rows:
            _draw_row(axes, topology, row, use, top)
            top += height
        _scale(axes, span_s is None, bool((topology.bandwidth_bytes_per_s[shown] == 0).any()))
        return to_svg(figure, title)


def _title(topology: Topology, loads: Floats, use: Floats, shown: Ints, span_s: float | None) -> str:
    if not loads[shown].any():
        return f"{topology.name}: no link of the fabric carries anything"
    worst = int(shown[use[shown].argmax()])
    alike = shown[(topology.link_kind[shown] == topology.link_kind[worst])]
    mean = float(use[alike].mean())
    name, carried = topology.link_name(worst), BYTES.format(float(loads[worst]), 3)
    ratio = significant(float(use[worst]) / mean, 3)
    if span_s is None:
        return f"Busiest is {name} with {carried}: {ratio} times the mean of its kind"
    return (
        f"Busiest is {name}: {percent(float(use[worst]), 3)} in use over {TIME.format(span_s, 3)} ({carried}), "
        f"{ratio} times the mean of its kind"
    )


def panels_of(topology: Topology) -> list[Panel]:
    """The panels of a fabric: one a direction between two kinds of vertices, one where the kinds are the same."""
    switch = np.isin(topology.vertex_kind, SWITCHES)
    fabric = np.flatnonzero(switch[topology.src] | switch[topology.dst])
    src, dst = topology.vertex_kind[topology.src[fabric]], topology.vertex_kind[topology.dst[fabric]]
    place, group = _places(topology)
    ports = np.isin(src, [VertexKind.NIC, VertexKind.STORAGE_NIC])
    panels = _access(topology, fabric[ports], place)
    for low, high in combinations_with_replacement(SWITCHES, 2):
        links = fabric[(src == low) & (dst == high)]
        if not len(links):
            continue
        rows, columns = place[topology.src[links]], place[topology.dst[links]]
        if low == high:
            title, name = f"{word(low)} of row to {word(low)} of column", plural(low)
            panels.append(Panel(title=title, rows=name, columns=name, links=links, row=rows, column=columns, wide=True))
            continue
        inner = group[topology.src[links]] == group[topology.dst[links]]
        if inner.all() and group.max() > 0:  # columns are counted within the group that they share with the row
            columns = columns % (columns[group[topology.dst[links]] == 0].max() + 1)
        for start, end, way in ((low, high, links), (high, low, links ^ 1)):
            title = f"{word(start)} to {word(end)}"
            panels.append(
                Panel(title=title, rows=plural(low), columns=plural(high), links=way, row=rows, column=columns)
            )
    return panels


def _access(topology: Topology, links: Ints, place: Ints) -> list[Panel]:
    """Panels of the cables of the ports: a row for each leaf, its ports in order."""
    leaf = place[topology.dst[links]]
    order = np.argsort(leaf, kind="stable")
    links, leaf = links[order], leaf[order]
    first = np.searchsorted(leaf, leaf)
    port = np.arange(len(links)) - first
    return [
        Panel(title=title, rows="leaves", columns="ports", links=way, row=leaf, column=port)
        for title, way in (("port to leaf", links), ("leaf to port", links ^ 1))
    ]


def _places(topology: Topology) -> tuple[Ints, Ints]:
    """Of every switch: its place among all of its kind, and its group; -1 for other vertices."""
    place, group = np.full((2, topology.n_vertices), -1)
    for kind in SWITCHES:
        alike = np.flatnonzero(topology.vertex_kind == kind)
        place[alike] = np.arange(len(alike))
        group[alike] = np.arange(len(alike)) * group_of(topology, kind)[1] // max(1, len(alike))
    return place, group


def _arranged(panels: list[Panel]) -> list[tuple[list[Panel], float]]:
    """Panels in rows that fit the page, each with its height: those that share their rows side by side."""
    rows: list[list[Panel]] = []
    for panel in panels:
        last = rows[-1] if rows else []
        if last and last[0].rows == panel.rows and _width([*last, panel]) <= WIDTH_PT:
            last.append(panel)
        else:
            rows.append([panel])
    return [(row, HEAD_PT + GAP_PT + CELL_PT * max(_shape(panel)[0] for panel in row)) for row in rows]


def _width(row: list[Panel]) -> float:
    return LABEL_PT + sum(_panel_width(panel) + GAP_PT for panel in row) - GAP_PT


def _panel_width(panel: Panel) -> float:
    return max(PANEL_PT, CELL_PT * _shape(panel)[1])


def _shape(panel: Panel) -> tuple[int, int]:
    """Rows and columns of cells."""
    return _cells(panel.row, MAX_ROWS)[1], _cells(panel.column, panel.most_columns)[1]


def _cells(place: Ints, most: int) -> tuple[int, int]:
    """How many places share a cell, and how many cells there are."""
    n = int(place.max(initial=0)) + 1
    each = ceil(n / most)
    return each, ceil(n / each)


def _draw_row(axes: Axes, topology: Topology, row: list[Panel], use: Floats, top: float) -> None:
    left = LABEL_PT
    each, n = _cells(row[0].row, MAX_ROWS)
    for at in range(0, n, max(1, ceil(n / 10))):
        axes.text(
            left - 4, top + HEAD_PT + (at + 0.5) * CELL_PT, f"{at * each}", ha="right", va="center", fontsize=SMALL_PT
        )
    label = row[0].rows + (f", {each} a cell" if each > 1 else "")
    axes.text(0, top + HEAD_PT + n * CELL_PT / 2, label, rotation=90, va="center", ha="left", fontsize=SMALL_PT)
    for panel in row:
        _draw_panel(axes, topology, panel, use, (left, top))
        left += _panel_width(panel) + GAP_PT


def _draw_panel(axes: Axes, topology: Topology, panel: Panel, use: Floats, corner: tuple[float, float]) -> None:
    left, top = corner
    lines = wrap(panel.title, int(_panel_width(panel) / 4.4))
    axes.text(left, top + HEAD_PT - 11.0, "\n".join(lines), va="bottom", fontweight="bold")
    (row_each, n_rows), (column_each, n_columns) = _cells(panel.row, MAX_ROWS), _cells(panel.column, panel.most_columns)
    label = f"{int(panel.column.max()) + 1} {panel.columns}" + (f", {column_each} a cell" if column_each > 1 else "")
    if not fits(label, _panel_width(panel) + GAP_PT):
        label = label.split(maxsplit=1)[0]
    axes.text(left, top + HEAD_PT - 3.0, label, va="bottom", fontsize=SMALL_PT)
    heat = np.full((n_rows, n_columns), -1)
    used = use[panel.links]
    step = np.minimum(len(HEAT), np.ceil(used * len(HEAT)).astype(np.int64))
    step[topology.bandwidth_bytes_per_s[panel.links] == 0] = len(HEAT) + 1  # shows through all others in its cell
    np.maximum.at(heat, (panel.row // row_each, panel.column // column_each), step)
    for number, color in enumerate((INK, *HEAT, DOWN)):
        boxes = [
            (left + a * CELL_PT, left + b * CELL_PT, top + HEAD_PT + y * CELL_PT, top + HEAD_PT + (y + 1) * CELL_PT)
            for y, a, b in _runs(heat == number)
        ]
        cells(axes, boxes, color, outline=0.0, alpha=1.0 if number else IDLE_ALPHA)


def _runs(marks: np.ndarray) -> list[tuple[int, int, int]]:
    """Row, begin and end of every stretch of marked cells.

    >>> _runs(np.array([[True, True, False, True]]))
    [(0, 0, 2), (0, 3, 4)]
    """
    edges = np.diff(np.pad(marks.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, begins = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    return list(zip(rows.tolist(), begins.tolist(), ends.tolist(), strict=True))


def _scale(axes: Axes, relative: bool, some_down: bool) -> None:
    """The colours and what they mean."""
    n = len(HEAT)
    names: dict[str, str | tuple[str, ...]] = {f"{percent((i + 1) / n, 3)}": color for i, color in enumerate(HEAT)}
    names |= {"down": DOWN} if some_down else {}
    legend(axes, names, columns=len(names), bbox_to_anchor=(0.13, 1.0), columnspacing=0.8)
    axes.text(0, -1.5, "of the busiest, to" if relative else "in use, to", va="bottom")
