"""Readable names of vertices and links."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ffsim.topology.arrays import Ints, Kinds, LinkKind, VertexKind
from ffsim.topology.dragonfly import Dragonfly
from ffsim.topology.mesh import Mesh
from ffsim.topology.routing import Wiring
from ffsim.topology.three_level import Pods
from ffsim.topology.two_level import Planes
from ffsim.topology.two_zone import Zones

SWITCHES = (VertexKind.LEAF, VertexKind.SPINE, VertexKind.CORE, VertexKind.INTERZONE)
_PLURALS = {VertexKind.LEAF: "leaves", VertexKind.INTERZONE: "inter-zone switches"}
_WORDS = {VertexKind.GPU: "GPU", VertexKind.NIC: "NIC", VertexKind.INTERZONE: "inter-zone switch"}


class Wired(Protocol):
    """What names are made of; a `ffsim.topology.Topology` has it."""

    @property
    def vertex_kind(self) -> Kinds:
        """``[n_vertices]``."""

    @property
    def link_kind(self) -> Kinds:
        """``[n_links]``."""

    @property
    def src(self) -> NDArray[np.int32]:
        """``[n_links]`` vertices."""

    @property
    def dst(self) -> NDArray[np.int32]:
        """``[n_links]`` vertices."""

    @property
    def storage_endpoints(self) -> Ints:
        """``[n_storage_nodes, nics]`` vertices."""

    @property
    def wiring(self) -> Wiring:
        """Nodes, end points and fabric."""

    @property
    def n_vertices(self) -> int:
        """Vertices of all kinds."""

    @property
    def n_links(self) -> int:
        """Directed links and media."""


def vertex_name(topology: Wired, vertex: int) -> tuple[str, str]:
    """What a vertex belongs to (a node, zone, plane or pod; empty if to none) and its name there.

    Raises:
        ValueError: no such vertex.
    """
    if not 0 <= vertex < topology.n_vertices:
        raise ValueError(f"there is no vertex {vertex}: they are 0 to {topology.n_vertices - 1}")
    kind = VertexKind(topology.vertex_kind[vertex])
    alike = topology.vertex_kind == kind
    return _name(topology, kind, int(alike[:vertex].sum()), int(alike.sum()))


def all_names(topology: Wired) -> dict[str, int]:
    """The vertex of every name."""
    names: dict[str, int] = {}
    for kind in VertexKind:
        vertices = np.flatnonzero(topology.vertex_kind == kind).tolist()
        for place, vertex in enumerate(vertices):
            names[" ".join(_name(topology, kind, place, len(vertices))).strip()] = vertex
    return names


def _name(topology: Wired, kind: VertexKind, place: int, total: int) -> tuple[str, str]:
    """The name of the vertex in some place among all of its kind."""
    fabric = topology.wiring.fabric
    if isinstance(fabric, Mesh) and fabric.names and kind in SWITCHES:
        return "", fabric.names[int(np.flatnonzero(fabric.switch_kind == kind)[place])]
    if kind in SWITCHES:
        group, n_groups = group_of(topology, kind)
        each = total // n_groups
        return (f"{group} {place // each}" if group else ""), f"{word(kind)} {place % each}"
    if kind is VertexKind.STORAGE_NIC:
        node, nic = divmod(place, topology.storage_endpoints.shape[1])
        return f"storage node {node}", f"NIC {nic}"
    if kind is VertexKind.HUB:
        return f"node {place}", "NVSwitch" if topology.wiring.node.switched else "host"
    node, local = divmod(place, total // topology.wiring.node.count)
    return f"node {node}", f"{word(kind)} {local}"


def group_of(topology: Wired, kind: VertexKind) -> tuple[str, int]:
    """What switches of a kind are counted within, and how many of those there are; no word where there is only one."""
    fabric = topology.wiring.fabric
    words: list[tuple[type[Planes | Zones | Pods], str]] = [(Planes, "plane"), (Zones, "zone"), (Pods, "pod")]
    if isinstance(fabric, Dragonfly) and kind is VertexKind.LEAF:
        return ("group", fabric.shape.groups) if fabric.shape.groups > 1 else ("", 1)
    for type_, word_ in words:
        if isinstance(fabric, type_) and kind in {VertexKind.LEAF, VertexKind.SPINE}:
            n_groups = fabric.forest.shape.n_trees
            return (word_, n_groups) if n_groups > 1 else ("", 1)
    return "", 1


def word(kind: VertexKind) -> str:
    """A kind of vertex in words.

    >>> word(VertexKind.INTERZONE), word(VertexKind.LEAF)
    ('inter-zone switch', 'leaf')
    """
    return _WORDS.get(kind, kind.name.lower().replace("_", " "))


def plural(kind: VertexKind) -> str:
    """Several of a kind of vertex in words.

    >>> plural(VertexKind.LEAF), plural(VertexKind.CORE)
    ('leaves', 'cores')
    """
    return _PLURALS.get(kind, f"{word(kind)}s")


def link_name(topology: Wired, link: int) -> str:
    """A link as `Topology.link_name` words it.

    Raises:
        ValueError: no such link.
    """
    if not 0 <= link < topology.n_links:
        raise ValueError(f"there is no link {link}: they are 0 to {topology.n_links - 1}")
    src, dst = int(topology.src[link]), int(topology.dst[link])
    (src_group, src_name), (dst_group, dst_name) = vertex_name(topology, src), vertex_name(topology, dst)
    start = f"{src_group} {src_name}".strip()
    if src == dst:  # something that both directions share
        return f"{start} {LinkKind(topology.link_kind[link]).name.lower().replace('_', ' ')}"
    end = dst_name if src_group == dst_group else f"{dst_group} {dst_name}".strip()
    parallel = links_between(topology, src, dst)
    cable = f" (cable {parallel.index(link)})" if len(parallel) > 1 else ""
    return f"{start} -> {end}{cable}"


def links_between(topology: Wired, src: int, dst: int) -> list[int]:
    """Parallel links from one vertex to another, in order."""
    links: list[int] = np.flatnonzero((topology.src == src) & (topology.dst == dst)).tolist()
    return links
