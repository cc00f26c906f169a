"""Double binary tree allreduce: two trees, each with half of the buffer, cut into chunks that follow each other.

A rank inside one tree is a leaf of the other, so that every rank sends and receives the same in total.
Source: Sanders, Speck & Träff 2009; tree shape as in NCCL.
"""

from __future__ import annotations

import math

import numpy as np

from ffsim.collectives.data import Ints, check, check_nodes
from ffsim.collectives.pattern import Pattern, check_flows


def double_tree_all_reduce(n_ranks: int, size_bytes: float, *, chunks: int = 16) -> Pattern:
    """Every rank ends with the sum: reduce up both trees, broadcast down, chunks in a pipeline.

    A rank passes a chunk on when it has it from all of its children (or its parent) and the chunk before is gone.

    Args:
        n_ranks: ranks of the group.
        size_bytes: buffer on each rank.
        chunks: pieces that each half of the buffer is cut into.

    Raises:
        ValueError: ``n_ranks < 1``, a negative size, ``chunks < 1``.

    >>> double_tree_all_reduce(1250, 1e9, chunks=16).n_flows
    79936
    """
    return _over_both_trees("double tree allreduce", n_ranks, size_bytes, chunks, reduce=True)


def double_tree_broadcast(n_ranks: int, size_bytes: float, *, chunks: int = 16) -> Pattern:
    """Every rank ends with the buffer of the roots: rank 0 of the first tree, its mirror image in the second.

    NCCL broadcasts from any root by a ring; this is the way down of the allreduce, with the source on two ranks.
    """
    return _over_both_trees("double tree broadcast", n_ranks, size_bytes, chunks, reduce=False)


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


def chained_tree_all_reduce(
    n_ranks: int, size_bytes: float, *, ranks_per_node: int, channels: int = 1, chunks: int = 16
) -> Pattern:
    """Double trees over nodes, in each of which the ranks form a chain, as NCCL builds them.

    Args:
        n_ranks: ranks of the group, node by node.
        size_bytes: buffer on each rank.
        ranks_per_node: ranks on each node.
        channels: pairs of trees side by side, each with its part of the buffer and other ranks at the nodes' doors.
        chunks: pieces that each tree's part of the buffer is cut into.
    """
    check_nodes(n_ranks, ranks_per_node)
    n_nodes, m = n_ranks // ranks_per_node, ranks_per_node
    trees = []
    for channel in range(channels):
        for number, parent in enumerate([parents(n_nodes), second_parents(n_nodes)]):
            door = (channel * m // channels + number * (m // 2 // channels)) % m
            chain = (np.arange(m) + door) % m
            rank = np.arange(n_nodes)[:, None] * m + chain
            up = np.where(parent < 0, -1, parent * m + door)
            above = np.empty(n_ranks, dtype=np.int64)
            above[rank] = np.column_stack([up, rank[:, :-1]])
            trees.append(above)
    return _over_trees("chained double tree allreduce", trees, size_bytes, chunks, reduce=True)


def _over_both_trees(name: str, n_ranks: int, size_bytes: float, chunks: int, *, reduce: bool) -> Pattern:
    check(n_ranks, size_bytes)
    return _over_trees(name, [parents(n_ranks), second_parents(n_ranks)], size_bytes, chunks, reduce=reduce)


def _over_trees(name: str, trees: list[Ints], size_bytes: float, chunks: int, *, reduce: bool) -> Pattern:
    n_ranks = len(trees[0])
    check(n_ranks, size_bytes)
    if chunks < 1:
        raise ValueError(f"need chunks >= 1, got {chunks}")
    per_tree = (n_ranks - 1) * (2 if reduce else 1)
    check_flows(name, len(trees) * chunks * per_tree, "use fewer chunks or nodes")
    src: list[Ints] = []
    dst: list[Ints] = []
    edges: list[Ints] = []
    for number, parent in enumerate(trees):
        child = np.flatnonzero(parent >= 0)
        src += [child, parent[child]] if reduce else [parent[child]]
        dst += [parent[child], child] if reduce else [child]
        edges.append(number * chunks * per_tree + _chunk_edges(parent, chunks, reduce=reduce))
    flow = np.arange(len(trees) * chunks * per_tree)
    return Pattern(
        name=name,
        n_ranks=n_ranks,
        src=np.concatenate(src),
        dst=np.concatenate(dst),
        pair=flow // max(chunks * per_tree, 1) * per_tree + flow % max(per_tree, 1),
        bytes_=np.full(len(flow), size_bytes / len(trees) / chunks),
        edges=np.concatenate(edges),
        size_bytes=size_bytes,
    )


def _chunk_edges(parent: Ints, chunks: int, *, reduce: bool) -> Ints:
    """Order of one tree's flows: chunk by chunk, children by number, first all ways up (if any), then all down."""
    child = np.flatnonzero(parent >= 0)
    n = len(child)
    row = np.full(len(parent), -1)
    row[child] = np.arange(n)
    above = row[parent[child]]  # the way of the parent itself, -1 under the root
    inner, top = np.flatnonzero(above >= 0), np.flatnonzero(above < 0)
    down = n if reduce else 0
    within = [np.stack([down + above[inner], down + inner], axis=1)]
    if reduce:
        within.append(np.stack([inner, above[inner]], axis=1))
        within.append(np.stack([np.repeat(top, len(top)), down + np.tile(top, len(top))], axis=1))
    per_chunk = n * (2 if reduce else 1)
    chunk = np.arange(chunks)[:, None, None] * per_chunk
    flow = np.arange(per_chunk)
    between = np.stack([flow, flow + per_chunk], axis=1)
    return np.concatenate([(np.concatenate(within) + chunk).reshape(-1, 2), (between + chunk[:-1]).reshape(-1, 2)])


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


def second_parents(n_ranks: int) -> Ints:
    """Parents in the second tree: the first one mirrored, or shifted by one where the number of ranks is odd."""
    first = parents(n_ranks)
    rank = np.arange(n_ranks)
    if n_ranks % 2 == 0:
        mirrored = first[::-1]
        return np.where(mirrored < 0, -1, n_ranks - 1 - mirrored)
    result = np.full(n_ranks, -1)
    result[(rank + 1) % n_ranks] = np.where(first < 0, -1, (first + 1) % n_ranks)
    return result


def turned_trees(n_ranks: int, n_turns: int) -> Ints:
    """Pairs of trees, each the pair before with the ranks turned on by an equal share.

    Within one pair most ranks have four edges and a few have two; over all turns every rank comes nearer to the mean.

    Returns:
        ``[min(n_turns, n_ranks), 2, n_ranks]`` parents, -1 for roots.

    >>> turned_trees(4, 2)[:, 0].tolist()
    [[-1, 2, 0, 2], [2, 0, -1, 0]]
    """
    n_turns = min(n_turns, n_ranks)
    pair = np.stack([parents(n_ranks), second_parents(n_ranks)])
    result = np.empty((n_turns, 2, n_ranks), dtype=np.int64)
    for turn in range(n_turns):
        place = (np.arange(n_ranks) + turn * (n_ranks // n_turns)) % n_ranks
        result[turn][:, place] = np.where(pair < 0, -1, place[pair])
    return result


def zone_trees(zone: Ints, n_turns: int) -> Ints:
    """Pairs of trees over two zones that only their first ranks join; the others of a zone are turned.

    The first rank of either zone is the root of one tree of each pair. Its zone's tree hangs on it by one edge.

    Args:
        zone: ``[n_ranks]``, 0 or 1, both there.
        n_turns: pairs.

    Returns:
        ``[min(n_turns, n_ranks), 2, n_ranks]`` parents, -1 for roots.

    >>> zone_trees(np.array([0, 0, 1, 1]), 1)[0].tolist()
    [[-1, 0, 0, 2], [2, 0, -1, 2]]
    """
    n_turns = min(n_turns, len(zone))
    members = [np.flatnonzero(zone == one) for one in (0, 1)]
    result = np.full((n_turns, 2, len(zone)), -1, dtype=np.int64)
    for turn in range(n_turns):
        for tree in (0, 1):
            for ranks in members:
                shift = turn * max(1, (len(ranks) - 1) // n_turns) + tree
                place = np.append(ranks[:1], np.roll(ranks[1:], -shift))
                parent = parents(len(ranks))
                result[turn, tree, place] = np.where(parent < 0, -1, place[parent])
            result[turn, tree, members[1 - tree][0]] = members[tree][0]
    return result


def depths(parent: Ints) -> Ints:
    """Edges between each rank and the root of its tree (parent -1)."""
    depth = np.zeros(len(parent), dtype=np.int64)
    ancestor = parent.copy()
    while (ancestor >= 0).any():
        depth += ancestor >= 0
        ancestor = np.where(ancestor >= 0, parent[ancestor], -1)
    return depth
