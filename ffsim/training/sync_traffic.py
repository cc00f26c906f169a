"""Who reduces and gathers what: the groups of a synchronisation, what each of them does, and over which links."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from ffsim.collectives import Collective, member_loads, ring_all_reduce, ring_reduce_scatter
from ffsim.topology import BETWEEN_SWITCHES, Topology
from ffsim.training.blocks import Slot, SyncSlot
from ffsim.training.host_reduce import HostReduction, nodes_of, reduces_in_hosts
from ffsim.training.inputs import Inputs
from ffsim.training.layout import GroupKind, Layout
from ffsim.training.nccl_costs import ranks_per_node

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]


def sync_groups(layout: Layout, slot: SyncSlot) -> Ints:
    """``[n_groups, n_ranks]`` GPUs that reduce or gather together.

    Dense parameters are shared by every GPU that holds the stage; experts by the GPUs of the same place in every expert
    group; a copied embedding by the GPUs of the first and the last pipeline rank, replica by replica; what is
    replicated by tensor-parallel ranks.
    """
    if slot.what == "replicated":
        return layout.groups("tensor", slot.rank)
    if slot.what == "embedding":
        return np.stack([layout.gpus_of(0), layout.gpus_of(layout.pp - 1)], axis=1)
    kind: GroupKind = "data" if slot.what == "dense" else "expert_data"
    return np.concatenate([layout.groups(kind, rank) for rank in layout.holders(slot.stage)], axis=1)


def sync_collective(inputs: Inputs, slot: SyncSlot, groups: Ints) -> Collective:
    """What a group does, at one byte per parameter. A gather sends as much over the same links as a reduce."""
    ring = ring_all_reduce if slot.operation == "all-reduce" else ring_reduce_scatter
    nodes = groups // inputs.cluster.gpus_per_node
    return ring(groups.shape[1], slot.parameters, ranks_per_node=ranks_per_node(nodes))


def in_hosts(inputs: Inputs, slot: SyncSlot) -> bool:
    """Whether HFReduce does it: gradients of whole nodes; parameters are gathered by NCCL."""
    return reduces_in_hosts(inputs) and slot.operation != "gather" and slot.what in {"dense", "experts"}


def host_reduction(inputs: Inputs, layout: Layout, slot: SyncSlot) -> HostReduction | None:
    """HFReduce, if it does it: that of the first stage whose nodes lie in the zones in the same way."""
    if not in_hosts(inputs, slot):
        return None
    topology = inputs.topology
    pattern = _zones(topology, _nodes(inputs, layout, slot))
    for stage in range(slot.stage + 1):
        nodes = _nodes(inputs, layout, slot._replace(stage=stage))
        if _zones(topology, nodes) == pattern:
            return _host_reduction(topology, nodes, _nvlink(inputs))
    raise AssertionError


def _nodes(inputs: Inputs, layout: Layout, slot: SyncSlot) -> tuple[int, ...]:
    return nodes_of(sync_groups(layout, slot), inputs.cluster.gpus_per_node)


def _zones(topology: Topology, nodes: tuple[int, ...]) -> tuple[bool, ...]:
    """Which nodes lie beyond the first one's zone."""
    zone = topology.zone(np.array(nodes))
    return tuple((zone != zone[0]).tolist())


@lru_cache(maxsize=64)
def _host_reduction(topology: Topology, nodes: tuple[int, ...], nvlink: bool) -> HostReduction:
    return HostReduction.of(topology, nodes, nvlink=nvlink)


def sync_member_loads(inputs: Inputs, layout: Layout, slot: SyncSlot) -> tuple[Ints, Ints, Floats]:
    """What every GPU moves over which links for a slot, in parameters: GPU, link, amount, every pair once.

    HFReduce's links in a node count for the first GPU of its group there.
    """
    groups = sync_groups(layout, slot)
    if not in_hosts(inputs, slot):
        return member_loads(sync_collective(inputs, slot, groups), inputs.topology, groups)
    found = [
        _host_reduction(inputs.topology, nodes_of(group[None], inputs.cluster.gpus_per_node), _nvlink(inputs))
        for group in groups
    ]
    links = [np.flatnonzero(each.loads) for each in found]
    return (
        np.repeat(groups[:, 0], [len(each) for each in links]),
        np.concatenate(links),
        np.concatenate([each.loads[used] for each, used in zip(found, links, strict=True)]) * slot.parameters,
    )


def crowding(inputs: Inputs, layout: Layout, slots: Iterable[Slot]) -> float:
    """How much longer a cable between switches is busy with the reductions of all stages than a rank with its own.

    What depth ``folded`` leaves out; 1 where stages keep out of each other's way.
    """
    topology = inputs.topology
    capacity = topology.bandwidth_bytes_per_s
    own = np.zeros((layout.pp, len(capacity)))
    together = np.zeros(len(capacity))
    for slot in slots:
        if not isinstance(slot, SyncSlot) or slot.operation == "gather" or slot.what not in {"dense", "experts"}:
            continue
        _, links, amounts = sync_member_loads(inputs, layout, slot)
        busy = np.bincount(links, amounts, minlength=len(capacity)) / capacity
        own[slot.rank] += busy
        if slot.rank == layout.holders(slot.stage)[0]:
            together += busy
    between = np.isin(topology.link_kind, BETWEEN_SWITCHES)
    longest = float(own.max(initial=0.0))
    return max(1.0, float(together[between].max(initial=0.0)) / longest) if longest else 1.0


def _nvlink(inputs: Inputs) -> bool:
    return inputs.spec.plan.gradient_reduction == "hfreduce-nvlink"
