"""Collectives as data, each with its closed form: rings, double tree, point-to-point, expert dispatch and combine."""

from ffsim.collectives.data import Collective, Step
from ffsim.collectives.experts import (
    ExpertKernels,
    Reach,
    Routing,
    expert_exchange,
    experts_at_same_cost,
    experts_per_node_at_same_cost,
    load_expert_kernels,
)
from ffsim.collectives.fold import N_CLASSES, Demand, expand, fold, idle_s, link_class, member_loads
from ffsim.collectives.point_to_point import send_recv, send_recv_s
from ffsim.collectives.rings import ring_all_gather, ring_all_reduce, ring_all_reduce_s, ring_reduce_scatter
from ffsim.collectives.trees import double_tree_all_reduce, double_tree_all_reduce_s

__all__ = [
    "N_CLASSES",
    "Collective",
    "Demand",
    "ExpertKernels",
    "Reach",
    "Routing",
    "Step",
    "double_tree_all_reduce",
    "double_tree_all_reduce_s",
    "expand",
    "expert_exchange",
    "experts_at_same_cost",
    "experts_per_node_at_same_cost",
    "fold",
    "idle_s",
    "link_class",
    "load_expert_kernels",
    "member_loads",
    "ring_all_gather",
    "ring_all_reduce",
    "ring_all_reduce_s",
    "ring_reduce_scatter",
    "send_recv",
    "send_recv_s",
]
