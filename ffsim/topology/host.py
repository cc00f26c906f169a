"""Inside the host of a PCIe node: sockets, shared root ports, and limits that no cable carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ffsim.config import Figure
from ffsim.hardware import Cpu
from ffsim.topology.arrays import Cables, Floats, Ints, Kinds, LinkKind, Wire, count_up
from ffsim.topology.spec import NodeSpec

NO_PORT = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Media:
    """Limits that flows meet at one vertex, as columns of length ``n_media``.

    Attributes:
        at: vertex.
        bandwidth_bytes_per_s: of all flows over it together.
        kind: `LinkKind`.
    """

    at: Ints
    bandwidth_bytes_per_s: Floats
    kind: Kinds

    def __len__(self) -> int:
        return len(self.at)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Host:
    """Where GPUs and NICs hang, the same in every node.

    Sockets are counted from the one of the first NIC, which is the hub: rank 0, then 1.

    Attributes:
        n_sockets: 1 or 2.
        first_socket: socket of the cluster file that has rank 0.
        gpu_rank, nic_rank: ``[gpus]``, ``[nics]``, the socket of each.
        gpu_port: ``[gpus]``, which of the shared root ports, `NO_PORT` for one to itself.
        n_ports: shared root ports.
        cpu: whose figures limit it; none for a host without limits.
    """

    n_sockets: int
    first_socket: int
    gpu_rank: Ints
    nic_rank: Ints
    gpu_port: Ints
    n_ports: int
    cpu: Cpu | None

    @classmethod
    def of(cls, nodes: NodeSpec, cpu: Cpu | None) -> Host:
        """The host that a cluster file describes, else one socket without limits."""
        port = np.full(nodes.gpus, NO_PORT, dtype=np.int64)
        if nodes.host is None:
            none = np.zeros(nodes.gpus, dtype=np.int64)
            return cls(
                n_sockets=1,
                first_socket=0,
                gpu_rank=none,
                nic_rank=none[: nodes.nics],
                gpu_port=port,
                n_ports=0,
                cpu=None,
            )
        for number, sharing in enumerate(nodes.host.shared_root_ports):
            port[list(sharing)] = number
        first = nodes.host.nic_sockets[0]
        return cls(
            n_sockets=nodes.cpus,
            first_socket=first,
            gpu_rank=(count_up(nodes.gpus) // (nodes.gpus // nodes.cpus) - first) % nodes.cpus,
            nic_rank=(np.array(nodes.host.nic_sockets, dtype=np.int64) - first) % nodes.cpus,
            gpu_port=port,
            n_ports=len(nodes.host.shared_root_ports),
            cpu=cpu,
        )

    @property
    def limits_peers(self) -> bool:
        """Whether less passes between GPUs and NICs than their links carry."""
        return self.cpu is not None and self.cpu.peer_to_peer is not None

    @property
    def both_ways_weight(self) -> float:
        """How much more of a shared root port bytes take where both directions are in use all the time, >= 1.

        One figure a port cannot hold both what passes one way and the less that passes both ways together: the port
        carries the first, flows that know of each other say by how much they are worse.
        """
        if self.cpu is None or self.cpu.root_port is None or self.cpu.root_port_both is None:
            return 1.0
        return max(1.0, self.cpu.root_port.value / self.cpu.root_port_both.value)

    def device_bytes_per_s(self, host_link_bytes_per_s: float) -> float:
        """What a device with a root port to itself exchanges with its socket, per direction."""
        if self.cpu is None or self.cpu.root_port is None:
            return host_link_bytes_per_s
        return min(host_link_bytes_per_s, self.cpu.root_port.value)

    def cables(self, sockets: Ints, ports: Ints) -> Iterator[Cables]:
        """Shared root ports to their sockets, node by node; then, one a node, the other socket to the hub.

        Args:
            sockets: ``[n_sockets, n_nodes]`` vertices.
            ports: ``[n_nodes, n_ports]`` vertices.
        """
        if self.cpu is None:
            return
        if self.n_ports:
            sharing = [int(np.flatnonzero(self.gpu_port == port)[0]) for port in range(self.n_ports)]
            above = sockets[self.gpu_rank[sharing]].T
            yield Cables.between(ports.ravel(), above.ravel(), _wire(self.cpu.root_port), LinkKind.ROOT_PORT)
        if self.n_sockets > 1:
            yield Cables.between(sockets[1], sockets[0], _wire(self.cpu.socket_link), LinkKind.SOCKETS)

    def media(self, nics: Ints, sockets: Ints, ports: Ints) -> Media:
        """Peer-to-peer of every NIC, from GPUs and to them; shared root ports; memories in the order of sockets."""
        parts: list[tuple[Ints, Figure[float] | None, LinkKind]] = []
        if self.cpu is not None:
            if self.limits_peers:
                parts.append((np.repeat(nics, 2), self.cpu.peer_to_peer, LinkKind.PEER_TO_PEER))
            if self.n_ports:
                parts.append((ports.ravel(), self.cpu.root_port, LinkKind.ROOT_PORT_BUS))
            parts.append((sockets.ravel(), self.cpu.memory_usable, LinkKind.MEMORY))
        counts = [len(at) for at, _, _ in parts]
        return Media(
            at=np.concatenate([np.zeros(0, dtype=np.int64), *(at for at, _, _ in parts)]),
            bandwidth_bytes_per_s=np.repeat(np.array([_rate(figure) for _, figure, _ in parts]), counts),
            kind=np.repeat(np.array([kind for _, _, kind in parts], dtype=np.uint8), counts),
        )


def missing_figures(nodes: NodeSpec, cpu: Cpu) -> list[str]:
    """Figures that the host of a cluster file needs and its CPU does not state."""
    if nodes.host is None:
        return []
    sharing = bool(nodes.host.shared_root_ports)
    needed = {"memory_usable": True, "socket_link": nodes.cpus > 1, "root_port": sharing}
    return [name for name, wanted in needed.items() if wanted and getattr(cpu, name) is None]


def _wire(figure: Figure[float] | None) -> Wire:
    return Wire(bandwidth_bytes_per_s=_rate(figure), latency_s=0.0)


def _rate(figure: Figure[float] | None) -> float:
    if figure is None:
        raise ValueError("the CPU states no such figure: see `missing_figures`")
    return figure.value
