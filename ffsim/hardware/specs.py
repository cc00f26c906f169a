"""The parts a cluster is made of. Every number is a `Figure`: base units, source, range."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from ffsim.config import (
    Bandwidth,
    Bytes,
    Count,
    Factor,
    Figure,
    FlopRate,
    IoRate,
    Money,
    PositiveShare,
    Power,
    Time,
    spec,
)


@spec
class Gpu:
    """An accelerator.

    Attributes:
        profile: name of its calibrated operator parameters.
        nccl: name of the figures of NCCL over its NVSwitch, none for a card without one.
        sms: streaming multiprocessors.
        peak: dense tensor-core rate by number format (``bf16``, ``fp8``, ``tf32``). [FLOP/s]
        sustained: what products reach for longer than a moment under the board's power limit, by number format;
            without limit where a format is left out. [FLOP/s]
        memory, memory_bandwidth: device memory. [bytes, bytes/s]
        host_link: PCIe rate per direction as measured by copies. [bytes/s]
        scale_up: NVLink rate per direction by the data sheet, none for a card without it. [bytes/s]
        scale_up_usable: what kernels get of it. [bytes/s]
        scale_up_latency: one-way, zero-byte, through the switch or bridge. [s]
        power: board limit. [W]
        kernel_time: factor on operator times where the profile was measured on another GPU; 1 with its range.
    """

    kind: Literal["gpu"]
    title: str
    profile: str
    nccl: str | None = None
    sms: Figure[Count]
    peak: dict[str, Figure[FlopRate]]
    memory: Figure[Bytes]
    memory_bandwidth: Figure[Bandwidth]
    host_link: Figure[Bandwidth]
    scale_up: Figure[Bandwidth] | None = None
    scale_up_usable: Figure[Bandwidth] | None = None
    scale_up_latency: Figure[Time] | None = None
    power: Figure[Power]
    kernel_time: Figure[Factor] | None = None
    sustained: dict[str, Figure[FlopRate]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "bf16" not in self.peak:
            raise ValueError("peak has no bf16: add it, utilisation is counted against it")
        for form, rate in self.sustained.items():
            if form not in self.peak or rate.value > self.peak[form].value:
                raise ValueError(f"sustained.{form} has no peak above it: give a rate below peak.{form}")


@spec
class Cpu:
    """A host processor.

    Attributes:
        memory_bandwidth: theoretical rate of one socket. [bytes/s]
        memory_usable: practical rate of one socket. [bytes/s]
        root_port: what one PCIe root port passes to the CPU's fabric, per direction. [bytes/s]
        root_port_both: what it passes in both directions together while both are in use; as one if left out. [bytes/s]
        socket_link: what passes between two sockets, per direction. [bytes/s]
        peer_to_peer: what passes between the GPUs and a NIC without a stop in host memory, per direction; without limit
            if left out. [bytes/s]
    """

    kind: Literal["cpu"]
    title: str
    cores: Figure[Count]
    memory_channels: Figure[Count]
    memory_bandwidth: Figure[Bandwidth]
    memory_usable: Figure[Bandwidth] | None = None
    root_port: Figure[Bandwidth] | None = None
    root_port_both: Figure[Bandwidth] | None = None
    socket_link: Figure[Bandwidth] | None = None
    peer_to_peer: Figure[Bandwidth] | None = None


@spec
class Nic:
    """A network adapter.

    Attributes:
        bandwidth: line rate of its port, per direction. [bytes/s]
        usable_share: payload share of the line rate that bulk transfers reach.
        latency: one-way, zero-byte, from the sending program to the wire (half of both ends). [s]
    """

    kind: Literal["nic"]
    title: str
    bandwidth: Figure[Bandwidth]
    usable_share: Figure[PositiveShare]
    latency: Figure[Time]
    power: Figure[Power]

    def payload_share(self, port_bytes_per_s: float) -> float:
        """Share of a port's line rate that bulk transfers reach: more than ``usable_share`` on a slower port.

        Args:
            port_bytes_per_s: line rate of the port, infinite where nothing limits the adapter.
        """
        return min(1.0, self.usable_share.value * max(1.0, self.bandwidth.value / port_bytes_per_s))


@spec
class Switch:
    """A network switch.

    Attributes:
        ports: ports at the full rate.
        bandwidth: rate of one port, per direction. [bytes/s]
        latency: one hop, cable included. [s]
        price: of the switch alone. [USD]
        link_price: of a cable between two switches, with its transceivers. [USD]
    """

    kind: Literal["switch"]
    title: str
    ports: Figure[Count]
    bandwidth: Figure[Bandwidth]
    latency: Figure[Time]
    power: Figure[Power]
    price: Figure[Money] | None = None
    link_price: Figure[Money] | None = None


@spec
class Ssd:
    """A flash drive; rates are per drive.

    Attributes:
        capacity: [bytes]
        host_link: PCIe rate per direction. [bytes/s]
        read: rate of large reads. [bytes/s]
        read_io_rate: most reads it takes, however small. [IO/s]
        read_latency: of one read on an idle drive until its first byte. [s]
    """

    kind: Literal["ssd"]
    title: str
    capacity: Figure[Bytes]
    host_link: Figure[Bandwidth]
    read: Figure[Bandwidth]
    read_io_rate: Figure[IoRate]
    read_latency: Figure[Time]
