"""What a cluster file says: nodes, the fabric that joins them, storage, prices, and what the literature counts."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from ffsim.config import (
    Amount,
    Bytes,
    Count,
    EnergyPrice,
    Figure,
    GpuHourPrice,
    Natural,
    PositiveShare,
    Power,
    Ratio,
    Share,
    Source,
    TaggedBy,
    spec,
)
from ffsim.topology.fabric_spec import FabricSpec, TwoLevelSpec, TwoZoneSpec

Interconnect = Literal["nvswitch", "nvlink_pairs", "pcie"]
CountName = Literal[
    "gpus",
    "nodes",
    "nics",
    "switches",
    "leaves",
    "spines",
    "cores",
    "interzone_switches",
    "endpoint_ports",
    "interswitch_links",
    "interzone_links",
]

RoutingKind = Literal["d_mod_k", "s_mod_k", "hash", "spray"]
TrafficClass = Literal["hfreduce", "nccl", "storage", "other"]
TRAFFIC_CLASSES: tuple[TrafficClass, ...] = get_args(TrafficClass)

MAX_PARTS = 2**20
MAX_QUEUE_PAIRS = 1024


@spec
class HostSpec:
    """How GPUs and NICs hang on the sockets; the first half of the GPUs is on socket 0, the other on socket 1.

    Attributes:
        nic_sockets: the socket of each NIC.
        shared_root_ports: GPUs that share a PCIe root port; every other GPU and every NIC has one to itself.
    """

    nic_sockets: tuple[Natural, ...]
    shared_root_ports: tuple[tuple[Natural, ...], ...] = ()


@spec
class NodeSpec:
    """The compute nodes, all alike.

    Attributes:
        count: how many.
        gpu, cpu, nic: names or paths in the hardware catalogue.
        gpus, cpus, nics: how many of each in one node; GPU ``g`` uses NIC ``g * nics // gpus``.
        interconnect: ``nvswitch`` (every GPU to every GPU), ``nvlink_pairs`` (a bridge joins GPUs 2i and 2i+1, PCIe the
            rest) or ``pcie``.
        host: what is inside the host, where PCIe joins the GPUs; left out, the host limits nothing.
        memory: host memory of one node. [bytes]
        power: a whole node while training. [W]
    """

    count: Count
    gpu: str
    gpus: Count
    interconnect: Interconnect
    cpu: str | None = None
    cpus: Count = 2
    host: HostSpec | None = None
    memory: Figure[Bytes] | None = None
    nic: str
    nics: Count
    power: Figure[Power]

    def __post_init__(self) -> None:
        if self.gpus % self.nics:
            raise ValueError(f"{self.gpus} gpus cannot share {self.nics} nics evenly: use a divisor of {self.gpus}")
        if self.interconnect == "nvlink_pairs" and self.gpus % 2:
            raise ValueError(f"{self.gpus} gpus do not make pairs: use an even number, or interconnect pcie")
        if self.host is not None:
            self._check_host(self.host)

    def _check_host(self, host: HostSpec) -> None:
        if self.interconnect == "nvswitch":
            raise ValueError("host is for nodes whose GPUs meet on PCIe: leave it out beside an NVSwitch")
        if self.cpu is None or self.cpus > 2 or self.gpus % self.cpus:
            raise ValueError("host needs a cpu, one or two cpus, and as many gpus on each: change cpu, cpus or gpus")
        if len(host.nic_sockets) != self.nics or max(host.nic_sockets) >= self.cpus:
            raise ValueError(
                f"host.nic_sockets is {list(host.nic_sockets)}: give {self.nics} of the sockets 0 to {self.cpus - 1}"
            )
        per_socket = self.gpus // self.cpus
        sharing = [gpu for port in host.shared_root_ports for gpu in port]
        together = all(
            len(port) > 1 and len({gpu // per_socket for gpu in port}) == 1 for port in host.shared_root_ports
        )
        if not together or len(set(sharing)) < len(sharing) or max(sharing, default=0) >= self.gpus:
            raise ValueError(
                "host.shared_root_ports: each lists two or more of the "
                f"GPUs 0 to {self.gpus - 1} of one socket, and a GPU is in one list at most"
            )


@spec
class StorageSpec:
    """Storage nodes on the same fabric; NIC ``i`` goes to plane ``i % planes``, or to zone ``i`` of two zones."""

    nodes: Count
    nic: str
    nics: Count
    cpu: str | None = None
    ssd: str
    ssds: Count


@spec
class RoutingRule:
    """How the fabric chooses among equally short ways.

    Attributes:
        kind: ``d_mod_k`` by the destination's place, ``s_mod_k`` by the source's (both static: InfiniBand); ``hash`` by
            a hash of the flow (RoCE with ECMP); ``spray`` all ways at once, equally. Adaptive routing that knows
            nothing of congestion elsewhere is spray; it needs NICs that take packets out of order.
        queue_pairs: into how many equal parts a flow is split, each hashed by itself; matters under ``hash`` only.
        seed: changes every hash.
    """

    kind: RoutingKind = "d_mod_k"
    queue_pairs: Count = 1
    seed: Natural = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(RoutingKind):
            raise ValueError(f"got kind {self.kind!r}: use one of {', '.join(get_args(RoutingKind))}")
        if not 1 <= self.queue_pairs <= MAX_QUEUE_PAIRS:
            raise ValueError(f"got queue_pairs {self.queue_pairs}: use 1 to {MAX_QUEUE_PAIRS:,}")
        if self.seed < 0:
            raise ValueError(f"got seed {self.seed}: use 0 or more")


@spec
class LaneSpec:
    """Virtual lanes: what each class of traffic counts for on a link that several want; idle shares go to the others.

    Lane ``i`` carries class ``TRAFFIC_CLASSES[i]``.
    """

    hfreduce: Figure[PositiveShare]
    nccl: Figure[PositiveShare]
    storage: Figure[PositiveShare]
    other: Figure[PositiveShare]

    @property
    def weights(self) -> tuple[float, ...]:
        """The share of every lane, in lane order."""
        return tuple(getattr(self, name).value for name in TRAFFIC_CLASSES)


@spec
class FaultSpec:
    """Something that is broken or slow: cables between two vertices, a NIC, or every cable of a vertex.

    Attributes:
        between: names of two vertices (`Topology.vertex_name`), such as ``[zone 0 leaf 3, zone 0 spine 2]``.
        cable: which of several parallel cables between them; all of them if left out.
        node, nic: a compute node's NIC: its cable to the fabric.
        at: name of a vertex, such as ``zone 1 spine 7``: all its cables.
        capacity: share of the rate that is left, in both directions; 0 for none.
    """

    between: tuple[str, ...] | None = None
    cable: Natural | None = None
    node: Natural | None = None
    nic: Natural | None = None
    at: str | None = None
    capacity: Share

    def __post_init__(self) -> None:
        if self.between is not None and len(self.between) != 2:
            raise ValueError(f"between names {len(self.between)} vertices: name the two ends of a cable")
        forms = [self.between is not None, self.node is not None or self.nic is not None, self.at is not None]
        if sum(forms) != 1 or (self.node is None) != (self.nic is None):
            raise ValueError("does not say what is faulty: give one of `between`, `node` with `nic`, or `at`")
        if self.cable is not None and self.between is None:
            raise ValueError("cable counts parallel cables: it needs `between`")


@spec
class RelativePrice:
    """What nodes and network cost, in a unit that means something only beside other clusters priced in it.

    Attributes:
        unit: names it: two clusters may be compared where theirs are the same.
        gpus: that the prices are for.
        nodes, network: all of them together; the network with its cables.
    """

    unit: str
    gpus: Count
    nodes: Figure[Amount]
    network: Figure[Amount]


@spec
class PublishedCount:
    """What the literature counts, to stand beside what ffsim counts (``Topology.counts``)."""

    quantity: CountName
    value: int
    source: Source


@spec
class ClusterSpec:
    """A cluster file.

    Attributes:
        routing: how flows find their way where they do not say.
        lanes: shares of the classes of traffic; none where all traffic is alike.
        faults: what is broken or slow.
        rental: price of one GPU for one hour; its source carries the date. [USD/GPU-hour]
        pue: power drawn by the site over power drawn by its machines.
        energy_price: [USD/J]
        relative_price: of buying it, where somebody has published one.
        notes: what is assumed, and what does not add up.
    """

    kind: Literal["cluster"]
    title: str
    nodes: NodeSpec
    fabric: Annotated[FabricSpec, TaggedBy("kind")]
    routing: RoutingRule = RoutingRule()
    lanes: LaneSpec | None = None
    faults: tuple[FaultSpec, ...] = ()
    storage: StorageSpec | None = None
    rental: Figure[GpuHourPrice]
    pue: Figure[Ratio]
    energy_price: Figure[EnergyPrice]
    relative_price: RelativePrice | None = None
    published: tuple[PublishedCount, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        largest = max(self.nodes.count * self.nodes.gpus, self.storage.nodes * self.storage.nics if self.storage else 0)
        if largest > MAX_PARTS:
            raise ValueError(f"{largest:,} GPUs or storage ports are too many: ffsim takes {MAX_PARTS:,}")
        if isinstance(self.fabric, TwoLevelSpec) and self.nodes.nics % self.fabric.planes:
            raise ValueError(
                f"fabric.planes is {self.fabric.planes}, nodes.nics is {self.nodes.nics}: "
                "every plane needs the same number of NICs of each node"
            )
        if isinstance(self.fabric, TwoZoneSpec) and self.storage is not None and self.storage.nics != 2:
            raise ValueError(f"storage.nics is {self.storage.nics}: in two zones a storage node has one port in each")
