"""Collectives as data, each with its closed form: rings, trees, exchanges, experts, HFReduce, NCCL and DeepEP."""

from ffsim.collectives.chains import dissemination_barrier, ring_broadcast, ring_broadcast_s
from ffsim.collectives.data import Collective, Step
from ffsim.collectives.deepep import (
    ExchangeFigures,
    ExchangeGroup,
    ExchangeTime,
    ExpertKernels,
    LowLatencyKernels,
    exchange_time,
    load_expert_kernels,
    load_low_latency_kernels,
    low_latency_time,
)
from ffsim.collectives.exchange import direct_all_to_all, hierarchical_all_to_all
from ffsim.collectives.experts import (
    Reach,
    Routing,
    expert_exchange,
    experts_at_same_cost,
    experts_per_node_at_same_cost,
)
from ffsim.collectives.fold import N_CLASSES, Demand, fold, idle_s, link_class, member_loads
from ffsim.collectives.hfreduce import (
    HfReduce,
    HfReduceBounds,
    HfReduceFigures,
    HfReduceStage,
    hfreduce,
    hfreduce_bounds,
    load_hfreduce,
)
from ffsim.collectives.hierarchical import hierarchical_all_reduce
from ffsim.collectives.nccl import NcclLibrary, NcclTime, NodeLinks, load_nccl, nccl_time
from ffsim.collectives.pattern import Pattern, lower, unroll
from ffsim.collectives.point_to_point import send_recv, send_recv_s
from ffsim.collectives.rings import ring_all_gather, ring_all_reduce, ring_all_reduce_s, ring_reduce_scatter
from ffsim.collectives.rows import TransferRow, is_transfer, read_transfer
from ffsim.collectives.steps import fold_steps
from ffsim.collectives.trees import double_tree_all_reduce, double_tree_all_reduce_s, double_tree_broadcast

__all__ = [
    "N_CLASSES",
    "Collective",
    "Demand",
    "ExchangeFigures",
    "ExchangeGroup",
    "ExchangeTime",
    "ExpertKernels",
    "HfReduce",
    "HfReduceBounds",
    "HfReduceFigures",
    "HfReduceStage",
    "LowLatencyKernels",
    "NcclLibrary",
    "NcclTime",
    "NodeLinks",
    "Pattern",
    "Reach",
    "Routing",
    "Step",
    "TransferRow",
    "direct_all_to_all",
    "dissemination_barrier",
    "double_tree_all_reduce",
    "double_tree_all_reduce_s",
    "double_tree_broadcast",
    "exchange_time",
    "expert_exchange",
    "experts_at_same_cost",
    "experts_per_node_at_same_cost",
    "fold",
    "fold_steps",
    "hfreduce",
    "hfreduce_bounds",
    "hierarchical_all_reduce",
    "hierarchical_all_to_all",
    "idle_s",
    "is_transfer",
    "link_class",
    "load_expert_kernels",
    "load_hfreduce",
    "load_low_latency_kernels",
    "load_nccl",
    "low_latency_time",
    "lower",
    "member_loads",
    "nccl_time",
    "read_transfer",
    "ring_all_gather",
    "ring_all_reduce",
    "ring_all_reduce_s",
    "ring_broadcast",
    "ring_broadcast_s",
    "ring_reduce_scatter",
    "send_recv",
    "send_recv_s",
    "unroll",
]
