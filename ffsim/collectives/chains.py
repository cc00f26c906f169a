"""Broadcast along a chain, and barriers."""

from __future__ import annotations

import numpy as np

from ffsim.collectives.data import Collective, Step, check
from ffsim.collectives.pattern import Pattern, check_flows


def ring_broadcast(n_ranks: int, size_bytes: float, *, chunks: int = 16) -> Pattern:
    """Rank 0 sends to rank 1, rank 1 to rank 2 and so on, chunks in a pipeline.

    Args:
        n_ranks: ranks of the group.
        size_bytes: buffer on each rank.
        chunks: pieces that the buffer is cut into.

    Raises:
        ValueError: ``n_ranks < 1``, a negative size, ``chunks < 1``.

    >>> ring_broadcast(4, 1e9, chunks=10).n_flows
    30
    """
    check(n_ranks, size_bytes)
    if chunks < 1:
        raise ValueError(f"need chunks >= 1, got {chunks}")
    check_flows("ring broadcast", (n_ranks - 1) * chunks, "use fewer chunks or nodes")
    rank = np.arange(n_ranks - 1)
    flow = np.arange(chunks * len(rank)).reshape(chunks, len(rank))
    along = np.stack([flow[:, :-1].ravel(), flow[:, 1:].ravel()], axis=1)
    behind = np.stack([flow[:-1].ravel(), flow[1:].ravel()], axis=1)
    return Pattern(
        name="ring broadcast",
        n_ranks=n_ranks,
        src=rank,
        dst=rank + 1,
        pair=np.tile(rank, chunks),
        bytes_=np.full(flow.size, size_bytes / chunks),
        edges=np.concatenate([along, behind]),
        size_bytes=size_bytes,
    )


def ring_broadcast_s(
    size_bytes: float, n_ranks: int, bandwidth_bytes_per_s: float, latency_s: float, chunks: int = 16
) -> float:
    """Time of a pipelined chain on links that carry nothing else: ``(k + n - 2) (latency + size / (k bandwidth))``.

    >>> ring_broadcast_s(1e9, 2, 25e9, 0.0)
    0.04
    """
    check(n_ranks, size_bytes)
    if n_ranks == 1:
        return 0.0
    return (chunks + n_ranks - 2) * (latency_s + size_bytes / chunks / bandwidth_bytes_per_s)


def dissemination_barrier(n_ranks: int) -> Collective:
    """Nobody leaves before everybody has come: in round i rank r tells rank r + 2^i.

    Source: Hensgen, Finkel & Manber 1988.

    >>> len(dissemination_barrier(100).steps)
    7
    """
    check(n_ranks, 0.0)
    rank = np.arange(n_ranks)
    rounds = max(n_ranks - 1, 0).bit_length()
    steps = tuple(Step.of(rank, (rank + 2**i) % n_ranks, 0.0) for i in range(rounds))
    return Collective("dissemination barrier", n_ranks, steps, 0.0)
