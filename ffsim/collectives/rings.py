"""Ring algorithms: reduce-scatter, all-gather, and both in turn for an allreduce.

Source: Patarasuk & Yuan 2009. On nodes with several NICs the buffer is cut into channels, each with a ring of its own
that enters and leaves every node by another NIC, as NCCL builds them.
"""

from __future__ import annotations

import numpy as np

from ffsim.collectives.data import Collective, Ints, Step, check, check_nodes


def ring_reduce_scatter(n_ranks: int, size_bytes: float, *, ranks_per_node: int = 1) -> Collective:
    """Every rank ends with its share of the sum.

    Args:
        n_ranks: ranks of the group, node by node.
        size_bytes: input buffer on each rank.
        ranks_per_node: ranks on each node; as many channels are used.
    """
    return _passes("ring reduce-scatter", n_ranks, size_bytes, ranks_per_node, 1)


def ring_all_gather(n_ranks: int, size_bytes: float, *, ranks_per_node: int = 1) -> Collective:
    """Every rank ends with everybody's share; ``size_bytes`` is the output buffer on each rank."""
    return _passes("ring all-gather", n_ranks, size_bytes, ranks_per_node, 1)


def ring_all_reduce(n_ranks: int, size_bytes: float, *, ranks_per_node: int = 1) -> Collective:
    """Every rank ends with the sum; ``size_bytes`` is the buffer on each rank."""
    return _passes("ring allreduce", n_ranks, size_bytes, ranks_per_node, 2)


def ring_all_reduce_s(size_bytes: float, n_ranks: int, bandwidth_bytes_per_s: float, latency_s: float) -> float:
    """Time of a ring allreduce on links that carry nothing else.

    Two passes of n-1 steps, each moving size/n per rank: ``T = 2 (n-1) (latency + size / (n bandwidth))``.

    Args:
        size_bytes: buffer on each rank.
        n_ranks: ranks of the ring, >= 1.
        bandwidth_bytes_per_s: of the slowest link of the ring.
        latency_s: of one step.

    Raises:
        ValueError: ``n_ranks < 1`` or ``size_bytes < 0``.

    Source: Patarasuk & Yuan 2009. Domain: one channel, bandwidth-bound sizes, no protocol overhead.

    >>> ring_all_reduce_s(1e9, 4, 25e9, 0.0)
    0.06
    """
    check(n_ranks, size_bytes)
    return 2 * (n_ranks - 1) * (latency_s + size_bytes / n_ranks / bandwidth_bytes_per_s)


def _passes(name: str, n_ranks: int, size_bytes: float, ranks_per_node: int, n_passes: int) -> Collective:
    check(n_ranks, size_bytes)
    check_nodes(n_ranks, ranks_per_node)
    if n_ranks == 1:
        return Collective(name, 1, (), size_bytes)
    orders = channel_orders(n_ranks, ranks_per_node)
    src, dst = orders.ravel(), np.roll(orders, -1, axis=1).ravel()
    step = Step.of(src, dst, size_bytes / len(orders) / n_ranks, n_passes * (n_ranks - 1))
    return Collective(name, n_ranks, (step,), size_bytes)


def channel_orders(n_ranks: int, ranks_per_node: int) -> Ints:
    """The order in which each channel's ring visits the ranks.

    Every channel leaves a node by the place at which it enters the next, so that it stays on one rail (one NIC of every
    node), and every NIC carries one ring in and one ring out. With an odd number of nodes of two ranks that cannot be:
    there the last hop of each ring changes rails.

    Returns:
        ``[n_channels, n_ranks]``; a single channel where a node has one rank or all ranks are on one node.

    >>> channel_orders(4, 2).tolist()
    [[0, 1, 3, 2], [1, 0, 2, 3]]
    """
    m, n_nodes = ranks_per_node, n_ranks // ranks_per_node
    if n_nodes == 1 or m == 1:
        return np.arange(n_ranks)[None, :]
    enter = np.arange(n_nodes) % 2
    if n_nodes % 2 and m > 2:
        enter[-1] = 2  # the last node turns back to where the first was entered
    leave = np.roll(enter, -1) if m > 2 else 1 - enter
    places = np.array([_through(m, *ends) for ends in zip(enter.tolist(), leave.tolist(), strict=True)])
    local = (np.arange(m)[:, None, None] + places) % m
    orders: Ints = (np.arange(n_nodes)[:, None] * m + local).reshape(m, n_ranks)
    return orders


def _through(n_places: int, enter: int, leave: int) -> list[int]:
    """All places of a node, from where a ring enters it to where it leaves; from neighbour to neighbour if possible."""
    if abs(leave - enter) == 1:
        return [(enter + (enter - leave) * step) % n_places for step in range(n_places)]
    return [enter, *(place for place in range(n_places) if place not in {enter, leave}), leave]
