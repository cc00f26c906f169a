"""All-to-all: every rank sends a part of its own to every other, straight or by way of its node's GPUs."""

from __future__ import annotations

import numpy as np

from ffsim.collectives.data import Collective, Ints, Step, check, check_nodes


def direct_all_to_all(n_ranks: int, size_bytes: float) -> Collective:
    """Every rank sends 1/n of its buffer to every other, all at once.

    Args:
        n_ranks: ranks of the group.
        size_bytes: send buffer of each rank, its own part included.

    >>> direct_all_to_all(1024, 1e6).n_flows
    1047552
    """
    check(n_ranks, size_bytes)
    src, dst = all_pairs(n_ranks)
    return Collective(
        "direct all-to-all", n_ranks, (Step.of(src, dst, size_bytes / n_ranks, exchange=True),), size_bytes
    )


def hierarchical_all_to_all(n_ranks: int, size_bytes: float, *, ranks_per_node: int) -> Collective:
    """What is for GPU j of any node goes to GPU j of the own node first, then along the rail.

    Messages between nodes are as many times larger and fewer as a node has ranks (NCCL's PXN, DeepSpeed's 2D scheme).

    Args:
        n_ranks: ranks of the group, node by node.
        size_bytes: send buffer of each rank, its own part included.
        ranks_per_node: ranks on each node.
    """
    check(n_ranks, size_bytes)
    check_nodes(n_ranks, ranks_per_node)
    n_nodes = n_ranks // ranks_per_node
    near_src, near_dst = _blocks(n_nodes, *all_pairs(ranks_per_node), ranks_per_node)
    far_src, far_dst = all_pairs(n_nodes)
    local = np.arange(ranks_per_node)
    rail_src = (far_src[:, None] * ranks_per_node + local).ravel()
    rail_dst = (far_dst[:, None] * ranks_per_node + local).ravel()
    steps = [
        Step.of(near_src, near_dst, size_bytes / ranks_per_node),
        Step.of(rail_src, rail_dst, size_bytes / n_nodes),
    ]
    return Collective("hierarchical all-to-all", n_ranks, tuple(step for step in steps if len(step.src)), size_bytes)


def all_pairs(n: int) -> tuple[Ints, Ints]:
    """Every ordered pair of different numbers below n, in order."""
    src, other = np.divmod(np.arange(n * (n - 1)), max(n - 1, 1))
    return src, other + (other >= src)


def _blocks(n_nodes: int, src: Ints, dst: Ints, ranks_per_node: int) -> tuple[Ints, Ints]:
    """Pairs within every node."""
    first = np.arange(n_nodes)[:, None] * ranks_per_node
    return (first + src).ravel(), (first + dst).ravel()
