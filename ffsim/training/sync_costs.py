"""What reductions and gatherings cost beyond their bytes: launch, steps and protocol of NCCL, the pace of HFReduce."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ffsim.training.blocks import Operation, SyncSlot
from ffsim.training.host_reduce import HostReduction
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.sync_traffic import sync_groups, sync_member_loads, sync_way
from ffsim.training.sync_ways import NcclGroup, nccl_cost

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]

NCCL_NAMES: dict[Operation, Literal["reduce_scatter", "all_gather", "all_reduce"]] = {
    "reduce": "reduce_scatter",
    "gather": "all_gather",
    "all-reduce": "all_reduce",
}


def sync_cost(
    inputs: Inputs, slot: SyncSlot, way: HostReduction | NcclGroup, element_bytes: float
) -> tuple[float, float]:
    """What goes before the transfer of a slot, and how many bytes count for one.

    Args:
        inputs: the cluster.
        slot: what is reduced or gathered.
        way: who does it.
        element_bytes: of a parameter on the wire.

    Returns:
        Seconds of all calls together, and a factor on the bytes.
    """
    size = slot.parameters * element_bytes / slot.calls
    if isinstance(way, HostReduction):
        return slot.calls * way.excess_s(size), 1.0
    if len(way.members) == 1:
        return 0.0, 1.0
    cost = nccl_cost(inputs, NCCL_NAMES[slot.operation], size, way)
    return slot.calls * cost.fixed_s, cost.stretch


def sync_loads(inputs: Inputs, layout: Layout, slot: SyncSlot, element_bytes: float) -> tuple[Ints, Ints, Floats]:
    """What every GPU moves over which links of the cluster for a slot: GPU, link, bytes to count."""
    gpus, links, parameters = sync_member_loads(inputs, layout, slot)
    way = sync_way(inputs, slot, sync_groups(layout, slot))
    _, stretch = sync_cost(inputs, slot, way, element_bytes)
    return gpus, links, parameters * (element_bytes * stretch)
