"""Every rank and every flow spelled out: what the folded program stands for, and what it is checked against.

Each data-parallel replica runs its own copy of the program, and every message moves over the links of the cluster that
its GPUs really use: NICs, switches and NVLink ports that replicas or pipeline ranks share are shared here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ffsim.collectives import member_loads
from ffsim.engine import NO_LANE, Costs, Csr, TaskGraph
from ffsim.errors import ModelDomainError, Problem
from ffsim.training.blocks import LANES, ExchangeSlot, SendSlot, Slot, SyncSlot
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.program import Program
from ffsim.training.slot_costs import unit_bytes
from ffsim.training.sync_costs import sync_loads
from ffsim.training.traffic import EXPERT_CAP, EXPERT_COPY, LINKS_PER_RANK, class_capacities, talk

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]

MAX_FULL_GPUS = 256
OF_KERNELS = (EXPERT_COPY, EXPERT_CAP)  # links of a GPU beside those of the cluster


def check_full(inputs: Inputs, layout: Layout) -> None:
    """Refuse plans that are too large to be spelled out.

    Raises:
        ModelDomainError: more than `MAX_FULL_GPUS` GPUs.
    """
    if layout.gpus > MAX_FULL_GPUS:
        raise ModelDomainError(
            Problem(
                where=inputs.cluster.name,
                what=f"depth full takes at most {MAX_FULL_GPUS} GPUs, the plan uses {layout.gpus:,}",
                fix="use depth folded, or a smaller plan with --set plan.gpus=256 and a smaller global batch",
            )
        )


def replicate(inputs: Inputs, layout: Layout, program: Program, costs: Costs) -> tuple[TaskGraph, Costs]:
    """One copy of the program per data-parallel replica, joined where replicas exchange data.

    Replica d of task t is task ``d * n + t``, of slot s slot ``d * n_slots + s``. A collective begins when all of its
    group have arrived, goes on at one pace over all links it uses, and ends for all at the same time: the group is the
    expert group of an exchange, all replicas for a reduction or a gathering. The optimizer waits for all replicas.
    """
    graph, n, dp = program.graph, program.graph.n_tasks, layout.members
    replicas = np.arange(dp)
    lane = np.where(graph.lane == NO_LANE, NO_LANE, graph.lane + replicas[:, None] * layout.pp * len(LANES)).ravel()
    slot = (graph.slot + replicas[:, None] * len(program.slots)).ravel()
    edges = (graph.edges[None] + replicas[:, None, None] * n).reshape(-1, 2)
    barriers, joins = _joins(program, layout)
    whole = TaskGraph(
        np.append(lane, np.full(barriers, NO_LANE)),
        np.append(slot, np.zeros(barriers, dtype=np.int64)),
        np.concatenate([edges, joins]),
    )
    return whole, _costs(inputs, layout, program.slots, costs)


def _joins(program: Program, layout: Layout) -> tuple[int, Ints]:
    """Barriers around tasks that a group does together, and the edges into and out of them."""
    n, dp = program.graph.n_tasks, layout.members
    predecessors, successors = program.graph.predecessors, program.graph.successors
    edges: list[Ints] = []
    barriers = 0

    def join(members: Ints, before: Ints, after: Ints) -> None:
        """What some tasks do in all members waits for what others do in any."""
        nonlocal barriers
        barrier = dp * n + barriers
        barriers += 1
        arrive, leave = ((members[:, None] * n + tasks[None, :]).ravel() for tasks in (before, after))
        edges.append(np.stack([arrive, np.full(len(arrive), barrier)], axis=1))
        edges.append(np.stack([np.full(len(leave), barrier), leave], axis=1))

    for task in range(n):
        slot = program.slots[program.graph.slot[task]]
        collective = isinstance(slot, ExchangeSlot | SyncSlot)
        if not (collective or program.category[task] == "optimizer"):
            continue
        before = predecessors.values[predecessors.start[task] : predecessors.start[task + 1]]
        after = successors.values[successors.start[task] : successors.start[task + 1]]
        for members in np.arange(dp).reshape(-1, layout.ep if isinstance(slot, ExchangeSlot) else dp):
            join(members, before, np.array([task]))
            if collective:
                join(members, np.array([task]), after)
    return barriers, np.concatenate(edges) if edges else np.zeros((0, 2), dtype=np.int64)


def _costs(
    inputs: Inputs,
    layout: Layout,
    slots: Sequence[Slot],
    folded: Costs,
) -> Costs:
    """The costs of every replica's slots, on the links of the cluster and those of each GPU's expert kernels.

    What a group moves together is on the slot of its first replica. Where links are shared, a collective counts as
    one, and so do the messages of one stage through one NIC.
    """
    n_links, n_gpus = inputs.topology.n_links, inputs.topology.n_gpus
    rows: list[Ints] = []
    links: list[Ints] = []
    sizes: list[Floats] = []
    share = np.ones((layout.members, len(slots)))
    for number, slot in enumerate(slots):
        if not isinstance(slot, SendSlot | SyncSlot | ExchangeSlot):
            continue
        rank = slot.source if isinstance(slot, SendSlot) else slot.rank
        if isinstance(slot, SendSlot):
            share[:, number] = 1 / _at_the_same_nic(inputs, layout.gpus_of(rank))
        done = talk(inputs, layout, slot)
        unit = unit_bytes(inputs, done.unit)
        if isinstance(slot, SyncSlot):
            gpu, link, size = sync_loads(inputs, layout, slot, unit)
        else:
            gpu, link, moved = member_loads(done.collective, inputs.topology, done.groups)
            size = moved * unit
        mine = (gpu // layout.members) == rank
        together = {SendSlot: 1, ExchangeSlot: layout.ep, SyncSlot: layout.members}[type(slot)]
        first = gpu[mine] % layout.members // together * together
        pairs, place = np.unique(first * n_links + link[mine], return_inverse=True)
        rows.append(pairs // n_links * len(slots) + number)
        links.append(pairs % n_links)
        sizes.append(np.bincount(place.ravel(), size[mine], len(pairs)))
        for kernel_link, amount in _of_kernels(folded, number):
            leaders = np.arange(0, layout.members, together)
            rows.append(leaders * len(slots) + number)
            links.append(n_links + kernel_link * n_gpus + layout.gpus_of(rank)[leaders])
            sizes.append(np.full(len(leaders), amount))
    row = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    capacity = class_capacities(inputs)
    return Costs(
        duration_s=np.tile(folded.duration_s, layout.members),
        link=np.concatenate(links) if links else np.zeros(0, dtype=np.int64),
        bytes_=np.concatenate(sizes) if sizes else np.zeros(0),
        moves=Csr.of(row, np.arange(len(row)), len(slots) * layout.members),
        capacity_bytes_per_s=np.concatenate(
            [inputs.topology.bandwidth_bytes_per_s, *(np.full(n_gpus, capacity[one]) for one in OF_KERNELS)]
        ),
        share=share.ravel(),
    )


def _at_the_same_nic(inputs: Inputs, gpus: Ints) -> Ints:
    """For each of some GPUs, how many of them use its NIC."""
    nodes = inputs.cluster.spec.nodes
    _, place, counts = np.unique(gpus // (nodes.gpus // nodes.nics), return_inverse=True, return_counts=True)
    found: Ints = counts[place]
    return found


def _of_kernels(folded: Costs, slot: int) -> list[tuple[int, float]]:
    """What a folded slot asks of its rank's expert kernels: place in `OF_KERNELS`, amount."""
    moves = folded.moves.values[folded.moves.start[slot] : folded.moves.start[slot + 1]].tolist()
    classes = [(int(folded.link[move]) % LINKS_PER_RANK, float(folded.bytes_[move])) for move in moves]
    return [(OF_KERNELS.index(one), amount) for one, amount in classes if one in OF_KERNELS]
