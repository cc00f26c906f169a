"""What a cluster file says: nodes, the fabric that joins them, storage, prices, and what the literature counts."""

from __future__ import annotations

from typing import Annotated, Literal

from ffsim.config import Bytes, Count, EnergyPrice, Figure, GpuHourPrice, Power, Ratio, Source, TaggedBy, spec

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

MAX_PARTS = 2**20


@spec
class NodeSpec:
    """The compute nodes, all alike.

    Attributes:
        count: how many.
        gpu, cpu, nic: names or paths in the hardware catalogue.
        gpus, cpus, nics: how many of each in one node; GPU ``g`` uses NIC ``g * nics // gpus``.
        interconnect: ``nvswitch`` (every GPU to every GPU), ``nvlink_pairs`` (a bridge joins GPUs 2i and 2i+1, PCIe the
            rest) or ``pcie``.
        memory: host memory of one node. [bytes]
        power: a whole node while training. [W]
    """

    count: Count
    gpu: str
    gpus: Count
    interconnect: Interconnect
    cpu: str | None = None
    cpus: Count = 2
    memory: Figure[Bytes] | None = None
    nic: str
    nics: Count
    power: Figure[Power]

    def __post_init__(self) -> None:
        if self.gpus % self.nics:
            raise ValueError(f"{self.gpus} gpus cannot share {self.nics} nics evenly: use a divisor of {self.gpus}")
        if self.interconnect == "nvlink_pairs" and self.gpus % 2:
            raise ValueError(f"{self.gpus} gpus do not make pairs: use an even number, or interconnect pcie")


@spec
class TwoLevelSpec:
    """Independent two-level fat trees, one a plane; NIC ``i`` of every node goes to plane ``i % planes``.

    Attributes:
        leaves, spines: switches of one plane; left out, as many as full bisection needs.
    """

    kind: Literal["two_level"]
    switch: str
    planes: Count = 1
    leaves: Count | None = None
    spines: Count | None = None


@spec
class TwoZoneSpec:
    """Two two-level fat trees joined by a few cables; each half of the nodes lives in one, storage in both.

    Attributes:
        interzone_links_per_zone: cables from leaves of one zone to the inter-zone switches. They take leaf ports.
    """

    kind: Literal["two_zone"]
    switch: str
    leaves_per_zone: Count
    spines_per_zone: Count
    interzone_switches: Count
    interzone_links_per_zone: Figure[Count]

    def __post_init__(self) -> None:
        links = self.interzone_links_per_zone.value
        if links < self.interzone_switches:
            raise ValueError(
                f"interzone_links_per_zone is {links}, too few for {self.interzone_switches} inter-zone switches: "
                "every switch needs a cable to each zone"
            )


@spec
class ThreeLevelSpec:
    """One non-blocking three-level fat tree; its switches follow from the number of end points."""

    kind: Literal["three_level"]
    switch: str


FabricSpec = TwoLevelSpec | TwoZoneSpec | ThreeLevelSpec


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
class PublishedCount:
    """What the literature counts, to stand beside what ffsim counts (``Topology.counts``)."""

    quantity: CountName
    value: int
    source: Source


@spec
class ClusterSpec:
    """A cluster file.

    Attributes:
        rental: price of one GPU for one hour; its source carries the date. [USD/GPU-hour]
        pue: power drawn by the site over power drawn by its machines.
        energy_price: [USD/J]
        notes: what is assumed, and what does not add up.
    """

    kind: Literal["cluster"]
    title: str
    nodes: NodeSpec
    fabric: Annotated[FabricSpec, TaggedBy("kind")]
    storage: StorageSpec | None = None
    rental: Figure[GpuHourPrice]
    pue: Figure[Ratio]
    energy_price: Figure[EnergyPrice]
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
