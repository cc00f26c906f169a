"""The NIC ports that a fabric joins, and how they are spread over its leaf switches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.hardware import Nic
from ffsim.topology.arrays import Bools, Ints, Wire, count_up
from ffsim.topology.cluster import Cluster
from ffsim.topology.fabric_spec import EndpointOrder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Endpoints:
    """NIC ports: those of the compute nodes first, then those of the storage nodes, node by node.

    Attributes:
        n_compute: ports of compute nodes; NIC ``i`` of node ``n`` is end point ``n * nics + i``.
        node: ``[n_endpoints]``, compute or storage node.
        nic: ``[n_endpoints]``, place within the node.
        storage: ``[n_endpoints]``, whether the node is a storage node.
        wire: ``[n_endpoints]`` figures of the cable to the leaf: payload rate; NIC and half a switch hop of latency.
    """

    n_compute: int
    node: Ints
    nic: Ints
    storage: Bools
    wire: Wire

    def __len__(self) -> int:
        return len(self.node)


def find_endpoints(cluster: Cluster) -> Endpoints:
    """List the end points of a cluster."""
    nodes, storage = cluster.spec.nodes, cluster.spec.storage
    n_compute = nodes.count * nodes.nics
    node, nic = np.divmod(count_up(n_compute), nodes.nics)
    is_storage = np.zeros(n_compute, dtype=np.bool_)
    wire = _access(cluster, cluster.nic, n_compute)
    if storage is not None and cluster.storage_nic is not None:
        n_storage = storage.nodes * storage.nics
        other_node, other_nic = np.divmod(count_up(n_storage), storage.nics)
        other = _access(cluster, cluster.storage_nic, n_storage)
        node, nic = np.concatenate([node, other_node]), np.concatenate([nic, other_nic])
        is_storage = np.concatenate([is_storage, np.ones(n_storage, dtype=np.bool_)])
        wire = Wire(
            bandwidth_bytes_per_s=np.append(wire.bandwidth_bytes_per_s, other.bandwidth_bytes_per_s),
            latency_s=np.append(wire.latency_s, other.latency_s),
        )
    return Endpoints(n_compute=n_compute, node=node, nic=nic, storage=is_storage, wire=wire)


def _access(cluster: Cluster, nic: Nic, n: int) -> Wire:
    latency = nic.latency.value + (0.0 if cluster.switch is None else cluster.switch.latency.value / 2)
    return Wire(bandwidth_bytes_per_s=np.full(n, cluster.port_bytes_per_s(nic)), latency_s=np.full(n, latency))


def spread(tree: Ints, group: Ints, leaves: int) -> tuple[Ints, Ints]:
    """Spread ports evenly over the leaves of their trees, the groups (compute, storage, ...) evenly mixed.

    Ports are put in a row, port ``i`` of the ``n`` of its group at ``(i + 1/2) / n``; equal stretches of the row go to
    one leaf each. So leaves differ by one port at most, and neighbours within a group stay neighbours.

    Args:
        tree: ``[n_ports]``, from 0; every tree has a port.
        group: ``[n_ports]``.
        leaves: leaf switches of one tree.

    Returns:
        ``[n_ports]`` leaf, counted over all trees, and ``[n_ports]`` place on the leaf.

    >>> leaf, slot = spread(np.zeros(6, dtype=np.int64), np.array([0, 0, 0, 0, 1, 1]), 2)
    >>> leaf.tolist(), slot.tolist()
    ([0, 0, 1, 1, 0, 1], [0, 2, 0, 2, 1, 1])
    """
    cell = tree * (int(group.max()) + 1) + group
    within, size = _place(cell)
    order = np.lexsort((group, (within + 0.5) / size, tree))
    rank = np.empty_like(tree)
    rank[order] = _place(tree[order])[0]
    ports = np.bincount(tree)[tree]
    leaf = rank * leaves // ports
    slot: Ints = rank - -(-leaf * ports // leaves)
    return tree * leaves + leaf, slot


def spread_over(switches: int, endpoints: Endpoints, order: EndpointOrder) -> tuple[Ints, Ints]:
    """Spread all end points evenly over switches that are all alike.

    Args:
        switches: how many.
        endpoints: what to spread.
        order: ``by_node`` keeps the NICs of a node together; ``by_rail`` puts NIC ``i`` of as many consecutive nodes as
            fill a switch on one.

    Returns:
        ``[n_endpoints]`` switch and ``[n_endpoints]`` place on it.
    """
    block = -(-len(endpoints) // switches) if order == "by_rail" else 1
    row = np.lexsort((endpoints.node, endpoints.nic, endpoints.node // block, endpoints.storage))
    switch, slot = np.empty_like(row), np.empty_like(row)
    zeros = np.zeros(len(row), dtype=np.int64)
    switch[row], slot[row] = spread(zeros, endpoints.storage[row].astype(np.int64), switches)
    return switch, slot


def _place(cell: Ints) -> tuple[Ints, Ints]:
    """Each item's place among the items of its cell, and how many those are."""
    sizes = np.bincount(cell)
    order = np.argsort(cell, kind="stable")
    place = np.empty_like(cell)
    place[order] = count_up(len(cell)) - (np.cumsum(sizes) - sizes)[cell[order]]
    return place, sizes[cell]
