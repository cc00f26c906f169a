"""Who reduces and gathers what: the groups of a synchronisation and what each of them does."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffsim.collectives import Collective, ring_all_reduce, ring_reduce_scatter
from ffsim.training.blocks import SyncSlot
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import GroupKind, Layout
from ffsim.training.stages import Stage, stage_parameters

Ints = np.ndarray[Any, Any]


def sync_groups(layout: Layout, slot: SyncSlot) -> Ints:
    """``[n_groups, n_ranks]`` GPUs that reduce or gather together.

    Dense parameters are shared by every GPU that holds the stage; experts by the GPUs of the same place in every expert
    group; a copied embedding by the GPUs of the first and the last pipeline rank, replica by replica.
    """
    if slot.what == "embedding":
        return np.stack([layout.gpus_of(0), layout.gpus_of(layout.pp - 1)], axis=1)
    kind: GroupKind = "data" if slot.what == "dense" else "expert_data"
    return np.concatenate([layout.groups(kind, rank) for rank in layout.holders(slot.stage)], axis=1)


def sync_collective(
    inputs: Inputs, stages: tuple[Stage, ...], pieces: Pieces, slot: SyncSlot, groups: Ints
) -> Collective:
    """What a group does, at one byte per parameter. A gather sends as much over the same links as a reduce."""
    dense, expert = stage_parameters(stages[slot.stage], pieces)
    size = {"dense": dense, "experts": expert, "embedding": pieces.dense_parameters["embedding"]}[slot.what]
    ring = ring_all_reduce if slot.operation == "all-reduce" else ring_reduce_scatter
    return ring(groups.shape[1], size, ranks_per_node=_ranks_per_node(groups // inputs.cluster.gpus_per_node))


def _ranks_per_node(nodes: Ints) -> int:
    """Consecutive ranks that every node holds; where nodes hold different numbers, in blocks that divide them all."""
    n = nodes.shape[1]
    borders = np.diff(nodes, axis=1, prepend=-1, append=-1) != 0  # both ends of every row, too
    places = np.nonzero(borders)[1]
    return int(np.gcd.reduce(places, initial=n))
