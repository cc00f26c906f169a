"""A wired cluster: vertices and directed links as flat arrays, with routes over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffsim.errors import InfeasiblePlan, Problem
from ffsim.topology.arrays import BETWEEN_SWITCHES, Floats, Ints, Kinds, LinkKind, VertexKind, count_up, hop_counts
from ffsim.topology.full_networks import NetworkCounts
from ffsim.topology.names import link_name, vertex_name
from ffsim.topology.routing import FLOWS_AT_ONCE, How, NoWayError, Routes, Wiring
from ffsim.topology.spec import RoutingRule
from ffsim.topology.two_zone import Zones

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a cluster is made of; the names are those of ``published`` in a cluster file.

    Attributes:
        nics: of compute nodes.
        switches: leaves, spines, cores and inter-zone switches together.
        leaves: switches that end points hang on; all of a dragonfly or slim fly.
        endpoint_ports: leaf ports taken by compute and storage nodes.
        interswitch_links: cables between switches, those between zones included.
        interzone_links: cables to inter-zone switches, of both zones.
        oversubscription: ports down over cables up (in a fabric without levels: to other switches) of the worst switch
            that has both; 1 or less where none is a bottleneck.
    """

    gpus: int
    nodes: int
    nics: int
    switches: int
    leaves: int
    spines: int
    cores: int
    interzone_switches: int
    endpoint_ports: int
    interswitch_links: int
    interzone_links: int
    oversubscription: float

    @property
    def network(self) -> NetworkCounts:
        """What networks are compared and priced by."""
        return NetworkCounts(
            endpoints=self.endpoint_ports, switches=self.switches, interswitch_links=self.interswitch_links
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Topology:
    """Vertices and directed links of a cluster.

    Vertices stand in blocks: GPUs (vertex ``g`` is GPU ``g``, of node ``g // gpus_per_node``), hubs, second sockets,
    shared root ports, NICs of the compute nodes, NICs of the storage nodes, switches. Links of cables come in pairs:
    ``link ^ 1`` is the way back. Media follow them: limits at one vertex (`LinkKind`) that begin and end there.

    Attributes:
        name: of the cluster.
        gpus_per_node: GPUs of one node.
        vertex_kind: ``[n_vertices]`` uint8, `VertexKind`.
        n_cable_links: links of cables, the first ones.
        src, dst: ``[n_links]`` int32, vertices.
        bandwidth_bytes_per_s: ``[n_links]``, usable payload rate.
        latency_s: ``[n_links]``, one-way, zero-byte. A switch's hop is split between the links on either side of it, a
            NIC's share lies on its link to the leaf, NVLink's on the links of its way.
        link_kind: ``[n_links]`` uint8, `LinkKind`.
        storage_endpoints: ``[n_storage_nodes, nics]``, the vertices of the storage nodes' NICs.
        wiring: what routes are found with.
        rule: how flows find their way where they do not say.
    """

    name: str
    gpus_per_node: int
    n_cable_links: int
    vertex_kind: Kinds
    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    bandwidth_bytes_per_s: Floats
    latency_s: Floats
    link_kind: Kinds
    storage_endpoints: Ints
    wiring: Wiring
    rule: RoutingRule = field(default_factory=RoutingRule)

    @property
    def n_gpus(self) -> int:
        """GPUs of the cluster."""
        return self.wiring.node.n_gpus

    @property
    def n_vertices(self) -> int:
        """Vertices of all kinds."""
        return len(self.vertex_kind)

    @property
    def n_links(self) -> int:
        """Directed links and media."""
        return len(self.src)

    @property
    def link_class(self) -> Ints:
        """``[n_links]``, twice the kind, plus one for the second direction of what has two."""
        both_ways = np.isin(self.link_kind, (LinkKind.ROOT_PORT_BUS, LinkKind.MEMORY))
        classes: Ints = 2 * self.link_kind.astype(np.int64) + (np.arange(self.n_links) & 1 & ~both_ways)
        return classes

    def __repr__(self) -> str:
        return f"Topology({self.name!r}: {self.n_gpus:,} GPUs, {self.n_vertices:,} vertices, {self.n_links:,} links)"

    def hub(self, node: ArrayLike) -> Ints:
        """The hub of a node: an end of routes where it is the host; then it is the memory by the first NIC."""
        return self.n_gpus + np.asarray(node, dtype=np.int64)

    def stages(self) -> Ints:
        """``[n_links]`` a number that grows along every way, for queues that fill from where a flow is held back.

        Out of the node and up first, by kind, then down and into the node, in reverse. On fabrics without levels hops
        between switches count as one stage; media count before everything.
        """
        order = [LinkKind.SCALE_UP, LinkKind.BRIDGE, LinkKind.PCIE, LinkKind.ROOT_PORT, LinkKind.SOCKETS]
        order += [LinkKind.NIC_PCIE, LinkKind.ACCESS, LinkKind.LOCAL, LinkKind.LEAF_SPINE]
        order += [LinkKind.SPINE_CORE, LinkKind.INTERZONE, LinkKind.GLOBAL]
        height = np.full(len(LinkKind), -1, dtype=np.int64)
        height[order] = count_up(len(order))
        up = height[self.link_kind]
        down = (count_up(self.n_links) % 2 == 1) & (up >= 0)
        return np.where(down, 2 * len(order) - up, up)

    def node_of(self, vertices: ArrayLike) -> Ints:
        """The compute node of GPUs, hubs and their NICs."""
        return self.wiring.node.of(np.asarray(vertices, dtype=np.int64))

    def first_switch(self, vertices: ArrayLike) -> Ints:
        """The switch, a vertex, that the own NIC of GPUs, hubs and storage ports is cabled to."""
        port = self.wiring.own_port(np.asarray(vertices, dtype=np.int64))
        return self.dst[2 * (self.wiring.node.n_cables + port)].astype(np.int64)

    def memory(self, node: ArrayLike, socket: ArrayLike) -> Ints:
        """The memory of a socket of a node without NVSwitch: an end of routes.

        Raises:
            ValueError: there is no such node or socket.
        """
        nodes, sockets = np.asarray(node, dtype=np.int64), np.asarray(socket, dtype=np.int64)
        host = self.wiring.node.host
        if not (
            ((nodes >= 0) & (nodes < self.wiring.node.count)).all() and np.isin(sockets, range(host.n_sockets)).all()
        ):
            raise ValueError(f"nodes are 0 to {self.wiring.node.count - 1}, sockets 0 to {host.n_sockets - 1}")
        return self.wiring.node.socket(nodes, sockets)

    def zone(self, node: ArrayLike) -> Ints:
        """The zone of compute nodes; 0 where the fabric has none."""
        fabric, nodes = self.wiring.fabric, np.asarray(node, dtype=np.int64)
        zones: Ints = fabric.zone[nodes * self.wiring.node.nics] if isinstance(fabric, Zones) else np.zeros_like(nodes)
        return zones

    def counts(self) -> Counts:
        """Count what the cluster is made of."""
        vertices = np.bincount(self.vertex_kind, minlength=len(VertexKind)).tolist()
        cables = (np.bincount(self.link_kind, minlength=len(LinkKind)) // 2).tolist()
        layers = (VertexKind.LEAF, VertexKind.SPINE, VertexKind.CORE, VertexKind.INTERZONE)
        return Counts(
            gpus=vertices[VertexKind.GPU],
            nodes=vertices[VertexKind.HUB],
            nics=vertices[VertexKind.NIC],
            switches=sum(vertices[kind] for kind in layers),
            leaves=vertices[VertexKind.LEAF],
            spines=vertices[VertexKind.SPINE],
            cores=vertices[VertexKind.CORE],
            interzone_switches=vertices[VertexKind.INTERZONE],
            endpoint_ports=cables[LinkKind.ACCESS],
            interswitch_links=sum(cables[kind] for kind in BETWEEN_SWITCHES),
            interzone_links=cables[LinkKind.INTERZONE],
            oversubscription=self.wiring.fabric.oversubscription,
        )

    def bisection_bytes_per_s(self) -> float:
        """Rate, per direction, between two halves of the end points: the worst of the natural halvings.

        Those are: the first and the second half of the leaves of every plane (all planes together) or zone; zone from
        zone; the first and the second half of the pods or groups; elsewhere of the nodes. The halves are as equal as
        whole leaves, pods and groups allow. What
        passes is what the narrowest layer lets pass: exact where flows can be spread evenly over the cables of a layer
        (checked against maximum flow in the tests), else an upper bound.

        Returns:
            Usable payload rate. [bytes/s]
        """
        return self.wiring.fabric.bisection_bytes_per_s

    def routes(
        self, src: ArrayLike, dst: ArrayLike, rule: RoutingRule | None = None, message: ArrayLike | None = None
    ) -> Routes:
        """Find the way, or the ways, of every flow.

        Inside a node: over the bridge of a pair, else over the hub, or root ports and sockets where a host is
        described, with the media that limit them. Between nodes: by the NIC of the source GPU, over the fabric as the
        rule says, to the destination's own NIC; with several planes, to the NIC of the source's plane and from there
        over the NVSwitch ("IB, then NVLink"). Links without capacity are avoided: a flow takes the next way that works.

        Args:
            src: ``[n_flows]`` or one for all: GPUs; storage NICs (`storage_endpoints`); hosts (`hub`, `memory`) of
                nodes without NVSwitch.
            dst: likewise.
            rule: how flows find their way; that of the cluster file (``routing:``) if left out.
            message: ``[n_flows]`` or one for all: numbers that change a flow's hash, for sources that use another port
                for each message. All messages of a pair take one way if left out.

        Raises:
            ValueError: an end is none of these, or two storage NICs share no plane.
            InfeasiblePlan: nothing but broken links leads to an end.

        >>> from ffsim.topology import build_topology, load_cluster
        >>> topology = build_topology(load_cluster("h800-2048"))
        >>> topology.routes(0, [1, 8, 9, 2040]).n_hops.tolist()
        [2, 4, 6, 6]
        >>> topology.routes(0, [8, 2040], RoutingRule(kind="spray")).n_hops.tolist()
        [4, 68]
        """
        return self._refused_by_name(self.wiring.find, src, dst, rule, message)

    def port_routes(
        self, src: ArrayLike, dst: ArrayLike, rule: RoutingRule | None = None, message: ArrayLike | None = None
    ) -> Routes:
        """Likewise between NIC ports, without what lies inside the nodes.

        Args:
            src: ``[n_flows]`` or one for all: end points, numbered from 0. NIC ``i`` of compute node ``n`` is end point
                ``n * nics + i``; the ports of the storage nodes follow.
            dst: likewise.
            rule: as for `routes`.
            message: as for `routes`.

        Raises:
            ValueError: no such end point, or two that share no plane.
            InfeasiblePlan: nothing but broken links leads to an end.
        """
        return self._refused_by_name(self.wiring.find_between_ports, src, dst, rule, message)

    def _refused_by_name(
        self,
        find: Callable[[ArrayLike, ArrayLike, How], Routes],
        src: ArrayLike,
        dst: ArrayLike,
        rule: RoutingRule | None,
        message: ArrayLike | None,
    ) -> Routes:
        dead = self.bandwidth_bytes_per_s == 0
        how = How(
            rule=rule or self.rule,
            message=None if message is None else np.asarray(message, dtype=np.int64),
            latency_s=self.latency_s,
            dead=dead if dead.any() else None,
        )
        try:
            return find(src, dst, how)
        except NoWayError as error:
            raise InfeasiblePlan(
                Problem(
                    where=self.name,
                    what=f"no way is left for a flow over {self.link_name(error.link)}, which is down",
                    fix="give the link capacity, or leave what hangs on it out of the job",
                )
            ) from None

    def loads(self, routes: Routes, size_bytes: ArrayLike) -> Floats:
        """Bytes that every link carries.

        Args:
            routes: of the flows.
            size_bytes: ``[n_flows]`` or one for all. [bytes]

        Returns:
            ``[n_links]`` bytes.
        """
        sizes = np.broadcast_to(np.asarray(size_bytes, dtype=np.float64), len(routes))
        loads = np.zeros(self.n_links)
        for at in range(0, len(routes), FLOWS_AT_ONCE):
            some = slice(at, at + FLOWS_AT_ONCE)
            links = routes.links[some]
            used = links >= 0
            moved = np.repeat(sizes[some], hop_counts(links))
            if routes.weight is not None:
                moved *= routes.weight[some][used]
            loads += np.bincount(links[used], moved, minlength=self.n_links)
        return loads

    def busy_s(self, loads: Floats) -> Floats:
        """How long every link needs for its bytes alone: ``[n_links]``; 0 where it carries none."""
        return np.divide(loads, self.bandwidth_bytes_per_s, out=np.zeros(self.n_links), where=loads > 0)

    def degraded(self, links: ArrayLike, factor: ArrayLike) -> Topology:
        """The same cluster with slower links; new routes avoid those without capacity.

        Args:
            links: ``[n]`` of one direction each (``link ^ 1`` is the way back).
            factor: ``[n]`` or one for all: what is left of the rate, 0 to 1.

        Raises:
            ValueError: no such link, or a factor outside 0 to 1.
        """
        which, left = np.broadcast_arrays(np.atleast_1d(np.asarray(links, dtype=np.int64)), factor)
        if ((which < 0) | (which >= self.n_links)).any():
            raise ValueError(f"links are 0 to {self.n_links - 1}, got {which.min()} to {which.max()}")
        if not ((left >= 0) & (left <= 1)).all():
            raise ValueError(f"factors are 0 to 1, got {left.min()} to {left.max()}")
        rates = self.bandwidth_bytes_per_s.copy()
        np.multiply.at(rates, which, left)
        rates.flags.writeable = False
        return replace(self, bandwidth_bytes_per_s=rates)

    def vertex_name(self, vertex: int) -> str:
        """A vertex in words, such as ``node 12 GPU 5`` or ``zone 0 leaf 3``: unique, and what fault lists go by."""
        return " ".join(part for part in vertex_name(self, vertex) if part)

    def link_name(self, link: int) -> str:
        """A link in words, such as ``zone 0 leaf 3 -> spine 2 (cable 1)``."""
        return link_name(self, link)

    def graph(self) -> nx.DiGraph[int]:
        """The same as a networkx graph.

        Node attributes: ``kind``, the name of its `VertexKind` in lower case; where media are, the rate of each by its
        name (``memory_bytes_per_s``). Edge attributes: ``kind``, likewise;
        ``n_links`` and ``bandwidth_bytes_per_s``, as parallel cables make one edge and their rates add; ``latency_s``.
        """
        import networkx as nx  # noqa: PLC0415 - a heavy import that only this view needs

        graph: nx.DiGraph[int] = nx.DiGraph(name=self.name)
        graph.add_nodes_from((v, {"kind": VertexKind(k).name.lower()}) for v, k in enumerate(self.vertex_kind.tolist()))
        n = self.n_cable_links
        media = zip(
            self.src[n:].tolist(), self.link_kind[n:].tolist(), self.bandwidth_bytes_per_s[n:].tolist(), strict=True
        )
        for vertex, kind, rate in media:
            graph.nodes[vertex][f"{LinkKind(kind).name.lower()}_bytes_per_s"] = rate
        ends, first, inverse, n_links = np.unique(
            np.column_stack([self.src[:n], self.dst[:n]]),
            axis=0,
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        rates = np.bincount(inverse.ravel(), self.bandwidth_bytes_per_s[:n])
        columns = zip(
            ends.tolist(),
            self.link_kind[first].tolist(),
            rates.tolist(),
            self.latency_s[first].tolist(),
            n_links.tolist(),
            strict=True,
        )
        graph.add_edges_from(
            (a, b, {"kind": LinkKind(kind).name.lower(), "bandwidth_bytes_per_s": rate, "latency_s": t, "n_links": n})
            for (a, b), kind, rate, t, n in columns
        )
        return graph
