"""Inside a compute node: GPUs, their hub and their NICs, and the ways between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.topology.arrays import NO_LINK, Cables, Ints, LinkKind, Wire, count_up
from ffsim.topology.cluster import Cluster
from ffsim.topology.host import NO_PORT, Host, Media
from ffsim.topology.spec import Interconnect

WAY_OUT = 7  # the most links between an end inside a node and a NIC: memory or link, bus, port, sockets, NIC, peers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """How vertices, cables and media of the compute nodes are numbered.

    Vertices: GPUs, node by node; hubs; second sockets; shared root ports and NICs, each node by node. Cables, in this
    order:

    1. GPU to hub (without NVSwitch: to its socket or shared root port), cable ``g`` for GPU ``g``;
    2. with an NVSwitch, GPU to NIC, one a GPU; else socket to NIC, one a NIC;
    3. with bridges, GPU 2i to GPU 2i+1, one a pair;
    4. those of `Host.cables`.

    Attributes:
        first_medium: link number of the first of `Host.media`, which follow all cables of the cluster.
    """

    count: int
    gpus: int
    nics: int
    interconnect: Interconnect
    host: Host
    first_medium: int = 0

    @property
    def n_gpus(self) -> int:
        """GPUs of all nodes; the vertex of the first hub."""
        return self.count * self.gpus

    @property
    def first_port(self) -> int:
        """The vertex of the first shared root port; below it stand those that can send."""
        return self.n_gpus + self.count * self.host.n_sockets

    @property
    def first_nic(self) -> int:
        """The vertex of the first NIC."""
        return self.first_port + self.count * self.host.n_ports

    @property
    def sockets(self) -> Ints:
        """``[n_sockets, count]`` vertices."""
        return self.n_gpus + count_up(self.host.n_sockets * self.count).reshape(self.host.n_sockets, self.count)

    @property
    def ports(self) -> Ints:
        """``[count, n_ports]`` vertices of shared root ports."""
        return self.first_port + count_up(self.count * self.host.n_ports).reshape(self.count, self.host.n_ports)

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
    def first_port_cable(self) -> int:
        """The number of the first cable between a shared root port and its socket."""
        return self.first_bridge + (self.n_gpus // 2 if self.interconnect == "nvlink_pairs" else 0)

    @property
    def first_socket_cable(self) -> int:
        """The number of the first cable between two sockets."""
        return self.first_port_cable + self.count * self.host.n_ports

    @property
    def n_cables(self) -> int:
        """Cables inside all nodes."""
        return self.first_socket_cable + (self.count if self.host.n_sockets > 1 else 0)

    @property
    def first_bus(self) -> int:
        """The link number of the first shared root port with both directions together."""
        return self.first_medium + (2 * self.count * self.nics if self.host.limits_peers else 0)

    @property
    def first_memory(self) -> int:
        """The link number of the first memory; they stand in the order of `sockets`."""
        return self.first_bus + self.count * self.host.n_ports

    def socket(self, node: Ints, socket: Ints) -> Ints:
        """The vertex of a socket, counted as in the cluster file."""
        vertex: Ints = self.n_gpus + (socket - self.host.first_socket) % self.host.n_sockets * self.count + node
        return vertex

    def of(self, vertex: Ints) -> Ints:
        """The node of each GPU, socket or compute NIC."""
        socket, nic = vertex - self.n_gpus, vertex - self.first_nic
        result: Ints = np.select(
            [vertex < self.n_gpus, vertex < self.first_port],
            [vertex // self.gpus, socket % self.count],
            nic // self.nics,
        )
        return result

    def own_nic(self, vertex: Ints) -> Ints:
        """The NIC (counted over all nodes) of each GPU; the first of its own for a socket, else of its node."""
        node, second = np.divmod(vertex - self.n_gpus, self.count)[::-1]
        of_socket = node * self.nics + np.where(second > 0, np.argmax(self.host.nic_rank), 0)
        result: Ints = np.where(vertex < self.n_gpus, vertex // self.gpus_per_nic, of_socket)
        return result

    def within(self, src: Ints, dst: Ints) -> Ints:
        """Links between GPUs or hosts of one node: ``[n, 9]``, with gaps; over the bridge where there is one."""
        up, down = self._climb(src), self._climb(dst)
        port = self._port(src)
        same_port = (port != NO_PORT) & (port == self._port(dst))
        up[same_port, 3], down[same_port, 2:] = NO_LINK, NO_LINK  # back at the port, over its bus once
        between = self._between(self.of(src), self._rank(src), self._rank(dst))
        links = np.column_stack([up, between, self._back(down[:, ::-1])])
        links[src == dst] = NO_LINK
        if self.interconnect == "nvlink_pairs":
            paired = (src // 2 == dst // 2) & (src != dst) & (np.maximum(src, dst) < self.n_gpus)
            links[paired] = NO_LINK
            links[paired, 0] = 2 * (self.first_bridge + src[paired] // 2) + src[paired] % 2
        return links

    def out(self, src: Ints, nic: Ints) -> Ints:
        """Links from GPU or host to a NIC of its node: ``[n, WAY_OUT]``, with gaps.

        With an NVSwitch, a GPU that is not at this NIC goes over the switch to the one in its own place there.
        """
        if not self.switched:
            between = self._between(self.of(src), self._rank(src), self.host.nic_rank[nic % self.nics])
            peer = np.where((src < self.n_gpus) & self.host.limits_peers, self.first_medium + 2 * nic, NO_LINK)
            return np.column_stack([self._climb(src), between, 2 * (self.n_gpus + nic), peer])
        links = np.full((len(src), WAY_OUT), NO_LINK, dtype=np.int64)
        gate = nic * self.gpus_per_nic + src % self.gpus_per_nic
        links[:, 2] = 2 * (self.n_gpus + gate)
        over = gate != src
        links[over, 0] = 2 * src[over]
        links[over, 1] = 2 * gate[over] + 1
        return links

    def into(self, nic: Ints, dst: Ints) -> Ints:
        """Links from a NIC to GPU or host of its node: the way out, walked back."""
        return self._back(self.out(dst, nic)[:, ::-1])

    def _climb(self, vertex: Ints) -> Ints:
        """Links from GPU or host up to its socket or NVSwitch: ``[n, 4]``, of memory, GPU, bus and port, with gaps."""
        gpu, port = vertex < self.n_gpus, self._port(vertex)
        shares = port != NO_PORT
        has_memory = ~gpu & (self.host.cpu is not None)
        return np.column_stack(
            [
                np.where(has_memory, self.first_memory + vertex - self.n_gpus, NO_LINK),
                np.where(gpu, 2 * vertex, NO_LINK),
                np.where(shares, self.first_bus + port, NO_LINK),
                np.where(shares, 2 * (self.first_port_cable + port), NO_LINK),
            ]
        )

    def _port(self, vertex: Ints) -> Ints:
        """The shared root port, counted over all nodes, of each GPU that has one."""
        node, place = np.divmod(np.minimum(vertex, self.n_gpus - 1), self.gpus)
        port = np.where(vertex < self.n_gpus, self.host.gpu_port[place], NO_PORT)
        result: Ints = np.where(port == NO_PORT, NO_PORT, node * self.host.n_ports + port)
        return result

    def _rank(self, vertex: Ints) -> Ints:
        """The socket of each GPU or host, the hub first."""
        of_gpu = self.host.gpu_rank[vertex % self.gpus]
        result: Ints = np.where(vertex < self.n_gpus, of_gpu, (vertex - self.n_gpus) // self.count)
        return result

    def _between(self, node: Ints, src_rank: Ints, dst_rank: Ints) -> Ints:
        cable = 2 * (self.first_socket_cable + node) + (src_rank == 0)
        links: Ints = np.where(src_rank == dst_rank, NO_LINK, cable)
        return links

    def _back(self, links: Ints) -> Ints:
        """The same way walked back: the other direction of cables and of peers, the same bus and memory."""
        one_way = (links == NO_LINK) | ((links >= self.first_bus) & (self.host.cpu is not None))
        result: Ints = np.where(one_way, links, links ^ 1)
        return result


def node_cables(node: Node, cluster: Cluster) -> Cables:
    """The cables inside all nodes, in the order `Node` gives.

    Crossing PCIe adds no latency of its own: on the way to the network it is part of the NIC's figure, and there is no
    published figure for the way between two GPUs.
    """
    gpu, host = cluster.gpu, node.host
    gpus, nics = count_up(node.n_gpus), count_up(node.count * node.nics)
    link = gpu.host_link.value
    pcie = Wire(bandwidth_bytes_per_s=host.device_bytes_per_s(link), latency_s=0.0)
    if node.switched:
        parts = [
            Cables.between(gpus, node.sockets[0, gpus // node.gpus], _nvlink(cluster, hops=2), LinkKind.SCALE_UP),
            Cables.between(gpus, node.first_nic + gpus // node.gpus_per_nic, pcie, LinkKind.NIC_PCIE),
        ]
    else:
        at, place = np.divmod(gpus, node.gpus)
        port = host.gpu_port[place]
        socket = node.sockets[host.gpu_rank[place], at]
        above = np.where(port == NO_PORT, socket, node.first_port + at * host.n_ports + port)
        rate = np.where(port == NO_PORT, pcie.bandwidth_bytes_per_s, link)
        of_gpu = Wire(bandwidth_bytes_per_s=rate, latency_s=0.0)
        near = node.sockets[host.nic_rank[nics % node.nics], nics // node.nics]
        parts = [
            Cables.between(gpus, above, of_gpu, LinkKind.PCIE),
            Cables.between(near, node.first_nic + nics, pcie, LinkKind.NIC_PCIE),
        ]
    if node.interconnect == "nvlink_pairs":
        parts.append(Cables.between(gpus[::2], gpus[1::2], _nvlink(cluster, hops=1), LinkKind.BRIDGE))
    return Cables.joined([*parts, *host.cables(node.sockets, node.ports)])


def node_media(node: Node) -> Media:
    """The media inside all nodes."""
    nics = node.first_nic + count_up(node.count * node.nics)
    return node.host.media(nics, node.sockets, node.ports)


def _nvlink(cluster: Cluster, hops: int) -> Wire:
    """An NVLink cable of a way that has so many."""
    rate, latency = cluster.gpu.scale_up_usable, cluster.gpu.scale_up_latency
    if rate is None or latency is None:
        raise ValueError(f"{cluster.gpu.title} has no NVLink: use interconnect pcie")
    return Wire(bandwidth_bytes_per_s=rate.value, latency_s=latency.value / hops)
