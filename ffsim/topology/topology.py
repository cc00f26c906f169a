"""A wired cluster: vertices and directed links as flat arrays, with routes over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffsim.topology.arrays import Cables, Floats, Ints, Kinds, LinkKind, VertexKind, count_up, kinds
from ffsim.topology.cluster import Cluster
from ffsim.topology.endpoints import find_endpoints
from ffsim.topology.fabric import build_fabric
from ffsim.topology.node import Node, node_cables
from ffsim.topology.routing import Routes, Wiring

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a cluster is made of; the names are those of ``published`` in a cluster file.

    Attributes:
        nics: of compute nodes.
        switches: leaves, spines, cores and inter-zone switches together.
        endpoint_ports: leaf ports taken by compute and storage nodes.
        interswitch_links: cables between switches, those between zones included.
        interzone_links: cables to inter-zone switches, of both zones.
        oversubscription: ports down over cables up of the worst leaf; 1 or less where no leaf is a bottleneck.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Topology:
    """Vertices and directed links of a cluster.

    Vertices stand in blocks: GPUs (vertex ``g`` is GPU ``g``, of node ``g // gpus_per_node``), hubs, NICs of the
    compute nodes, NICs of the storage nodes, switches. Links come in pairs: ``link ^ 1`` is the way back.

    Attributes:
        name: of the cluster.
        gpus_per_node: GPUs of one node.
        vertex_kind: ``[n_vertices]`` uint8, `VertexKind`.
        src, dst: ``[n_links]`` int32, vertices.
        bandwidth_bytes_per_s: ``[n_links]``, usable payload rate.
        latency_s: ``[n_links]``, one-way, zero-byte. A switch's hop is split between the links on either side of it, a
            NIC's share lies on its link to the leaf, NVLink's on the links of its way.
        link_kind: ``[n_links]`` uint8, `LinkKind`.
        storage_endpoints: ``[n_storage_nodes, nics]``, the vertices of the storage nodes' NICs.
        wiring: what routes are found with.
    """

    name: str
    gpus_per_node: int
    vertex_kind: Kinds
    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    bandwidth_bytes_per_s: Floats
    latency_s: Floats
    link_kind: Kinds
    storage_endpoints: Ints
    wiring: Wiring

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
        """Directed links."""
        return len(self.src)

    def __repr__(self) -> str:
        return f"Topology({self.name!r}: {self.n_gpus:,} GPUs, {self.n_vertices:,} vertices, {self.n_links:,} links)"

    def hub(self, node: ArrayLike) -> Ints:
        """The hub of a node: an end of routes where it is the host."""
        return self.n_gpus + np.asarray(node, dtype=np.int64)

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
            interswitch_links=sum(
                cables[kind] for kind in (LinkKind.LEAF_SPINE, LinkKind.SPINE_CORE, LinkKind.INTERZONE)
            ),
            interzone_links=cables[LinkKind.INTERZONE],
            oversubscription=self.wiring.fabric.forest.oversubscription,
        )

    def bisection_bytes_per_s(self) -> float:
        """Rate, per direction, between two halves of the end points: the worst of the natural halvings.

        Those are: the first and the second half of the leaves of every plane (all planes together) or zone; zone from
        zone; the first and the second half of the pods. The halves are as equal as whole leaves and pods allow. What
        passes is what the narrowest layer lets pass: exact where flows can be spread evenly over the cables of a layer
        (checked against maximum flow in the tests), else an upper bound.

        Returns:
            Usable payload rate. [bytes/s]
        """
        return self.wiring.fabric.bisection_bytes_per_s

    def routes(self, src: ArrayLike, dst: ArrayLike) -> Routes:
        """Find the static way of every flow.

        Inside a node: over the bridge of a pair, else over the hub. Between nodes: by the NIC of the source GPU,
        D-mod-K over the fabric, to the destination's own NIC; with several planes, to the NIC of the source's plane and
        from there over the NVSwitch ("IB, then NVLink").

        Args:
            src: ``[n_flows]`` or one for all: GPUs; storage NICs (`storage_endpoints`); hosts (`hub`) of nodes without
                NVSwitch.
            dst: likewise.

        Raises:
            ValueError: an end is none of these, or two storage NICs share no plane.

        >>> from ffsim.topology import build_topology, load_cluster
        >>> topology = build_topology(load_cluster("h800-2048"))
        >>> topology.routes(0, [1, 8, 9, 2040]).n_hops.tolist()
        [2, 4, 6, 6]
        """
        links = self.wiring.find(src, dst)
        latency = np.where(links >= 0, self.latency_s[links], 0.0).sum(axis=1)
        return Routes(links=links.astype(np.int32), latency_s=latency)

    def loads(self, routes: Routes, size_bytes: ArrayLike) -> Floats:
        """Bytes that every link carries.

        Args:
            routes: of the flows.
            size_bytes: ``[n_flows]`` or one for all. [bytes]

        Returns:
            ``[n_links]`` bytes.
        """
        sizes = np.broadcast_to(np.asarray(size_bytes, dtype=np.float64), len(routes))
        used = routes.links >= 0
        weights = np.repeat(sizes, used.sum(axis=1))
        return np.bincount(routes.links[used], weights, minlength=self.n_links).astype(np.float64)

    def graph(self) -> nx.DiGraph[int]:
        """The same as a networkx graph.

        Node attribute: ``kind``, the name of its `VertexKind` in lower case. Edge attributes: ``kind``, likewise;
        ``n_links`` and ``bandwidth_bytes_per_s``, as parallel cables make one edge and their rates add; ``latency_s``.
        """
        import networkx as nx  # noqa: PLC0415 - a heavy import that only this view needs

        graph: nx.DiGraph[int] = nx.DiGraph(name=self.name)
        graph.add_nodes_from((v, {"kind": VertexKind(k).name.lower()}) for v, k in enumerate(self.vertex_kind.tolist()))
        ends, first, inverse, n_links = np.unique(
            np.column_stack([self.src, self.dst]), axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        rates = np.bincount(inverse.ravel(), self.bandwidth_bytes_per_s)
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


def build_topology(cluster: Cluster) -> Topology:
    """Wire a cluster.

    Raises:
        ScenarioError: the fabric needs more ports than its switches have; the message names both.

    >>> from ffsim.topology import load_cluster
    >>> build_topology(load_cluster("h800-2048")).counts().switches
    96
    """
    spec = cluster.spec.nodes
    node = Node(count=spec.count, gpus=spec.gpus, nics=spec.nics, interconnect=spec.interconnect)
    endpoints = find_endpoints(cluster)
    fabric = build_fabric(cluster, endpoints)
    cables = Cables.joined([node_cables(node, cluster), fabric.cables.shifted(node.first_nic)])
    n_storage = len(endpoints) - endpoints.n_compute
    below_switches = kinds(
        (VertexKind.GPU, node.n_gpus),
        (VertexKind.HUB, node.count),
        (VertexKind.NIC, endpoints.n_compute),
        (VertexKind.STORAGE_NIC, n_storage),
    )
    storage = node.first_nic + endpoints.n_compute + count_up(n_storage)
    arrays: dict[str, NDArray[Any]] = {
        "vertex_kind": np.append(below_switches, fabric.switch_kind),
        "src": np.column_stack([cables.a, cables.b]).ravel().astype(np.int32),
        "dst": np.column_stack([cables.b, cables.a]).ravel().astype(np.int32),
        "bandwidth_bytes_per_s": np.repeat(cables.bandwidth_bytes_per_s, 2),
        "latency_s": np.repeat(cables.latency_s, 2),
        "link_kind": np.repeat(cables.kind, 2),
        "storage_endpoints": storage.reshape(-1, cluster.spec.storage.nics if cluster.spec.storage else 1),
    }
    for array in arrays.values():
        array.flags.writeable = False
    return Topology(
        name=cluster.name,
        gpus_per_node=spec.gpus,
        wiring=Wiring(node=node, endpoints=endpoints, fabric=fabric),
        **arrays,
    )
