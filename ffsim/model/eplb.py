"""Which GPU holds which expert: replicate the busiest experts, then pack even loads onto GPUs.

Greedy in three steps, all layers at once. Where the nodes divide the expert groups (*hierarchical*), whole groups are
packed onto nodes, so that a node limit on routing still holds, then experts are replicated within each node and the
copies packed onto its GPUs. Else (*global*) the cluster is one node with one group.

Source: github deepseek-ai/EPLB (MIT), re-implemented from the published algorithm. Like it, float32; sorts are stable
and ties go to the first, which the original leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]
Policy = Literal["hierarchical", "global"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExpertPlacement:
    """Which expert sits in which slot; GPUs own equal runs of slots, nodes equal runs of GPUs.

    Attributes:
        expert: ``[n_layers, n_slots]`` id of the expert in each slot.
        copies: ``[n_layers, n_experts]`` slots that hold each expert.
    """

    expert: Ints
    copies: Ints

    def part_loads(self, loads: Floats, parts: int) -> Floats:
        """Load of each of ``parts`` equal runs of slots (GPUs, nodes); copies share their expert's load evenly.

        Args:
            loads: ``[n_layers, n_experts]``.
            parts: must divide the slots.

        Returns:
            ``[n_layers, parts]``, in the unit of the loads.
        """
        each = np.take_along_axis(loads / self.copies, self.expert, axis=1)
        result: Floats = each.reshape(len(each), parts, -1).sum(axis=2)
        return result


def busiest_over_mean(loads: Floats) -> Floats:
    """``[..., n_parts]`` loads to ``[...]`` the largest over the mean.

    >>> busiest_over_mean(np.array([[3.0, 1.0, 2.0, 2.0]]))
    array([1.5])
    """
    result: Floats = loads.max(axis=-1) / loads.mean(axis=-1)
    return result


def contiguous(n_layers: int, n_experts: int) -> ExpertPlacement:
    """Every expert once, in order."""
    return ExpertPlacement(
        expert=np.tile(np.arange(n_experts), (n_layers, 1)), copies=np.ones((n_layers, n_experts), dtype=np.int64)
    )


def policy(groups: int, nodes: int) -> Policy:
    """Whether whole expert groups can be dealt to nodes."""
    return "global" if groups % nodes else "hierarchical"


def rebalance(loads: Floats, slots: int, groups: int, nodes: int, gpus: int) -> ExpertPlacement:
    """Place experts, and copies of the busiest, so that every GPU gets about the same load.

    Args:
        loads: ``[n_layers, n_experts]``, >= 0, in any unit.
        slots: experts and copies in all, a multiple of ``gpus``, at least the experts.
        groups: expert groups, a divisor of the experts.
        nodes: a divisor of ``gpus``.
        gpus: of one expert-parallel group.

    Returns:
        The placement, slots in the order of nodes and GPUs.

    Raises:
        ValueError: a division leaves a rest, or there are fewer slots than experts.

    >>> found = rebalance(np.array([[90.0, 20.0, 40.0, 10.0]]), slots=6, groups=2, nodes=1, gpus=2)
    >>> found.copies.tolist(), found.part_loads(np.array([[90.0, 20.0, 40.0, 10.0]]), 2).tolist()
    ([[3, 1, 1, 1]], [[80.0, 80.0]])
    """
    n_layers, n_experts = loads.shape
    if slots < n_experts or slots % gpus or n_experts % groups or gpus % nodes:
        raise ValueError(f"{n_experts} experts in {groups} groups do not fit {slots=} on {gpus=} in {nodes=}")
    if policy(groups, nodes) == "global":
        groups = nodes = 1
    weight = loads.astype(np.float32)
    of_node = _experts_of_nodes(weight, groups, nodes)  # [n_layers, n_experts], node after node
    per_node = n_experts // nodes
    local = np.take_along_axis(weight, of_node, axis=1).reshape(-1, per_node)  # [n_layers * nodes, per_node]
    copied, copies = _replicate(local, slots // nodes)
    share = np.take_along_axis(local / copies.astype(np.float32), copied, axis=1)
    held = np.take_along_axis(copied, _packed(share, gpus // nodes), axis=1)
    held = held.reshape(n_layers, nodes, -1) + np.arange(nodes)[:, None] * per_node
    expert = np.take_along_axis(of_node, held.reshape(n_layers, slots), axis=1)
    counts = np.empty((n_layers, n_experts), dtype=np.int64)
    np.put_along_axis(counts, of_node, copies.reshape(n_layers, n_experts), axis=1)
    return ExpertPlacement(expert=expert, copies=counts)


def _experts_of_nodes(weight: Floats, groups: int, nodes: int) -> Ints:
    """``[n_layers, n_experts]`` experts in the order of the nodes that their groups are packed onto."""
    n_layers, n_experts = weight.shape
    size = n_experts // groups
    order = _packed(weight.reshape(n_layers, groups, size).sum(axis=2), nodes)
    result: Ints = (order[:, :, None] * size + np.arange(size)).reshape(n_layers, n_experts)
    return result


def _replicate(weight: Floats, slots: int) -> tuple[Ints, Ints]:
    """Give every spare slot to the expert whose copies carry most.

    Returns:
        ``[n, slots]`` expert of each slot, the first copies in order before the spare ones; ``[n, n_experts]`` copies.
    """
    n, n_experts = weight.shape
    rows = np.arange(n)
    expert = np.tile(np.arange(slots), (n, 1))
    copies = np.ones((n, n_experts), dtype=np.int64)
    for slot in range(n_experts, slots):
        busiest = (weight / copies.astype(np.float32)).argmax(axis=1)
        expert[:, slot] = busiest
        copies[rows, busiest] += 1
    return expert, copies


def _packed(weight: Floats, packs: int) -> Ints:
    """Pack items into equally full packs: heaviest first, each into the lightest pack that has room.

    Args:
        weight: ``[n, n_items]``.
        packs: a divisor of the items.

    Returns:
        ``[n, n_items]`` items pack after pack, in each in the order they came.
    """
    n, n_items = weight.shape
    room = n_items // packs
    if room == 1:  # nothing to choose: items keep their order
        return np.tile(np.arange(n_items), (n, 1))
    rows = np.arange(n)
    total = np.zeros((n, packs), dtype=np.float32)
    filled = np.zeros((n, packs), dtype=np.int64)
    order = np.empty((n, n_items), dtype=np.int64)
    for item in np.argsort(-weight, axis=1, kind="stable").T:
        pack = np.where(filled < room, total, np.float32(np.inf)).argmin(axis=1)
        order[rows, pack * room + filled[rows, pack]] = item
        total[rows, pack] += weight[rows, item]
        filled[rows, pack] += 1
    return order
