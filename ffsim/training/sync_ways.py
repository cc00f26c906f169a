"""What NCCL's collectives take in a training step: as `ffsim collective` has them, on links that others use too.

The bytes are those of a ring, folded to the links of one rank. What NCCL's protocol leaves of their rate is made up for
by more bytes, launch and steps go before: alone on its links a collective takes what `nccl_time` says, or longer where
a link of the cluster gives less than the library would use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from ffsim.collectives import NcclLibrary, NodeLinks, fold, load_nccl, nccl_time, ring_all_reduce, ring_reduce_scatter
from ffsim.collectives.exchange import direct_all_to_all
from ffsim.collectives.nccl import Operation
from ffsim.collectives.nccl_flows import OVER_PCIE, links_of
from ffsim.topology import Topology
from ffsim.training.inputs import Inputs

Ints = np.ndarray[Any, Any]

OVER_BRIDGE = "nccl-bridge3"


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclCost:
    """One collective of one group on idle links.

    Attributes:
        fixed_s: launch and latency of all steps.
        transfer_s: bytes over the busiest link, as NCCL moves them.
        wire_s: the same at the full rate of the links.
        one_node: whether nothing leaves the node.
    """

    fixed_s: float
    transfer_s: float
    wire_s: float
    one_node: bool

    @property
    def stretch(self) -> float:
        """Bytes to count for each byte of the ring; fewer only where NVSwitches add up."""
        if self.wire_s <= 0:
            return 1.0
        return self.transfer_s / self.wire_s if self.one_node else max(1.0, self.transfer_s / self.wire_s)

    @property
    def seconds(self) -> float:
        """Time on idle links."""
        return self.fixed_s + self.wire_s * self.stretch


@dataclass(frozen=True, slots=True, eq=False)
class NcclGroup:
    """Ranks of a group and where they are; made once, as asking for it is dear.

    Attributes:
        members: ``[n_ranks]`` GPUs.
        ranks_per_node: consecutive ranks that every node holds.
        nodes: in the order of the ranks.
        bridged: two GPUs that a bridge joins.
    """

    members: Ints
    ranks_per_node: int
    nodes: Ints
    bridged: bool

    @classmethod
    def of(cls, inputs: Inputs, groups: Ints) -> NcclGroup:
        """The first of some groups that are alike."""
        members = groups[0]
        nodes = groups // inputs.cluster.gpus_per_node
        pair = len(members) == 2 and members[0] // 2 == members[1] // 2
        return cls(
            members=members,
            ranks_per_node=ranks_per_node(nodes),
            nodes=np.array(list(dict.fromkeys(nodes[0].tolist())), dtype=np.int64),
            bridged=bool(pair and inputs.cluster.spec.nodes.interconnect == "nvlink_pairs"),
        )


def ranks_per_node(nodes: Ints) -> int:
    """Consecutive ranks that every node holds; where nodes hold different numbers, in blocks that divide them all.

    Args:
        nodes: ``[n_groups, n_ranks]`` node of every rank.
    """
    borders = np.diff(nodes, axis=1, prepend=-1, append=-1) != 0  # both ends of every row, too
    places = np.nonzero(borders)[1]
    return int(np.gcd.reduce(places, initial=nodes.shape[1]))


def nccl_cost(inputs: Inputs, op: Operation, size_bytes: float, group: NcclGroup | Ints) -> NcclCost:
    """What one collective of one group takes alone.

    Args:
        inputs: the cluster.
        op: as for `nccl_time`.
        size_bytes: of the whole buffer of a rank, as for `nccl_time`.
        group: the group, or ``[n_groups, n_ranks]`` GPUs of several that are alike.
    """
    if not isinstance(group, NcclGroup):
        group = NcclGroup.of(inputs, group)
    n, cluster = len(group.members), inputs.cluster
    links, library = _way(inputs, group)
    time = nccl_time(op, size_bytes, n, group.ranks_per_node, links, library)
    per_byte = _wire_s_per_byte(inputs.topology, op, group.members.tobytes(), group.ranks_per_node)
    return NcclCost(
        fixed_s=time.launch_s + time.latency_s,
        transfer_s=time.transfer_s,
        wire_s=per_byte * size_bytes,
        one_node=bool((group.members // cluster.gpus_per_node == group.members[0] // cluster.gpus_per_node).all()),
    )


def _way(inputs: Inputs, group: NcclGroup) -> tuple[NodeLinks, NcclLibrary]:
    """The links that a group uses, and NCCL's figures for them."""
    cluster, gpu = inputs.cluster, inputs.cluster.gpu
    if group.bridged and gpu.scale_up is not None:
        return NodeLinks(inside_bytes_per_s=gpu.scale_up.value), _library(OVER_BRIDGE)
    switched = cluster.spec.nodes.interconnect == "nvswitch" and gpu.nccl is not None
    library = _library(gpu.nccl if switched and gpu.nccl else OVER_PCIE)
    return links_of(cluster, inputs.topology, group.nodes, group.ranks_per_node), library


@cache
def _library(name: str) -> NcclLibrary:
    return load_nccl(name)


@lru_cache(maxsize=1024)
def _wire_s_per_byte(topology: Topology, op: Operation, members: bytes, per_node: int) -> float:
    """Seconds on the busiest link per byte of the buffer."""
    gpus = np.frombuffer(members, dtype=np.int64)
    n = len(gpus)
    if op == "all_to_all":
        collective = direct_all_to_all(n, 1.0)
    else:
        ring = ring_all_reduce if op == "all_reduce" else ring_reduce_scatter
        collective = ring(n, 1.0, ranks_per_node=per_node)
    demand = fold(collective, topology, gpus[None, :])
    return demand.idle_s - demand.latency_s
