"""The fabric of a cluster as a picture: its layers of switches, what hangs below, and what is broken."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from ffsim.report.canvas import INK, SMALL_PT, WIDTH_PT, cells, drawing, legend, sheet, to_svg
from ffsim.topology import Topology, VertexKind
from ffsim.topology.arrays import Bools, Floats, Ints
from ffsim.topology.names import SWITCHES, group_of, plural, word
from ffsim.units import BANDWIDTH

MAX_SWITCHES = 96  # of one kind, so that each is some points wide
MAX_CABLES = 3000  # some 100 kB
MAX_SPRING = 80  # switches whose places are worked out from their cables: seconds for more
LEFT_PT, LAYER_PT, BAR_PT, ROUND_PT = 84.0, 88.0, 26.0, 400.0
# Of Tol's palettes for colour-blind readers, and in no other figure.
COLOR = {
    VertexKind.LEAF: "#44aa99",
    VertexKind.SPINE: "#6699cc",
    VertexKind.CORE: "#aa4499",
    VertexKind.INTERZONE: "#ddaa33",
    VertexKind.NIC: "#8b9098",
    VertexKind.STORAGE_NIC: "#999933",
}
DOWN, SLOW = "#cc3311", "#ee7733"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What is drawn and where.

    Attributes:
        switches: drawn switches of each kind, from below.
        cables: ``[n_cables]`` links, one of each cable between drawn switches.
        x, y: ``[n_vertices]`` places of switches, in points from the upper left corner; NaN where not drawn.
        reach: how far above and below the middle of a switch its cables end. [pt]
        body: height. [pt]
        note: what is left out; empty if nothing is.
    """

    switches: dict[VertexKind, Ints]
    cables: Ints
    x: Floats
    y: Floats
    reach: float
    body: float
    note: str


def fabric_picture(topology: Topology) -> str:
    """The fabric drawn in layers, or by its cables where its switches have none; large ones are thinned, with a note.

    Returns:
        SVG text.
    """
    counts = topology.counts()
    title = (
        f"{topology.name}: {counts.endpoint_ports:,} ports on {counts.switches:,} switches, "
        f"{counts.interswitch_links:,} cables between them, bisection "
        f"{BANDWIDTH.format(topology.bisection_bytes_per_s(), 3)}"
    )
    layered = is_layered(topology)
    scene = choose(topology, layered=layered)
    down, slow = faults_of(topology, scene.cables)
    names: dict[str, str | tuple[str, ...]] = {"switches": COLOR[VertexKind.LEAF]}
    if layered:
        names = {plural(kind): COLOR[kind] for kind in scene.switches}
        names["compute ports"] = COLOR[VertexKind.NIC]
        names |= {"storage ports": COLOR[VertexKind.STORAGE_NIC]} if topology.storage_endpoints.size else {}
    names |= {name: color for name, color, some in (("down", DOWN, down), ("slow", SLOW, slow)) if some.any()}
    with drawing("fabric"):
        figure, axes = sheet(title, scene.body, left=0.0, right=0.0, legend=14.0, bottom=12.0 if scene.note else 4.0)
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH_PT)
        axes.set_ylim(scene.body, 0)
        lines = scene.cables[~(down | slow)]
        _lines(axes, topology, scene, lines, INK, width=0.3, alpha=min(0.5, max(0.08, 12 / (1 + len(lines)) ** 0.5)))
        _lines(axes, topology, scene, scene.cables[slow], SLOW, width=1.0)
        _lines(axes, topology, scene, scene.cables[down], DOWN, width=1.0)
        for kind, switches in scene.switches.items():
            _squares(axes, scene, switches, COLOR[kind if layered else VertexKind.LEAF])
        if layered:
            _layer_names(axes, topology, scene)
            _ports_below(axes, topology, scene)
        if scene.note:
            axes.text(0, scene.body + 9.0, scene.note, fontsize=SMALL_PT, va="bottom")
        legend(axes, names, columns=len(names), bbox_to_anchor=(0.0, 1.0))
        return to_svg(figure, title)


def is_layered(topology: Topology) -> bool:
    """Whether cables only join switches of different kinds."""
    trunks = _trunks(topology)
    return bool((topology.vertex_kind[topology.src[trunks]] != topology.vertex_kind[topology.dst[trunks]]).all())


def _trunks(topology: Topology) -> Ints:
    """One link of every cable between switches."""
    switch = np.isin(topology.vertex_kind, SWITCHES)
    trunks: Ints = np.flatnonzero(switch[topology.src] & switch[topology.dst] & (np.arange(topology.n_links) % 2 == 0))
    return trunks


def faults_of(topology: Topology, cables: Ints) -> tuple[Bools, Bools]:
    """Which cables are down, and which are slower than they were built, in either direction."""
    built = np.repeat(topology.wiring.fabric.cables.bandwidth_bytes_per_s, 2)
    links = np.stack([cables, cables ^ 1])
    now = topology.bandwidth_bytes_per_s[links]
    down: Bools = (now == 0).any(axis=0)
    slow: Bools = (now < built[links - 2 * topology.wiring.node.n_cables]).any(axis=0) & ~down
    return down, slow


def choose(topology: Topology, *, layered: bool) -> Scene:
    """What of a fabric is drawn: all of it, else the first groups (zones, pods, ...), else evenly spaced switches."""
    trunks = _trunks(topology)
    kinds = [kind for kind in SWITCHES if (topology.vertex_kind == kind).any()]
    shown, note = _first_groups(topology, trunks)
    drawn = {kind: shown[topology.vertex_kind[shown] == kind] for kind in kinds}
    thinned = []
    for kind, switches in drawn.items():
        if len(switches) > MAX_SWITCHES:
            drawn[kind] = switches[np.unique(np.linspace(0, len(switches) - 1, MAX_SWITCHES).round().astype(np.int64))]
            thinned.append(f"{MAX_SWITCHES} of {len(switches)} {plural(kind)}")
    note = "; ".join(part for part in [note, ", ".join(thinned)] if part)
    drawn = {kind: switches for kind, switches in drawn.items() if len(switches)}
    visible = np.isin(np.arange(topology.n_vertices), np.concatenate(list(drawn.values())))
    cables = _distinct(topology, trunks[visible[topology.src[trunks]] & visible[topology.dst[trunks]]])
    if len(cables) > MAX_CABLES:
        step = ceil(len(cables) / MAX_CABLES)
        note = "; ".join(part for part in [note, f"one of {step} cables"] if part)
        broken = np.logical_or(*faults_of(topology, cables))
        cables = cables[broken | (np.arange(len(cables)) % step == 0)]
    x, y, body = _in_layers(topology, drawn) if layered else _in_the_round(topology, drawn, cables)
    reach = 5.0 if layered else 0.0
    return Scene(
        switches=drawn, cables=cables, x=x, y=y, reach=reach, body=body, note=f"Drawn: {note}." if note else ""
    )


def _distinct(topology: Topology, cables: Ints) -> Ints:
    """The first of parallel cables; those that are broken or slow each by themselves."""
    down, slow = faults_of(topology, cables)
    number = np.where(down | slow, cables, -1)
    codes = np.column_stack([topology.src[cables], topology.dst[cables], number])
    return cables[np.sort(np.unique(codes, axis=0, return_index=True)[1])]


def _first_groups(topology: Topology, trunks: Ints) -> tuple[Ints, str]:
    """All switches, or those of as many groups as fit, with the switches above them."""
    switches = np.flatnonzero(np.isin(topology.vertex_kind, SWITCHES))
    leaves = switches[topology.vertex_kind[switches] == VertexKind.LEAF]
    group, n_groups = group_of(topology, VertexKind.LEAF)
    most = min(MAX_SWITCHES * n_groups // max(1, len(leaves)), MAX_CABLES * n_groups // max(1, len(trunks)))
    if not group or max(1, most) >= n_groups:
        return switches, ""
    kept = max(1, most)
    grouped = np.isin(topology.vertex_kind[switches], [VertexKind.LEAF, VertexKind.SPINE])
    place = np.zeros(len(switches), dtype=np.int64)
    for kind in (VertexKind.LEAF, VertexKind.SPINE):
        alike = topology.vertex_kind[switches] == kind
        total = int(alike.sum())
        place[alike] = np.arange(total) * n_groups // max(1, total)
    shown = switches[~grouped | (place < kept)]
    return shown, f"{kept} of {n_groups} {group}s"


def _in_layers(topology: Topology, drawn: dict[VertexKind, Ints]) -> tuple[Floats, Floats, float]:
    """Places of switches in layers; those of a kind are spread over the width, groups a little apart."""
    x, y = np.full((2, topology.n_vertices), np.nan)
    levels = sorted({_height(kind) for kind in drawn})
    body = LAYER_PT * (len(levels) - 1) + 24.0 + BAR_PT + 14.0
    room = WIDTH_PT - LEFT_PT - 4.0
    for kind, switches in drawn.items():
        _, n_groups = group_of(topology, kind)
        each = max(1, int((topology.vertex_kind == kind).sum()) // n_groups)
        first = int(np.flatnonzero(topology.vertex_kind == kind)[0])
        gap = 0.6 * ((switches - first) // each)  # in widths of a switch
        place = np.arange(len(switches)) + 0.5 + gap
        x[switches] = LEFT_PT + room * place / (len(switches) + gap[-1])
        y[switches] = 12.0 + LAYER_PT * (len(levels) - 1 - levels.index(_height(kind)))
    return x, y, body


def _height(kind: VertexKind) -> int:
    """Layer of a kind of switch: cores and inter-zone switches are both on top."""
    return {VertexKind.LEAF: 0, VertexKind.SPINE: 1}.get(kind, 2)


def _in_the_round(topology: Topology, drawn: dict[VertexKind, Ints], cables: Ints) -> tuple[Floats, Floats, float]:
    """Places of switches that have no layers: near those they are joined to, or many of them on a circle."""
    import networkx as nx  # noqa: PLC0415 - a heavy import that few figures need

    switches = np.concatenate(list(drawn.values()))
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(switches.tolist())
    graph.add_edges_from(zip(topology.src[cables].tolist(), topology.dst[cables].tolist(), strict=True))
    places = nx.kamada_kawai_layout(graph) if len(switches) <= MAX_SPRING else nx.circular_layout(graph)
    points = np.array([places[switch] for switch in switches.tolist()])
    span = max(1e-9, float(np.abs(points).max()))
    x, y = np.full((2, topology.n_vertices), np.nan)
    x[switches] = WIDTH_PT / 2 + points[:, 0] / span * (ROUND_PT / 2 - 10)
    y[switches] = ROUND_PT / 2 - points[:, 1] / span * (ROUND_PT / 2 - 10)
    return x, y, ROUND_PT


def _lines(
    axes: Axes, topology: Topology, scene: Scene, cables: Ints, color: str, *, width: float, alpha: float = 1.0
) -> None:
    if not len(cables):
        return
    ends = np.stack([topology.src[cables], topology.dst[cables]], axis=1)
    y = scene.y[ends]
    y = y - scene.reach * np.sign(y - y[:, ::-1])  # from the upper edge of the lower switch to the lower of the upper
    points = np.stack([scene.x[ends], y], axis=2).reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO] * len(cables)
    patch = PathPatch(Path(points, codes), facecolor="none", edgecolor=color, linewidth=width, alpha=alpha)
    axes.add_artist(patch)


def _squares(axes: Axes, scene: Scene, switches: Ints, color: str) -> None:
    """Switches as squares, narrower where there are many."""
    x, y = scene.x[switches], scene.y[switches]
    same_row = bool((y == y[0]).all())
    half = min(5.0, 0.42 * float(np.diff(x).min())) if same_row and len(x) > 1 else 5.0
    boxes = [(a - half, a + half, b - 5.0, b + 5.0) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    cells(axes, boxes, color)


def _layer_names(axes: Axes, topology: Topology, scene: Scene) -> None:
    """How many there are of each kind, left of its layer; names of groups below the leaves."""
    rows: dict[float, list[str]] = {}
    for kind, switches in scene.switches.items():
        total = int((topology.vertex_kind == kind).sum())
        group, n_groups = group_of(topology, kind)
        line = f"{total:,} {plural(kind) if total > 1 else word(kind)}"
        rows.setdefault(float(scene.y[switches[0]]), []).extend(
            [line, f"{total // n_groups} a {group}"] if group else [line]
        )
    for y, lines in rows.items():
        axes.text(0, y, "\n".join(lines), va="center")
    leaves = scene.switches[VertexKind.LEAF]
    group, n_groups = group_of(topology, VertexKind.LEAF)
    each = int((topology.vertex_kind == VertexKind.LEAF).sum()) // n_groups
    first = int(np.flatnonzero(topology.vertex_kind == VertexKind.LEAF)[0])
    for number in np.unique((leaves - first) // each).tolist() if group else []:
        own = scene.x[leaves[(leaves - first) // each == number]]
        axes.text(float(own.mean()), scene.body - 1.0, f"{group} {number}", ha="center", va="bottom")


def _ports_below(axes: Axes, topology: Topology, scene: Scene) -> None:
    """A bar below each leaf: its ports taken by compute and by storage nodes."""
    leaves = scene.switches[VertexKind.LEAF]
    ports = np.zeros((2, topology.n_vertices), dtype=np.int64)
    for row, kind in enumerate((VertexKind.NIC, VertexKind.STORAGE_NIC)):
        below = (topology.vertex_kind[topology.src] == kind) & np.isin(topology.vertex_kind[topology.dst], SWITCHES)
        np.add.at(ports[row], topology.dst[below], 1)
    most = max(1, int(ports[:, leaves].sum(axis=0).max()))
    half = min(6.0, 0.38 * float(np.diff(scene.x[leaves]).min())) if len(leaves) > 1 else 6.0
    top = scene.y[leaves] + 9.0
    for row, kind in enumerate((VertexKind.NIC, VertexKind.STORAGE_NIC)):
        long = ports[row, leaves] / most * BAR_PT
        boxes = list(
            zip(
                (scene.x[leaves] - half).tolist(),
                (scene.x[leaves] + half).tolist(),
                top.tolist(),
                (top + long).tolist(),
                strict=True,
            )
        )
        cells(axes, [box for box, tall in zip(boxes, long.tolist(), strict=True) if tall], COLOR[kind])
        top = top + long
    lines = [f"{_few(ports[0, leaves])} compute"]
    lines += [f"{_few(ports[1, leaves])} storage"] if ports[1].any() else []
    axes.text(0, float(scene.y[leaves[0]]) + 9.0 + BAR_PT / 2, "\n".join([*lines, "ports a leaf"]), va="center")


def _few(counts: Ints) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low} to {high}"
