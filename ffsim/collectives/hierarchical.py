"""Allreduce in two stages: inside each node first, then along the rails between nodes."""

from __future__ import annotations

import numpy as np

from ffsim.collectives.data import Collective, Step, check, check_nodes
from ffsim.collectives.rings import ring_all_reduce, ring_reduce_scatter


def hierarchical_all_reduce(n_ranks: int, size_bytes: float, *, ranks_per_node: int) -> Collective:
    """Reduce-scatter within nodes, one ring allreduce a rail between them, all-gather within nodes.

    Args:
        n_ranks: ranks of the group, node by node.
        size_bytes: buffer on each rank.
        ranks_per_node: ranks on each node.
    """
    check(n_ranks, size_bytes)
    check_nodes(n_ranks, ranks_per_node)
    n_nodes, m = n_ranks // ranks_per_node, ranks_per_node
    scatter = ring_reduce_scatter(m, size_bytes, ranks_per_node=m)
    rails = ring_all_reduce(n_nodes, size_bytes / m)
    first, local = np.arange(n_nodes)[:, None] * m, np.arange(m)[:, None]

    def within(step: Step) -> Step:
        return Step((first + step.src).ravel(), (first + step.dst).ravel(), np.tile(step.bytes_, n_nodes), step.repeat)

    def along(step: Step) -> Step:
        return Step(
            (step.src * m + local).ravel(), (step.dst * m + local).ravel(), np.tile(step.bytes_, m), step.repeat
        )

    inner = tuple(within(step) for step in scatter.steps)
    steps = (*inner, *(along(step) for step in rails.steps), *inner)
    return Collective("hierarchical allreduce", n_ranks, steps, size_bytes)
