"""Expert dispatch and combine: every token to the ranks of its experts and back.

A token crosses the network once per destination node, to the GPU in its own place there, and from that GPU over NVLink
to every GPU that holds one of its experts; both legs run at the same time, chunk by chunk. A combine is the same the
other way round, the partial sums being added up before they leave a node.
Source: arXiv 2412.19437 s3.2.2; github deepseek-ai/DeepEP, normal kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Literal

import numpy as np

from ffsim.collectives.data import Collective, Floats, Ints, Step, check
from ffsim.topology import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How tokens choose experts, as far as traffic is concerned.

    Attributes:
        experts, top_k: routed experts and how many a token chooses.
        groups, top_groups: expert groups and how many a token may use; 1 and 1 for no limit.
        best: how many of a group's scores the gate judges the group by: 1 in DeepSeek-V2 and DeepEP's tests, 2 in V3;
            0 for groups chosen regardless of scores, which has a closed form.
    """

    experts: int
    top_k: int
    groups: int = 1
    top_groups: int = 1
    best: int = 0

    def touched(self, parts: int) -> float:
        """How many of ``parts`` equal shares of the experts a token reaches on average.

        Experts are taken as equally likely within the groups a token may use, groups as equally likely to be used. A
        gate that judges groups by their scores uses those that hold its favourites, so a token reaches nearly all that
        it may: counted on drawn tokens, 3.95 of V3's 4 nodes against 3.63.

        Args:
            parts: nodes or ranks; must divide the experts evenly.

        >>> round(Routing(experts=256, top_k=8, groups=8, top_groups=4).touched(8), 3)
        3.629
        """
        if parts < 1 or self.experts % parts:
            raise ValueError(f"{self.experts} experts do not spread evenly over {parts}")
        if self.best and self.top_groups < self.groups:
            return _counted(self, parts)
        share, group = self.experts // parts, self.experts // self.groups
        allowed = self.top_groups * group
        if share <= group:  # a part lies within one group
            use = self.top_groups / self.groups
            return parts * use * (1 - comb(allowed - share, self.top_k) / comb(allowed, self.top_k))
        per_part = share // group
        missed = 0.0
        for used in range(min(per_part, self.top_groups) + 1):
            others = self.top_groups - used
            if others > self.groups - per_part:
                continue
            chance = comb(per_part, used) * comb(self.groups - per_part, others) / comb(self.groups, self.top_groups)
            missed += chance * comb(allowed - used * group, self.top_k) / comb(allowed, self.top_k)
        return parts * (1 - missed)

    def touched_unevenly(self, load: Floats) -> Floats:
        """Share of the tokens that reach each of some parts that get unequal numbers of rows.

        ``1 - (1 - r)^x``: r is the share that reaches a part of mean load, x the part's load over the mean. Exact for
        x = 1; else between a part whose rows all come from different tokens and one whose tokens come again and again.

        Args:
            load: ``[..., parts]`` rows of each part, over the mean.

        Domain: loads up to about twice the mean. On synthetic tokens under V3's gate it is within 0.02 of counting for
        ranks and up to 0.1 below it for nodes without ``best`` (tested).
        """
        parts = load.shape[-1]
        shares: Floats = 1 - (1 - self.touched(parts) / parts) ** load
        return shares

    def reach(self, n_nodes: int, gpus_per_node: int) -> Reach:
        """How far tokens get within an expert-parallel group whose experts are all equally busy."""
        n_ranks = n_nodes * gpus_per_node
        nodes, ranks = self.touched(n_nodes), self.touched(n_ranks)
        return Reach(
            nodes=nodes,
            ranks=ranks,
            fullest_node=nodes / n_nodes,
            fullest_node_ranks=ranks / n_ranks * gpus_per_node,
            fullest_rank=ranks / n_ranks,
        )


DRAWN_TOKENS = 8192


@lru_cache(maxsize=16)
def _drawn(routing: Routing) -> Ints:
    """``[DRAWN_TOKENS, top_k]`` experts that tokens with uniform scores choose, the same ones every time."""
    scores = np.random.default_rng(0).random((DRAWN_TOKENS, routing.groups, routing.experts // routing.groups))
    by_best = np.sort(scores, axis=2)[:, :, -routing.best :].sum(axis=2)
    kept = np.argsort(-by_best, axis=1)[:, : routing.top_groups]
    allowed = np.zeros(by_best.shape, dtype=bool)
    np.put_along_axis(allowed, kept, values=True, axis=1)
    masked = np.where(allowed[:, :, None], scores, -1.0).reshape(DRAWN_TOKENS, routing.experts)
    chosen: Ints = np.argpartition(-masked, routing.top_k - 1, axis=1)[:, : routing.top_k]
    return chosen


@lru_cache(maxsize=64)
def _counted(routing: Routing, parts: int) -> float:
    """Parts that drawn tokens reach, on average."""
    reached = np.zeros((DRAWN_TOKENS, parts), dtype=bool)
    np.put_along_axis(reached, _drawn(routing) // (routing.experts // parts), values=True, axis=1)
    return float(reached.sum(axis=1).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far the tokens of an expert-parallel group get, on average.

    Attributes:
        nodes, ranks: that a token reaches.
        fullest_node: share of the tokens that reach the node most in demand.
        fullest_node_ranks: ranks of one node that a token reaches, where that is most.
        fullest_rank: share of the tokens that reach the rank most in demand.
    """

    nodes: float
    ranks: float
    fullest_node: float
    fullest_node_ranks: float
    fullest_rank: float

    def of_nodes(self, n_nodes: int) -> Floats:
        """``[n_nodes]`` share of the tokens that reach each node: one stands out, the others are alike."""
        return _standing_out(self.nodes / n_nodes, self.fullest_node, n_nodes)

    def of_ranks(self, n_nodes: int, gpus_per_node: int) -> Floats:
        """``[n_ranks]`` share of the tokens that reach each rank: one node stands out, and in it one rank."""
        mean = self.ranks / (n_nodes * gpus_per_node)
        shares = np.repeat(_standing_out(mean, self.fullest_node_ranks / gpus_per_node, n_nodes), gpus_per_node)
        shares[:gpus_per_node] = _standing_out(float(shares[0]), self.fullest_rank, gpus_per_node)
        return shares


def _standing_out(mean: float, most: float, n: int) -> Floats:
    """``[n]`` numbers of a given mean, the first the largest, the others alike."""
    shares = np.full(n, mean - (most - mean) / max(n - 1, 1))
    shares[0] = most
    return shares


def experts_per_node_at_same_cost(cluster: Cluster) -> float:
    """Experts of a token on one node that cost no more time than one: NVLink over rated network rate, per GPU.

    The token crosses the network once and is handed on over NVLink meanwhile. Like the source this takes the NVLink
    rate that is usable and the rate that NICs are sold with; what the NICs reach in use makes it a little more.

    Source: arXiv 2412.19437 s3.2.2 (160 and 50 GB/s: 3.2 per node).

    >>> from ffsim.topology import load_cluster
    >>> experts_per_node_at_same_cost(load_cluster("h800-2048"))
    3.2
    """
    nodes = cluster.spec.nodes
    return experts_at_same_cost(cluster.scale_up_bytes_per_s, cluster.nic.bandwidth.value * nodes.nics / nodes.gpus, 1)


def experts_at_same_cost(scale_up_bytes_per_s: float, scale_out_bytes_per_s: float, top_nodes: int) -> float:
    """Experts per token that cost no more time than one per node: NVLink over network rate, times the nodes.

    Source: arXiv 2412.19437 s3.2.2 (160 and 50 GB/s, 4 nodes: 3.2 per node, 12.8 in all).

    >>> experts_at_same_cost(160e9, 50e9, 4)
    12.8
    """
    return scale_up_bytes_per_s / scale_out_bytes_per_s * top_nodes


def expert_exchange(
    name: Literal["dispatch", "combine"],
    n_nodes: int,
    gpus_per_node: int,
    reach: Reach,
    token_bytes: float,
    tokens: int,
) -> Collective:
    """Dispatch or combine within one expert-parallel group.

    Args:
        name: which of the two; a combine runs the same flows backwards.
        n_nodes: nodes that the group spans.
        gpus_per_node: ranks of the group on each node.
        reach: how many nodes and ranks a token reaches, and how unevenly; from `Routing.reach` or measured loads.
        token_bytes: one token on the wire.
        tokens: tokens of each rank.

    Returns:
        One step with both legs; ``size_bytes`` counts a token once per destination node, the local one included
        (DeepEP's logical bandwidth).
    """
    n_ranks = n_nodes * gpus_per_node
    check(n_ranks, token_bytes * tokens)
    rank = np.arange(n_ranks)
    node, local = rank // gpus_per_node, rank % gpus_per_node
    far_to = np.tile(np.arange(n_nodes), n_ranks)
    far_src = np.repeat(rank, n_nodes)
    far_dst = far_to * gpus_per_node + np.repeat(local, n_nodes)
    near_src = np.repeat(rank, gpus_per_node)
    near_dst = np.repeat(node, gpus_per_node) * gpus_per_node + np.tile(np.arange(gpus_per_node), n_ranks)
    far = tokens * token_bytes * reach.of_nodes(n_nodes)[far_to]
    # forwarded for every source node, the own one included
    near = tokens * token_bytes * reach.of_ranks(n_nodes, gpus_per_node)[near_dst] * n_nodes
    src, dst = np.concatenate([far_src, near_src]), np.concatenate([far_dst, near_dst])
    sizes = np.concatenate([far, near])
    moving = src != dst
    src, dst, sizes = src[moving], dst[moving], sizes[moving]
    if name == "combine":
        src, dst = dst, src
    return Collective(f"expert {name}", n_ranks, (Step(src, dst, sizes),), tokens * token_bytes * reach.nodes)
