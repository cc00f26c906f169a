"""Which links every step of HFReduce crosses, and how often: what one chunk does in one node, or between two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.collectives.data import Floats, Ints
from ffsim.engine import Csr
from ffsim.topology import LinkKind, Routes, Topology
from ffsim.topology.host import Host

IN_HOST = (LinkKind.MEMORY, LinkKind.SOCKETS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """GPUs of a node that see the same links: one of them stands for all.

    Attributes:
        of: ``[n_gpus]`` the group of each GPU of a node.
        first: ``[n_groups]`` the GPU that stands for it.
        partner: ``[n_groups]`` the group that the GPU's partner on the bridge is in.
    """

    of: Ints
    first: Ints
    partner: Ints

    @classmethod
    def find(cls, host: Host, *, nvlink: bool, fold: bool) -> Groups:
        """Group by socket and shared root port, with NVLink by those of the partner too."""
        gpus = np.arange(len(host.gpu_rank))
        place = np.column_stack([host.gpu_rank, host.gpu_port])
        keys = np.column_stack([place, place[gpus ^ 1]]) if nvlink else place
        if not fold:
            keys = gpus[:, None]
        _, first, of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        of = of.ravel()
        return cls(of=of, first=first, partner=of[(first ^ 1) % len(gpus)])

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Ways as columns of (way, link, weight); ``latency_s`` has one entry a way."""

    way: Ints
    link: Ints
    weight: Floats
    latency_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ways:
    """Ways of every step.

    Attributes:
        links: of each way, each link once.
        weight: ``[len(links.values)]`` bytes on it per byte of the flow.
        latency_s: ``[n_ways]``.
        first: number of the first way of each part, in the order in which they were joined.
    """

    links: Csr
    weight: Floats
    latency_s: Floats
    first: Ints

    @classmethod
    def joined(cls, parts: list[Part], n_links: int) -> Ways:
        """All ways, part by part; a link that a way crosses several times is one with their sum."""
        counts = [len(part.latency_s) for part in parts]
        first = np.cumsum([0, *counts])
        way = np.concatenate([part.way + start for part, start in zip(parts, first, strict=False)])
        keys, place = np.unique(way * n_links + np.concatenate([part.link for part in parts]), return_inverse=True)
        start = np.zeros(first[-1] + 1, dtype=np.int64)
        np.cumsum(np.bincount(keys // n_links, minlength=first[-1]), out=start[1:])
        return cls(
            links=Csr(start, keys % n_links),
            weight=np.bincount(place.ravel(), np.concatenate([part.weight for part in parts]), minlength=len(keys)),
            latency_s=np.concatenate([part.latency_s for part in parts]),
            first=first[:-1],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NodeWays:
    """Builds the ways inside nodes.

    Attributes:
        topology: the cluster.
        nodes: ``[n_nodes]``.
        groups: of the GPUs of every node.
        copied: share of the data that each GPU copies.
    """

    topology: Topology
    nodes: Ints
    groups: Groups
    copied: float

    @property
    def host(self) -> Host:
        """Where GPUs and NICs hang."""
        return self.topology.wiring.node.host

    def to_memory(self) -> Part:
        """GPU to host, its buffer interleaved over the sockets: way ``node * n_groups + group``."""
        node, gpu, socket = self._grid(len(self.groups.of), self.host.n_sockets)
        return self._of_groups(node, gpu, self._gpu(node, gpu), self._memory(node, socket), 1 / self.host.n_sockets)

    def from_memory(self, *, gdrcopy: bool) -> Part:
        """The sum, in the memory by the NIC, to each GPU; with GDRCopy read once for all GPUs of a socket."""
        node, gpu = self._grid(len(self.groups.of))
        part = self._of_groups(node, gpu, self.topology.hub(self.nodes[node]), self._gpu(node, gpu), 1.0)
        if not gdrcopy:
            return part
        at_socket = np.bincount(self.host.gpu_rank)[self.host.gpu_rank[self.groups.first]]
        readers = at_socket[part.way % len(self.groups)] * self.copied
        once = np.isin(self.topology.link_kind[part.link], IN_HOST)
        weight = np.where(once, part.weight / readers, part.weight)
        return Part(way=part.way, link=part.link, weight=weight, latency_s=part.latency_s)

    def added(self) -> Part:
        """The copies of all GPUs read by a CPU at the NIC's socket, and the sum written there: way ``node``."""
        node, socket = self._grid(self.host.n_sockets)
        copies = len(self.groups.of) * self.copied / self.host.n_sockets
        beside_hub = np.full(len(node), int(np.flatnonzero(self.host.gpu_rank == 0)[0]))
        read = _part(
            self.topology, self._memory(node, socket), self._gpu(node, beside_hub), node, copies, len(self.nodes)
        )
        inside = np.isin(self.topology.link_kind[read.link], IN_HOST)
        way, link, weight = read.way[inside], read.link[inside], read.weight[inside]
        hub = self.topology.hub(self.nodes)[way]
        at_hub = (self.topology.link_kind[link] == LinkKind.MEMORY) & (self.topology.src[link] == hub)
        return Part(
            way=np.append(way, way[at_hub]),
            link=np.append(link, link[at_hub]),
            weight=np.append(weight, np.ones(int(at_hub.sum()))),
            latency_s=read.latency_s,
        )

    def over_bridge(self) -> Part:
        """From the partner on the bridge: way ``node * n_groups + group``."""
        node, group = self._grid(len(self.groups))
        gpu = self.groups.first[group]
        way = node * len(self.groups) + group
        return _part(self.topology, self._gpu(node, gpu ^ 1), self._gpu(node, gpu), way, 1.0, len(way))

    def _of_groups(self, node: Ints, gpu: Ints, src: Ints, dst: Ints, weight: float) -> Part:
        """Ways of all GPUs, gathered at the one that stands for its group: on its links, with the load of them all."""
        way = node * len(self.groups) + self.groups.of[gpu]
        routes = self.topology.routes(src, dst)
        owner, link, share = _crossings(routes)
        of_flow = way[owner]
        key = of_flow * self.topology.n_links + link
        stands = gpu[owner] == self.groups.first[self.groups.of[gpu[owner]]]
        kept = np.isin(key, key[stands])
        latency = np.zeros(len(self.nodes) * len(self.groups))
        np.maximum.at(latency, way, routes.latency_s)
        on_bus = self.topology.link_kind[link[kept]] == LinkKind.ROOT_PORT_BUS
        weights = (
            weight * share[kept] * np.where(on_bus, self.host.both_ways_weight, 1.0)
        )  # copies out and in keep it busy both ways
        return Part(way=of_flow[kept], link=link[kept], weight=weights, latency_s=latency)

    def _grid(self, *shape: int) -> list[Ints]:
        return [index.ravel() for index in np.indices((len(self.nodes), *shape))]

    def _gpu(self, node: Ints, gpu: Ints) -> Ints:
        ends: Ints = self.nodes[node] * len(self.groups.of) + gpu
        return ends

    def _memory(self, node: Ints, rank: Ints) -> Ints:
        return self.topology.memory(self.nodes[node], (rank + self.host.first_socket) % self.host.n_sockets)


def between_nodes(topology: Topology, src: Ints, dst: Ints, hop_latency_s: float, *, added: bool) -> Part:
    """Memory to memory of two nodes each; where it is ``added`` up on arrival it is read there once more."""
    way = np.arange(len(src))
    ends = topology.hub(dst)
    part = _part(topology, topology.hub(src), ends, way, 1.0, len(way))
    arrival = (topology.link_kind[part.link] == LinkKind.MEMORY) & (topology.src[part.link] == ends[part.way])
    return Part(
        way=part.way,
        link=part.link,
        weight=part.weight + (arrival & added),
        latency_s=part.latency_s + hop_latency_s,
    )


def nothing() -> Part:
    """One way over nothing."""
    none = np.zeros(0, dtype=np.int64)
    return Part(way=none, link=none, weight=np.zeros(0), latency_s=np.zeros(1))


def _part(topology: Topology, src: Ints, dst: Ints, way: Ints, weight: float, n_ways: int) -> Part:
    routes = topology.routes(src, dst)
    owner, link, share = _crossings(routes)
    latency = np.zeros(n_ways)
    np.maximum.at(latency, way, routes.latency_s)
    return Part(way=way[owner], link=link, weight=weight * share, latency_s=latency)


def _crossings(routes: Routes) -> tuple[Ints, Ints, Floats]:
    """Flow, link and share of the flow's bytes, for every link of every flow."""
    start, link, weight = routes.lists()
    owner = np.repeat(np.arange(len(routes)), np.diff(start))
    return owner, link.astype(np.int64), np.ones(len(link)) if weight is None else weight


def gathered(ways: Ways, way: Ints) -> tuple[Csr, Floats]:
    """The links and weights of flows that take these ways."""
    hops = np.diff(ways.links.start)[way]
    start = np.append(0, np.cumsum(hops))
    place = np.repeat(ways.links.start[way] - start[:-1], hops) + np.arange(start[-1])
    return Csr(start, ways.links.values[place]), ways.weight[place]
