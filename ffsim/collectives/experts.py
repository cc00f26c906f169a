"""Expert dispatch and combine: every token to the ranks of its experts and back.

A token crosses the network once per destination node, to the GPU in its own place there, and from that GPU over NVLink
to every GPU that holds one of its experts; both legs run at the same time, chunk by chunk. A combine is the same the
other way round, the partial sums being added up before they leave a node.
Source: arXiv 2412.19437 s3.2.2; github deepseek-ai/DeepEP, normal kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Literal

import numpy as np

from ffsim.collectives.data import Collective, Step, check
from ffsim.config import Bandwidth, Count, Figure, PositiveShare, Shelf, Time, load, spec


@spec
class ExpertKernels:
    """What dispatch and combine kernels add to the links.

    Attributes:
        sms: SMs that the kernels take where a plan does not say otherwise.
        dispatch_latency, combine_latency: fixed time of a kernel between nodes. [s]
        dispatch_per_sm, combine_per_sm: what one SM copies over NVLink. [bytes/s]
        beside_compute_share: share of the network rate reached while compute kernels run beside.
        row_mapping: compute time per dispatched row (token and expert) spent on working out where it goes. [s]
    """

    kind: Literal["expert_kernels"]
    title: str
    sms: Figure[Count]
    dispatch_latency: Figure[Time]
    combine_latency: Figure[Time]
    dispatch_per_sm: Figure[Bandwidth]
    combine_per_sm: Figure[Bandwidth]
    beside_compute_share: Figure[PositiveShare]
    row_mapping: Figure[Time]


SHELF = Shelf("expert kernels", "expert_kernels", Path(__file__).parent / "data")


def load_expert_kernels(name: str = "deepep-normal") -> ExpertKernels:
    """Load kernel figures by name or path.

    Raises:
        ScenarioError: no such file, or it is wrong.
    """
    return load(SHELF, name, ExpertKernels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How tokens choose experts, as far as traffic is concerned.

    Attributes:
        experts, top_k: routed experts and how many a token chooses.
        groups, top_groups: expert groups and how many a token may use; 1 and 1 for no limit.
    """

    experts: int
    top_k: int
    groups: int = 1
    top_groups: int = 1

    def touched(self, parts: int) -> float:
        """How many of ``parts`` equal shares of the experts a token reaches on average.

        Experts are taken as equally likely within the groups a token may use, groups as equally likely to be used.

        Args:
            parts: nodes or ranks; must divide the experts evenly.

        >>> round(Routing(experts=256, top_k=8, groups=8, top_groups=4).touched(8), 3)
        3.629
        """
        if parts < 1 or self.experts % parts:
            raise ValueError(f"{self.experts} experts do not spread evenly over {parts}")
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
    routing: Routing,
    token_bytes: float,
    tokens: int,
) -> Collective:
    """Dispatch or combine within one expert-parallel group.

    Args:
        name: which of the two; a combine runs the same flows backwards.
        n_nodes: nodes that the group spans.
        gpus_per_node: ranks of the group on each node.
        routing: how many nodes and ranks a token reaches.
        token_bytes: one token on the wire.
        tokens: tokens of each rank.

    Returns:
        One step with both legs; ``size_bytes`` counts a token once per destination node, the local one included
        (DeepEP's logical bandwidth).
    """
    n_ranks = n_nodes * gpus_per_node
    check(n_ranks, token_bytes * tokens)
    nodes, ranks = routing.touched(n_nodes), routing.touched(n_ranks)
    rank = np.arange(n_ranks)
    node, local = rank // gpus_per_node, rank % gpus_per_node
    far_src = np.repeat(rank, n_nodes)
    far_dst = (np.tile(np.arange(n_nodes), n_ranks)) * gpus_per_node + np.repeat(local, n_nodes)
    near_src = np.repeat(rank, gpus_per_node)
    near_dst = np.repeat(node, gpus_per_node) * gpus_per_node + np.tile(np.arange(gpus_per_node), n_ranks)
    far = tokens * token_bytes * nodes / n_nodes
    near = tokens * token_bytes * ranks / n_ranks * n_nodes  # forwarded for every source node, the own one included
    src, dst = np.concatenate([far_src, near_src]), np.concatenate([far_dst, near_dst])
    sizes = np.concatenate([np.full(len(far_src), far), np.full(len(near_src), near)])
    moving = src != dst
    src, dst, sizes = src[moving], dst[moving], sizes[moving]
    if name == "combine":
        src, dst = dst, src
    return Collective(f"expert {name}", n_ranks, (Step(src, dst, sizes),), tokens * token_bytes * nodes)
