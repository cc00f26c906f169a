"""Which rank of a job runs on which GPU, and which nodes a group gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ffsim.errors import InfeasiblePlan, ModelDomainError, Problem
from ffsim.topology.arrays import Ints, count_up
from ffsim.topology.cluster import Cluster
from ffsim.topology.topology import Topology
from ffsim.topology.two_zone import Zones

Spreading = Literal["in-zone", "cross-zone", "spread"]
SPREADINGS: tuple[Spreading, ...] = get_args(Spreading)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """The GPU of every rank.

    Attributes:
        gpu: ``[n_ranks]``.
        gpus_per_node: GPUs of one node.
    """

    gpu: Ints
    gpus_per_node: int

    def __len__(self) -> int:
        return len(self.gpu)

    @property
    def node(self) -> Ints:
        """``[n_ranks]``, the node of every rank."""
        return self.gpu // self.gpus_per_node

    @property
    def local(self) -> Ints:
        """``[n_ranks]``, the rank's GPU counted within its node."""
        return self.gpu % self.gpus_per_node


def place_contiguously(cluster: Cluster, n_ranks: int) -> Placement:
    """Put rank ``r`` on GPU ``r``.

    Raises:
        InfeasiblePlan: more ranks than GPUs.
        ValueError: ``n_ranks < 1``.

    >>> from ffsim.topology import load_cluster
    >>> place_contiguously(load_cluster("h800-2048"), 16).node.tolist()[6:10]
    [0, 0, 1, 1]
    """
    if n_ranks < 1:
        raise ValueError(f"need n_ranks >= 1, got {n_ranks}")
    if n_ranks > cluster.n_gpus:
        raise InfeasiblePlan(
            Problem(
                where=cluster.name,
                what=f"{n_ranks:,} ranks need a GPU each and there are {cluster.n_gpus:,}",
                fix="use a smaller plan or a larger cluster",
            )
        )
    return Placement(gpu=count_up(n_ranks), gpus_per_node=cluster.gpus_per_node)


def node_zones(topology: Topology) -> Ints:
    """The zone of every compute node: ``[n_nodes]``, all 0 where the fabric has no zones."""
    wiring = topology.wiring
    nodes = count_up(wiring.node.count)
    fabric = wiring.fabric
    return fabric.zone[nodes * wiring.node.nics] if isinstance(fabric, Zones) else np.zeros_like(nodes)


def place_groups(topology: Topology, n_nodes: int, n_groups: int, how: Spreading) -> Ints:
    """Choose nodes for groups of equal size that share no node.

    Args:
        topology: the cluster.
        n_nodes: nodes of each group.
        n_groups: groups at once.
        how: ``in-zone`` puts a group on neighbouring nodes of one zone (of the cluster, without zones); ``cross-zone``
            half of it on neighbours in either zone; ``spread`` deals groups out over evenly spaced nodes of the whole
            cluster in turn, so that they share leaves.

    Returns:
        ``[n_groups, n_nodes]``, rising within a group.

    Raises:
        InfeasiblePlan: there are not so many nodes.
        ModelDomainError: ``cross-zone`` without two zones, or an odd number of nodes.

    >>> from ffsim.topology import build_topology, load_cluster
    >>> place_groups(build_topology(load_cluster("fire-flyer-2")), 4, 1, "cross-zone").tolist()
    [[0, 1, 625, 626]]
    """
    zone = node_zones(topology)
    zones = [np.flatnonzero(zone == one) for one in range(int(zone.max()) + 1)]
    if how == "spread":
        _refuse_too_many(topology, n_nodes * n_groups, len(zone), "in the cluster")
        dealt: Ints = count_up(n_nodes * n_groups) * len(zone) // (n_nodes * n_groups)
        return dealt.reshape(n_nodes, n_groups).T
    if how == "cross-zone":
        if len(zones) != 2 or n_nodes % 2:
            what = f"{n_nodes} nodes do not split over two zones" if len(zones) == 2 else "the fabric has no zones"
            raise ModelDomainError(
                Problem(where=topology.name, path="placement", what=what, fix="use in-zone or spread")
            )
        half = n_nodes // 2
        _refuse_too_many(topology, half * n_groups, min(map(len, zones)), "in each zone")
        return np.hstack([nodes[: half * n_groups].reshape(n_groups, half) for nodes in zones])
    where = "in one zone" if len(zones) > 1 else "in the cluster"
    per_zone = [len(nodes) // n_nodes for nodes in zones]
    if sum(per_zone) < n_groups:
        _refuse_too_many(topology, n_nodes, max(map(len, zones)), where)
        _refuse_too_many(topology, n_nodes * n_groups, n_nodes * sum(per_zone), f"for groups of {n_nodes}")
    groups = [nodes[: count * n_nodes].reshape(count, n_nodes) for nodes, count in zip(zones, per_zone, strict=True)]
    return np.concatenate(groups)[:n_groups]


def _refuse_too_many(topology: Topology, wanted: int, there: int, where: str) -> None:
    if wanted > there:
        fix = "use fewer nodes" if where == "in the cluster" else "use fewer nodes, or another placement"
        raise InfeasiblePlan(
            Problem(where=topology.name, path="nodes", what=f"{wanted:,} are wanted and {there:,} are {where}", fix=fix)
        )
