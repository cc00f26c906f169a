"""Double binary tree allreduce: two trees, each with half of the buffer, cut into chunks that follow each other.

A rank inside one tree is a leaf of the other, so that every rank sends and receives the same in total.
Source: Sanders, Speck & Träff 2009; tree shape as in NCCL.
"""

from __future__ import annotations

import math

import numpy as np

from ffsim.collectives.data import Collective, Ints, Step, check


def double_tree_all_reduce(n_ranks: int, size_bytes: float, *, chunks: int = 16) -> Collective:
    """Every rank ends with the sum: reduce up both trees, broadcast down, chunks in a pipeline.

    Args:
        n_ranks: ranks of the group.
        size_bytes: buffer on each rank.
        chunks: pieces that each half of the buffer is cut into.

    Raises:
        ValueError: ``n_ranks < 1``, a negative size, ``chunks < 1``.

    >>> double_tree_all_reduce(1250, 1e9, chunks=16).n_flows
    79936
    """
    check(n_ranks, size_bytes)
    if chunks < 1:
        raise ValueError(f"need chunks >= 1, got {chunks}")
    if n_ranks == 1:
        return Collective("double tree allreduce", 1, (), size_bytes)
    trees = [parents(n_ranks), _other_parents(n_ranks)]
    depths = [_depths(parent) for parent in trees]
    height = int(max(depth.max() for depth in depths))
    piece = size_bytes / 2 / chunks
    steps = []
    for time in range(chunks + 2 * height - 1):
        flows = [_flows(parent, depth, height, time, chunks) for parent, depth in zip(trees, depths, strict=True)]
        src, dst = (np.concatenate(ends) for ends in zip(*flows, strict=True))
        if len(src):
            steps.append(Step.of(src, dst, piece))
    return Collective("double tree allreduce", n_ranks, tuple(steps), size_bytes)


def double_tree_all_reduce_s(
    size_bytes: float, n_ranks: int, bandwidth_bytes_per_s: float, latency_s: float, chunks: int = 16
) -> float:
    """Time of a pipelined double tree on full-duplex links that carry nothing else.

    With h levels and k chunks, chunk after chunk crosses 2h edges: about ``(k + 2h - 1)`` steps. In a full step an
    inner rank receives from two children and its parent one piece each of size/2k, in its other tree one more as a
    leaf: ``T <= (k + 2h - 1) (latency + 2 size / (k bandwidth))``, for many chunks ``2 size / bandwidth`` as a ring.

    Domain: an upper bound, tight within the filling of the pipeline; one rank per NIC.
    """
    check(n_ranks, size_bytes)
    if n_ranks == 1:
        return 0.0
    height = math.ceil(math.log2(n_ranks + 1))
    return (chunks + 2 * height - 1) * (latency_s + 2 * size_bytes / chunks / bandwidth_bytes_per_s)


def parents(n_ranks: int) -> Ints:
    """Parent of each rank in the first tree, -1 for the root (rank 0); odd ranks are leaves.

    >>> parents(6).tolist()
    [-1, 2, 4, 2, 0, 4]
    """
    result = np.full(n_ranks, -1)
    for rank in range(1, n_ranks):
        bit = rank & -rank
        up = (rank ^ bit) | (bit << 1)
        result[rank] = up if up < n_ranks else rank ^ bit
    return result


def _other_parents(n_ranks: int) -> Ints:
    """Parents in the second tree: the first one mirrored, or shifted by one where the number of ranks is odd."""
    first = parents(n_ranks)
    rank = np.arange(n_ranks)
    if n_ranks % 2 == 0:
        mirrored = first[::-1]
        return np.where(mirrored < 0, -1, n_ranks - 1 - mirrored)
    result = np.full(n_ranks, -1)
    result[(rank + 1) % n_ranks] = np.where(first < 0, -1, (first + 1) % n_ranks)
    return result


def _depths(parent: Ints) -> Ints:
    depth = np.zeros(len(parent), dtype=np.int64)
    ancestor = parent.copy()
    while (ancestor >= 0).any():
        depth += ancestor >= 0
        ancestor = np.where(ancestor >= 0, parent[ancestor], -1)
    return depth


def _flows(parent: Ints, depth: Ints, height: int, time: int, chunks: int) -> tuple[Ints, Ints]:
    """Edges of one tree that carry a chunk at a time: up for the sum, down for the result."""
    child = np.flatnonzero(parent >= 0)
    rising = time - (height - depth[child])
    falling = time - (height + depth[child] - 1)
    up = child[(rising >= 0) & (rising < chunks)]
    down = child[(falling >= 0) & (falling < chunks)]
    return np.concatenate([up, parent[down]]), np.concatenate([parent[up], down])
