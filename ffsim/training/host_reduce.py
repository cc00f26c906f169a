"""HFReduce as a message of a training step: what it asks of the links, and the time it takes beyond them.

The collective is simulated by itself (`ffsim.collectives.hfreduce`) once per size and number of nodes in each zone, on
the first such nodes of the plan; in the step it moves the same bytes over the same links, which it shares with
everything else, and what it takes beyond its busiest link (filling and draining the pipeline of chunks) goes before. So
alone it takes exactly what was simulated. Domain: a fabric that holds up none of these groups more than another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from ffsim.collectives import N_CLASSES, HfReduce, HfReduceFigures, hfreduce, load_hfreduce
from ffsim.engine import simulate_flows
from ffsim.topology import Topology
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]

MAX_CHUNK_NODES = 512  # chunks times nodes that are simulated; what is longer goes on at the pace of the last half
MIN_CHUNKS = 32
LEAST_BYTES = 4096.0


@dataclass(frozen=True, slots=True, eq=False)
class HostReduction:
    """HFReduce over some nodes.

    Attributes:
        topology: the cluster.
        nodes: whose GPUs all take part.
        nvlink: pairs add up over their bridge first.
        loads: ``[n_links]`` bytes on every link per byte of the buffer.
        bytes_: ``[N_CLASSES]`` on the busiest link of each class per byte of the buffer.
        capacity_bytes_per_s: ``[N_CLASSES]`` of that link, infinite where a class is not used.
    """

    topology: Topology
    nodes: tuple[int, ...]
    nvlink: bool
    loads: Floats
    bytes_: Floats
    capacity_bytes_per_s: Floats

    @classmethod
    def of(cls, topology: Topology, nodes: tuple[int, ...], *, nvlink: bool) -> HostReduction:
        """Look up what it asks of the links; exact where trees take turns evenly, as they do in long buffers."""
        chunk = _figures().chunk.value
        size = MIN_CHUNKS * chunk
        loads = link_loads(_spelled_out(topology, nodes, size, nvlink=nvlink), topology.n_links) / size
        bytes_, capacity = np.zeros(N_CLASSES), np.full(N_CLASSES, np.inf)
        seconds, classes = topology.busy_s(loads), topology.link_class
        used = np.flatnonzero(loads)
        for one in np.unique(classes[used]):
            busiest = used[classes[used] == one]
            link = busiest[seconds[busiest].argmax()]
            bytes_[one], capacity[one] = loads[link], topology.bandwidth_bytes_per_s[link]
        return cls(topology, nodes, nvlink, loads, bytes_, capacity)

    def seconds(self, size_bytes: float) -> float:
        """Time on idle links, between the sizes that are simulated by straight lines."""
        chunk, size = _figures().chunk.value, max(size_bytes, LEAST_BYTES)
        longest = max(MIN_CHUNKS, MAX_CHUNK_NODES // len(self.nodes)) * chunk
        left, right = LEAST_BYTES, chunk
        while right < min(size, longest):
            left, right = right, 2 * right
        at_left, at_right = (_simulated_s(self.topology, self.nodes, one, nvlink=self.nvlink) for one in (left, right))
        return at_left + (size - left) / (right - left) * (at_right - at_left)

    def excess_s(self, size_bytes: float) -> float:
        """Time beyond what the busiest link needs."""
        wire_s = size_bytes * float((self.bytes_ / self.capacity_bytes_per_s).max(initial=0.0))
        return max(0.0, self.seconds(size_bytes) - wire_s)


def link_loads(operation: HfReduce, n_links: int) -> Floats:
    """``[n_links]`` bytes on every link."""
    flows = operation.flows
    moved = np.repeat(flows.size_bytes, np.diff(flows.links.start))
    moved = moved if flows.weight is None else moved * flows.weight
    loads: Floats = np.bincount(flows.links.values, moved, minlength=n_links)
    return loads


@cache
def _figures() -> HfReduceFigures:
    return load_hfreduce()


def _spelled_out(topology: Topology, nodes: tuple[int, ...], size_bytes: float, *, nvlink: bool) -> HfReduce:
    return hfreduce(topology, nodes, size_bytes, _figures(), nvlink=nvlink)


@lru_cache(maxsize=256)
def _simulated_s(topology: Topology, nodes: tuple[int, ...], size_bytes: float, *, nvlink: bool) -> float:
    flows = _spelled_out(topology, nodes, size_bytes, nvlink=nvlink).flows
    return simulate_flows(flows, topology.bandwidth_bytes_per_s).makespan_s


def reduces_in_hosts(inputs: Inputs) -> bool:
    """Whether HFReduce reduces the gradients."""
    return inputs.spec.plan.gradient_reduction != "nccl"


def host_obstacles(inputs: Inputs, layout: Layout) -> Iterator[tuple[str, str, str]]:
    """What keeps HFReduce from reducing the gradients of a plan: (key, what, fix)."""
    plan, cluster = inputs.spec.plan, inputs.cluster
    if not reduces_in_hosts(inputs):
        return
    key, interconnect = "gradient_reduction", cluster.spec.nodes.interconnect
    if interconnect == "nvswitch":
        what = f"HFReduce is for nodes whose GPUs meet on PCIe, {cluster.name} has an NVSwitch"
        yield key, what, "use gradient_reduction: nccl"
    elif plan.gradient_reduction == "hfreduce-nvlink" and interconnect != "nvlink_pairs":
        yield key, f"{cluster.name} has no NVLink bridges", "use gradient_reduction: hfreduce"
    if plan.ep > 1:
        what = f"HFReduce adds up all GPUs of a node, experts over {plan.ep} ranks are not the same on them"
        yield key, what, "use gradient_reduction: nccl, or ep: 1"
    elif not _whole_nodes(layout, cluster.gpus_per_node):
        what = (
            f"HFReduce adds up all {cluster.gpus_per_node} GPUs of a node, "
            "here some of them hold other parameters or another stage"
        )
        yield key, what, "use gradient_reduction: nccl, or tp: 1 and data-parallel groups that fill nodes"


def _whole_nodes(layout: Layout, gpus_per_node: int) -> bool:
    for rank in range(layout.pp):
        for group in layout.groups("data", rank) // gpus_per_node:
            if (np.unique(group, return_counts=True)[1] != gpus_per_node).any():
                return False
    return True


def nodes_of(groups: Ints, gpus_per_node: int) -> tuple[int, ...]:
    """Nodes of the first of some groups that are alike, in the order of its ranks."""
    nodes = (groups[0] // gpus_per_node).tolist()
    return tuple(dict.fromkeys(nodes))
