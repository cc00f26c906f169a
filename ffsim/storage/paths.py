"""The ways of reads: from an SSD through its node's memory and NIC, over the fabric, to the host of a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.engine import Csr
from ffsim.storage.inputs import StorageInputs
from ffsim.topology import BETWEEN_SWITCHES, LinkKind, Topology, VertexKind

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

# What holds a read back, in the order of its way. The last is everything between the client's NIC and its memory.
RESOURCES = ("SSDs", "storage memory", "storage NICs", "switches", "client NICs", "client hosts")
SSD, MEMORY, STORAGE_NIC, SWITCHES, CLIENT_NIC, CLIENT_HOST = range(len(RESOURCES))
ROUNDING = 1 + 1e-9
MEMORY_CROSSINGS = 2  # the SSD writes into memory, the NIC reads from it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadPaths:
    """The way from every storage node to every client, and the links of them all.

    Links: those of the topology first, then SSDs (node by node), then memories of the storage nodes.

    Attributes:
        client_node: ``[n_clients]``, compute node of each.
        ways: links of client ``c`` from server ``s`` in row ``c * n_servers + s``.
        weight: ``[len(ways.values)]``, bytes on the link per byte read.
        latency_s: ``[n_clients * n_servers]``, one-way, zero-byte.
        capacity_bytes_per_s: ``[n_links]``.
        resource: ``[n_links]``, place in `RESOURCES`.
        can_bind: ``[len(ways.values)]``, whether the link can hold back reads; see `_can_bind`.
        first_ssd: link of the first SSD.
        ssd_weight: what a read takes of its SSD per byte: more than 1 where the request rate binds.
    """

    client_node: Ints
    n_servers: int
    ssds_per_server: int
    ways: Csr
    weight: Floats
    latency_s: Floats
    capacity_bytes_per_s: Floats
    resource: Ints
    can_bind: Bools
    first_ssd: int
    ssd_weight: float

    @property
    def n_clients(self) -> int:
        """Nodes that read."""
        return len(self.client_node)

    @property
    def ssd_bytes_per_s(self) -> float:
        """Rate of one SSD at this size of reads."""
        return float(self.capacity_bytes_per_s[self.first_ssd]) / self.ssd_weight


def find_paths(inputs: StorageInputs) -> ReadPaths:
    """Find the ways of all reads of a workload."""
    spec, topology, cluster = inputs.spec, inputs.topology, inputs.cluster
    storage, ssd, cpu = inputs.storage, inputs.ssd, cluster.storage_cpu
    client_node = np.arange(spec.clients)
    if spec.placement == "spread":
        client_node = client_node * cluster.n_nodes // spec.clients
    links, weight, latency_s = _routes(topology, client_node)
    rate = min(ssd.read.value, ssd.host_link.value)
    n_ssds = storage.nodes * storage.ssds
    capacity = [topology.bandwidth_bytes_per_s, np.full(n_ssds, rate)]
    resource = [_resources(topology), np.full(n_ssds, SSD)]
    if cpu is not None and cpu.memory_usable is not None:
        memory = topology.n_links + n_ssds + np.tile(np.arange(storage.nodes), spec.clients)
        links, weight = np.column_stack([memory, links]), np.insert(weight, 0, MEMORY_CROSSINGS, axis=1)
        capacity.append(np.full(storage.nodes, cpu.memory_usable.value))
        resource.append(np.full(storage.nodes, MEMORY))
    used = links >= 0
    ways, weight = Csr(np.append(0, np.cumsum(used.sum(axis=1))), links[used]), weight[used]
    capacities, resources = np.concatenate(capacity), np.concatenate(resource)
    return ReadPaths(
        client_node=client_node,
        n_servers=storage.nodes,
        ssds_per_server=storage.ssds,
        ways=ways,
        weight=weight,
        latency_s=latency_s,
        capacity_bytes_per_s=capacities,
        resource=resources,
        can_bind=_can_bind(ways, weight, capacities, resources),
        first_ssd=topology.n_links,
        ssd_weight=max(1.0, rate / (ssd.read_io_rate.value * spec.size)),
    )


def _routes(topology: Topology, client_node: Ints) -> tuple[Ints, Floats, Floats]:
    """Routes from every server to every client, by a NIC from which no other zone is crossed; by those in turn.

    Returns:
        ``[n_clients * n_servers, any]`` links with gaps, bytes on each per byte read, and ``[n_clients * n_servers]``
        latency.
    """
    ports = topology.storage_endpoints
    client, server, nic = np.mgrid[: len(client_node), : len(ports), : ports.shape[1]]
    routes = topology.routes(ports[server, nic].ravel(), topology.hub(client_node[client.ravel()]))
    links = routes.links
    far = ((links >= 0) & (topology.link_kind[links] == LinkKind.INTERZONE)).any(axis=1).reshape(nic.shape)
    near = far == far.min(axis=2, keepdims=True)
    turn = (client[:, :, 0] + server[:, :, 0]) % near.sum(axis=2)
    choice = ((near.cumsum(axis=2) == turn[:, :, None] + 1) & near).argmax(axis=2)
    row = np.arange(choice.size) * ports.shape[1] + choice.ravel()
    weight = np.ones(links[row].shape) if routes.weight is None else routes.weight[row]
    return links[row].astype(np.int64), weight, routes.latency_s[row]


def _resources(topology: Topology) -> Ints:
    """``[n_links]`` what each link of the topology belongs to, seen by a read."""
    kind = topology.link_kind
    resource = np.full(topology.n_links, CLIENT_HOST)
    resource[np.isin(kind, BETWEEN_SWITCHES)] = SWITCHES
    access = kind == LinkKind.ACCESS
    resource[access] = CLIENT_NIC
    resource[access & (topology.vertex_kind[topology.src] == VertexKind.STORAGE_NIC)] = STORAGE_NIC
    return resource


def _can_bind(ways: Csr, weight: Floats, capacity: Floats, resource: Ints) -> Bools:
    """``[len(ways.values)]``, False for links that pass whatever reads can bring them.

    Everything on such a link has come through storage NICs, or goes on through client NICs, that can carry no more in
    all. Leaving it out of the simulation changes nothing and makes it faster; NICs themselves always stay.
    """
    link, hops = ways.values, np.diff(ways.start)
    way = np.repeat(np.arange(len(hops)), hops)
    can_bind = np.ones(len(link), dtype=bool)
    for nic in (STORAGE_NIC, CLIENT_NIC):
        at_nic = resource[link] == nic
        if (np.bincount(way[at_nic], minlength=len(hops)) != 1).any():
            continue  # reads that go by several NICs at once, or by none
        pair, place = np.unique(link * len(capacity) + link[at_nic][way], return_inverse=True)
        most = np.zeros(len(pair))
        np.maximum.at(most, place, weight)
        through, by = np.divmod(pair, len(capacity))
        brought = np.bincount(through, most * capacity[by], minlength=len(capacity))
        can_bind &= brought[link] > capacity[link] * ROUNDING
    can_bind |= np.isin(resource[link], (STORAGE_NIC, CLIENT_NIC))
    return can_bind
