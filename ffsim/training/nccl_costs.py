"""What NCCL takes for the collectives of a plan's groups, by the figures that ``ffsim collective`` uses."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np

from ffsim.collectives import (
    Collective,
    NcclLibrary,
    NcclTime,
    NodeLinks,
    Step,
    direct_all_to_all,
    load_nccl,
    nccl_time,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
)
from ffsim.collectives.nccl import Algorithm, Operation
from ffsim.collectives.nccl_flows import OVER_PCIE, links_of
from ffsim.training.inputs import Inputs

Ints = np.ndarray[Any, Any]
GroupOperation = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ring"]
OVER_BRIDGE = "nccl-bridge3"
NCCL_NAMES: dict[GroupOperation, Operation] = {
    "all-reduce": "all_reduce",
    "all-gather": "all_gather",
    "reduce-scatter": "reduce_scatter",
    "all-to-all": "all_to_all",
    "ring": "send_recv",
}


class Nccl:
    """NCCL on a cluster: its library for each kind of link, and what the links of a group offer, looked up once."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._links: dict[tuple[bytes, bytes, bool], NodeLinks] = {}

    def time(self, operation: GroupOperation, size_bytes: float, groups: Ints) -> NcclTime:
        """Time of what each of some groups does, on links of its own.

        Args:
            operation: what is done; ``ring``: every rank sends to the next, n-1 times, one send after the other.
            size_bytes: as in `ffsim.model.lowering.Exchange`.
            groups: ``[n_groups, n_ranks]`` GPUs, all groups alike; the first stands for all.
        """
        n, per_node = groups.shape[1], ranks_per_node(groups // self._inputs.cluster.gpus_per_node)
        library, links = self._library(groups), self._links_of(groups, per_node)
        if operation != "ring":
            return nccl_time(NCCL_NAMES[operation], size_bytes, n, per_node, links, library)
        rounds = n - 1
        one = nccl_time("send_recv", size_bytes / rounds, 2, 2 if per_node == n else 1, links, library)
        return NcclTime(
            algorithm=one.algorithm,
            protocol=one.protocol,
            launch_s=rounds * one.launch_s,
            latency_s=rounds * one.latency_s,
            transfer_s=rounds * one.transfer_s,
        )

    def _library(self, groups: Ints) -> NcclLibrary:
        cluster = self._inputs.cluster
        if self._bridged(groups):
            return _library(OVER_BRIDGE)
        switched = cluster.spec.nodes.interconnect == "nvswitch" and cluster.gpu.nccl is not None
        return _library(cluster.gpu.nccl if switched and cluster.gpu.nccl else OVER_PCIE)

    def _bridged(self, groups: Ints) -> bool:
        """Whether all groups are pairs of cards joined by a bridge."""
        joined = self._inputs.cluster.spec.nodes.interconnect == "nvlink_pairs" and groups.shape[1] == 2
        return joined and bool((groups[:, 0] // 2 == groups[:, 1] // 2).all())

    def _links_of(self, groups: Ints, per_node: int) -> NodeLinks:
        cluster, bridged = self._inputs.cluster, self._bridged(groups)
        nodes, places = np.unique(groups[0] // cluster.gpus_per_node), groups[0, :per_node] % cluster.gpus_per_node
        key = (nodes.tobytes() if len(nodes) > 1 else b"", places.tobytes(), bridged)
        if key not in self._links:
            if bridged and cluster.gpu.scale_up is not None:
                self._links[key] = NodeLinks(inside_bytes_per_s=cluster.gpu.scale_up.value)
            else:
                self._links[key] = links_of(cluster, self._inputs.topology, nodes, places)
        return self._links[key]


@cache
def _library(name: str) -> NcclLibrary:
    return load_nccl(name)


def unit_collective(operation: GroupOperation, algorithm: Algorithm, n_ranks: int, per_node: int) -> Collective:
    """Who sends how much to whom, for one byte of ``size_bytes``.

    Trees load a node's links as rings do, to within the roots' share: their bytes are those of rings.
    """
    rank = np.arange(n_ranks)
    if operation == "ring":
        step = Step.of(rank, (rank + 1) % n_ranks, 1 / (n_ranks - 1), n_ranks - 1)
        return Collective("ring exchange", n_ranks, (step,), 1.0)
    if operation == "all-to-all":
        return direct_all_to_all(n_ranks, 1.0)
    if algorithm in {"nvls", "one_shot"}:  # every rank to the switch and back, once
        return Collective(algorithm, n_ranks, (Step.of(rank, (rank + 1) % n_ranks, 1.0),), 1.0)
    ring = {"all-reduce": ring_all_reduce, "all-gather": ring_all_gather, "reduce-scatter": ring_reduce_scatter}
    return ring[operation](n_ranks, 1.0, ranks_per_node=per_node)


def ranks_per_node(nodes: Ints) -> int:
    """Consecutive ranks that every node holds; where nodes hold different numbers, in blocks that divide them all.

    Args:
        nodes: ``[n_groups, n_ranks]`` node of every rank.
    """
    n = nodes.shape[1]
    borders = np.diff(nodes, axis=1, prepend=-1, append=-1) != 0  # both ends of every row, too
    places = np.nonzero(borders)[1]
    return int(np.gcd.reduce(places, initial=n))
