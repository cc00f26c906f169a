"""Inside a compute node: GPUs, their hub and their NICs, and the ways between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.topology.arrays import NO_LINK, Cables, Ints, LinkKind, Wire, count_up
from ffsim.topology.cluster import Cluster
from ffsim.topology.spec import Interconnect


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """How vertices and cables of the compute nodes are numbered.

    Vertices: GPUs, hubs, NICs, each node by node. Cables, in this order:

    1. GPU to hub, cable ``g`` for GPU ``g``;
    2. with an NVSwitch, GPU to NIC, one a GPU; else hub to NIC, one a NIC;
    3. with bridges, GPU 2i to GPU 2i+1, one a pair.
    """

    count: int
    gpus: int
    nics: int
    interconnect: Interconnect

    @property
    def n_gpus(self) -> int:
        """GPUs of all nodes; the vertex of the first hub."""
        return self.count * self.gpus

    @property
    def first_nic(self) -> int:
        """The vertex of the first NIC."""
        return self.n_gpus + self.count

    @property
    def gpus_per_nic(self) -> int:
        """GPUs that share a NIC."""
        return self.gpus // self.nics

    @property
    def switched(self) -> bool:
        """Whether the hub is an NVSwitch, with the NICs at the GPUs."""
        return self.interconnect == "nvswitch"

    @property
    def first_bridge(self) -> int:
        """The number of the first bridge cable."""
        return self.n_gpus + (self.n_gpus if self.switched else self.count * self.nics)

    @property
    def n_cables(self) -> int:
        """Cables inside all nodes."""
        return self.first_bridge + (self.n_gpus // 2 if self.interconnect == "nvlink_pairs" else 0)

    def of(self, vertex: Ints) -> Ints:
        """The node of each GPU, hub or compute NIC."""
        hub, nic = vertex - self.n_gpus, vertex - self.first_nic
        result: Ints = np.select([vertex < self.n_gpus, nic < 0], [vertex // self.gpus, hub], nic // self.nics)
        return result

    def own_nic(self, vertex: Ints) -> Ints:
        """The NIC (counted over all nodes) of each GPU; the first one of the node for a hub."""
        result: Ints = np.where(vertex < self.n_gpus, vertex // self.gpus_per_nic, (vertex - self.n_gpus) * self.nics)
        return result

    def within(self, src: Ints, dst: Ints) -> Ints:
        """Links between GPUs or hub of one node: ``[n, 2]``, with gaps; over the bridge where there is one."""
        links = np.column_stack([self._to_hub(src), _back(self._to_hub(dst))])
        links[src == dst] = NO_LINK
        if self.interconnect == "nvlink_pairs":
            paired = (src // 2 == dst // 2) & (src != dst) & (np.maximum(src, dst) < self.n_gpus)
            links[paired, 0] = 2 * (self.first_bridge + src[paired] // 2) + src[paired] % 2
            links[paired, 1] = NO_LINK
        return links

    def out(self, src: Ints, nic: Ints) -> Ints:
        """Links from GPU or hub to a NIC of its node: ``[n, 3]``, with gaps.

        With an NVSwitch, a GPU that is not at this NIC goes over the switch to the one in its own place there.
        """
        none = np.full(len(src), NO_LINK, dtype=np.int64)
        if not self.switched:
            return np.column_stack([self._to_hub(src), 2 * (self.n_gpus + nic), none])
        gate = nic * self.gpus_per_nic + src % self.gpus_per_nic
        last = 2 * (self.n_gpus + gate)
        over = np.column_stack([self._to_hub(src), _back(self._to_hub(gate)), last])
        return np.where((gate == src)[:, None], np.column_stack([none, none, last]), over)

    def into(self, nic: Ints, dst: Ints) -> Ints:
        """Links from a NIC to GPU or hub of its node: the way out, walked back."""
        return _back(self.out(dst, nic)[:, ::-1])

    def _to_hub(self, vertex: Ints) -> Ints:
        result: Ints = np.where(vertex < self.n_gpus, 2 * vertex, NO_LINK)
        return result


def _back(links: Ints) -> Ints:
    result: Ints = np.where(links == NO_LINK, NO_LINK, links ^ 1)
    return result


def node_cables(node: Node, cluster: Cluster) -> Cables:
    """The cables inside all nodes, in the order `Node` gives.

    Crossing PCIe adds no latency of its own: on the way to the network it is part of the NIC's figure, and there is no
    published figure for the way between two GPUs.
    """
    gpu = cluster.gpu
    gpus, nics = count_up(node.n_gpus), count_up(node.count * node.nics)
    hubs = node.n_gpus + count_up(node.count)
    pcie = Wire(bandwidth_bytes_per_s=gpu.host_link.value, latency_s=0.0)
    to_hub, kind = pcie, LinkKind.PCIE
    if node.switched:
        to_hub, kind = _nvlink(cluster, hops=2), LinkKind.SCALE_UP
    parts = [Cables.between(gpus, hubs[gpus // node.gpus], to_hub, kind)]
    if node.switched:
        parts.append(Cables.between(gpus, node.first_nic + gpus // node.gpus_per_nic, pcie, LinkKind.NIC_PCIE))
    else:
        parts.append(Cables.between(hubs[nics // node.nics], node.first_nic + nics, pcie, LinkKind.NIC_PCIE))
    if node.interconnect == "nvlink_pairs":
        parts.append(Cables.between(gpus[::2], gpus[1::2], _nvlink(cluster, hops=1), LinkKind.BRIDGE))
    return Cables.joined(parts)


def _nvlink(cluster: Cluster, hops: int) -> Wire:
    """An NVLink cable of a way that has so many."""
    rate, latency = cluster.gpu.scale_up_usable, cluster.gpu.scale_up_latency
    if rate is None or latency is None:
        raise ValueError(f"{cluster.gpu.title} has no NVLink: use interconnect pcie")
    return Wire(bandwidth_bytes_per_s=rate.value, latency_s=latency.value / hops)
