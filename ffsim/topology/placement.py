"""Which rank of a job runs on which GPU."""

from __future__ import annotations

from dataclasses import dataclass

from ffsim.errors import InfeasiblePlan, Problem
from ffsim.topology.arrays import Ints, count_up
from ffsim.topology.cluster import Cluster


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
