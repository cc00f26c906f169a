"""What reductions and gatherings cost beyond their bytes: launch, steps and protocol of NCCL, the pace of HFReduce."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffsim.training.blocks import Operation, SyncSlot
from ffsim.training.nccl_costs import GroupOperation, Nccl
from ffsim.training.traffic import Message

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]

NCCL_OPERATIONS: dict[Operation, GroupOperation] = {
    "reduce": "reduce-scatter",
    "gather": "all-gather",
    "all-reduce": "all-reduce",
}


def sync_cost(
    nccl: Nccl, slot: SyncSlot, message: Message, element_bytes: float, together_s: float
) -> tuple[float, float]:
    """What goes before the transfer of a slot, and how many bytes count for one of its ring.

    Args:
        nccl: NCCL on the cluster.
        slot: what is reduced or gathered.
        message: its links.
        element_bytes: of a parameter on the wire.
        together_s: time of the ring on them at full rate, all groups at once.

    Returns:
        Seconds of all calls together, and the factor.
    """
    size = slot.parameters * element_bytes / slot.calls
    if message.host is not None:
        return slot.calls * message.host.excess_s(size), 1.0
    if message.groups is None or not together_s:
        return 0.0, 1.0
    return _by_nccl(nccl, slot, message.groups, size, together_s / message.sharing)


def _by_nccl(nccl: Nccl, slot: SyncSlot, groups: Ints, size_bytes: float, alone_s: float) -> tuple[float, float]:
    time = nccl.time(NCCL_OPERATIONS[slot.operation], size_bytes, groups)
    stretch = slot.calls * time.transfer_s / alone_s
    if time.algorithm == "ring":  # a link of the cluster may give less than the library would use
        stretch = max(stretch, 1.0)
    return slot.calls * (time.launch_s + time.latency_s), stretch
