"""What a storage workload file says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from ffsim.config import Count, Factor, Figure, Natural, Quantity, Shelf, Time, spec
from ffsim.units import BYTES

PositiveBytes = Annotated[float, Quantity(BYTES, positive=True)]

LARGEST_BLOCK_BYTES = 64 * 2.0**20  # a chunk lies in one physical block, and a read in one chunk
MOST_READS = 4_000_000  # simulated at once; more would take minutes and gigabytes


@spec
class FileSystem:
    """Figures of the file system; see the shipped ``threefs.yaml`` for what each rests on.

    Attributes:
        replicas: copies of every chunk, on as many nodes.
        targets_per_ssd: chains that an SSD takes part in.
        in_flight: reads that a client has under way at any time.
        software_latency: what programs at both ends add to a read.
        victim_slowdown: latency at packet level over fluid beside an uncontrolled incast.
    """

    kind: Literal["file_system"]
    replicas: Figure[Count]
    targets_per_ssd: Figure[Count]
    in_flight: Figure[Count]
    software_latency: Figure[Time]
    victim_slowdown: Figure[Factor]


@spec
class BackgroundSpec:
    """A training job behind the reads: one allreduce after the other over a double binary tree, from host to host.

    Attributes:
        nodes: of the job.
        on: whether it runs on nodes that also read, or on others.
        buffer: what every node reduces; each of them goes on without a pause.
        chunk: piece of the buffer that passes a tree as a whole.
    """

    nodes: Count
    on: Literal["clients", "others"] = "clients"
    buffer: PositiveBytes
    chunk: PositiveBytes

    def __post_init__(self) -> None:
        if self.nodes < 2:
            raise ValueError("an allreduce over one node sends nothing: give background.nodes 2 or more")
        if not 1 <= self.buffer / self.chunk <= 1024:
            raise ValueError(
                f"the buffer makes {self.buffer / self.chunk:.3g} chunks: choose a chunk that makes 1 to 1,024 of it"
            )


@spec
class ReadSpec:
    """Clients that read as fast as they can.

    Attributes:
        clients: compute nodes that read.
        placement: which: spread evenly over all nodes, or the first ones.
        size: of one read.
        in_flight: reads that a client has under way at any time; the file system's figure if left out.
        request_to_send: storage services that may send to one client at a time; 0 for no such limit.
        replica_choice: among the copies of a chunk, any, or the one whose node serves the fewest of the client's reads.
        warm_up, sample: how long to simulate, in times that a client's reads in flight take; only the sample counts.
        lanes: whether storage and background keep to the cluster's virtual lanes, or share one.
        background: other traffic.
    """

    kind: Literal["storage"]
    operation: Literal["read"]
    title: str
    clients: Count
    placement: Literal["spread", "contiguous"] = "spread"
    size: PositiveBytes
    in_flight: Count | None = None
    request_to_send: Natural = 64
    replica_choice: Literal["load_balance", "random"] = "load_balance"
    warm_up: Count = 2
    sample: Count = 4
    lanes: Literal["on", "off"] = "on"
    background: BackgroundSpec | None = None
    file_system: FileSystem

    def __post_init__(self) -> None:
        if self.size > LARGEST_BLOCK_BYTES:
            raise ValueError(f"size is {BYTES.format(self.size)}, a read lies in one block: give 64 MiB or less")
        reads = self.clients * self.reads_in_flight * (self.warm_up + self.sample)
        if reads > MOST_READS:
            raise ValueError(
                f"{reads:,} reads are too many to simulate (ffsim takes {MOST_READS:,}): "
                "use fewer clients, reads in flight or a shorter sample"
            )

    @property
    def reads_in_flight(self) -> int:
        """Reads that a client has under way at any time."""
        return self.file_system.in_flight.value if self.in_flight is None else self.in_flight


FILE_SYSTEM = Shelf("file_system", "file_systems", Path(__file__).parent / "data")
