"""Every rank and every flow spelled out: what the folded program stands for, and what it is checked against.

Each GPU runs its own copy of its pipeline rank's program, and every message moves over the links of the cluster that
its GPUs really use: NICs, switches and NVLink ports that GPUs or pipeline ranks share are shared here, too. What a group
does together is one task of the group: it begins when all of them are ready, goes on at one pace over all links that it
uses, and ends for all at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.collectives import N_CLASSES, member_loads
from ffsim.engine import Costs, Crew, CrewCosts, Csr, TaskGraph, transfers
from ffsim.errors import ModelDomainError, Problem
from ffsim.training.blocks import ComputeSlot, ExchangeSlot, OptimizerSlot, SendSlot, SyncSlot
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.program import Program
from ffsim.training.slot_costs import unit_bytes
from ffsim.training.stages import Stage
from ffsim.training.traffic import LINKS_PER_RANK, Talk, class_capacities, talk

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]

MessageSlot = SendSlot | ExchangeSlot | SyncSlot
MAX_FULL_TASKS = 60_000_000  # 2 GB, a minute


def check_full(inputs: Inputs, layout: Layout, program: Program) -> None:
    """Refuse plans that are too large to be spelled out.

    Raises:
        ModelDomainError: more than `MAX_FULL_TASKS` tasks of all GPUs together.
    """
    tasks = program.graph.n_tasks * layout.members
    if tasks > MAX_FULL_TASKS:
        fewer = layout.members * MAX_FULL_TASKS // tasks
        raise ModelDomainError(
            Problem(
                where=inputs.cluster.name,
                what=f"depth full takes at most {MAX_FULL_TASKS:,} tasks, the plan has {tasks:,}: "
                f"{program.graph.n_tasks:,} for each of {layout.members:,} GPUs of a pipeline rank",
                fix=f"use depth folded, fewer micro-batches, or at most {max(fewer, 1):,} GPUs a pipeline rank",
            )
        )


def replicate(
    inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces, program: Program, costs: Costs
) -> tuple[TaskGraph, Crew, CrewCosts]:
    """The program, who does its tasks, and what they cost every group.

    Computing is done by every GPU by itself, messages by the groups that `talk` names; what the optimizer waits for, the
    norm of all gradients, waits for everybody.
    """
    teams = _Teams(layout)
    tracer = _Tracer(inputs, layout, teams)
    sent = [
        tracer.sent(number, slot, talk(inputs, layout, stages, pieces, slot), costs)
        for number, slot in enumerate(program.slots)
        if slot is not None and not isinstance(slot, ComputeSlot | OptimizerSlot)
    ]
    kind = np.zeros(len(program.slots) + 1, dtype=np.int64)
    kind[[one.slot for one in sent]] = [one.kind for one in sent]
    kind[-1] = teams.kind(np.zeros(layout.members))
    return _with_norm(program), Crew(kind=kind, team=teams.table), _crew_costs(inputs, costs, sent)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the teams of one kind send in one slot: ``bytes_`` over ``link``, by ``team``; see `CrewCosts`."""

    slot: int
    kind: int
    n_teams: int
    team: Ints
    link: Ints
    bytes_: Floats
    share: Floats


class _Teams:
    """Divisions of the members of a pipeline rank into groups, each once."""

    def __init__(self, layout: Layout) -> None:
        self._gpus = layout.placement
        n = int(layout.placement.max()) + 1
        self._rank, self.member = np.full(n, -1), np.zeros(n, dtype=np.int64)
        self._rank[layout.placement] = np.arange(layout.pp)[:, None]
        self.member[layout.placement] = np.arange(layout.members)
        self._number: dict[bytes, int] = {}
        self._rows: list[Ints] = []
        self.kind(np.arange(layout.members))  # kind 0: everybody for himself

    @property
    def table(self) -> Ints:
        """``[n_kinds, n_members]``, as `Crew` has it."""
        return np.stack(self._rows)

    def kind(self, team: Ints) -> int:
        """Number of a division, by the team of every member."""
        team = np.unique(team, return_inverse=True)[1].ravel()
        number = self._number.setdefault(team.tobytes(), len(self._rows))
        if number == len(self._rows):
            self._rows.append(team)
        return number

    def of_groups(self, groups: Ints, rank: int) -> Ints:
        """``[n_members]`` which group holds each of a rank's members."""
        rows, columns = np.nonzero(self.is_of(groups, rank))
        team = np.full(self._gpus.shape[1], -1)
        team[self.member[groups[rows, columns]]] = rows
        assert (team >= 0).all(), "a message of a rank is of all its members"
        return team

    def is_of(self, gpus: Ints, rank: int) -> Ints:
        """Which GPUs belong to a pipeline rank."""
        return np.asarray(self._rank[gpus] == rank)


class _Tracer:
    """Finds the links of every message, once for those that are alike."""

    def __init__(self, inputs: Inputs, layout: Layout, teams: _Teams) -> None:
        self._inputs, self._layout, self._teams = inputs, layout, teams
        self._found: dict[tuple[object, ...], tuple[Ints, Ints, Floats]] = {}

    def sent(self, number: int, slot: MessageSlot, talk: Talk, folded: Costs) -> _Sent:
        """Bytes of a slot's teams on the links of the cluster and on those that a GPU has by itself.

        Where links are shared, a collective counts as one, and so do the messages of one stage through one NIC.
        """
        inputs, rank = self._inputs, slot.source if isinstance(slot, SendSlot) else slot.rank
        gpu, link, size = self._loads(talk)
        mine = self._teams.is_of(gpu, rank)
        kind = self._teams.kind(self._teams.of_groups(talk.groups, rank))
        team_of = self._teams.table[kind]
        n_teams, n_links = int(team_of.max()) + 1, inputs.topology.n_links
        pairs, place = np.unique(team_of[self._teams.member[gpu[mine]]] * n_links + link[mine], return_inverse=True)
        bytes_ = np.bincount(place.ravel(), size[mine], len(pairs)) * unit_bytes(inputs, talk.unit)
        leaders = self._layout.gpus_of(rank)[np.unique(team_of, return_index=True)[1]]
        own, amounts = _on_own_links(folded, number)
        share = np.ones(n_teams)
        if isinstance(slot, SendSlot):
            share = 1 / _at_the_same_nic(inputs, self._layout.gpus_of(rank))
        return _Sent(
            slot=number,
            kind=kind,
            n_teams=n_teams,
            team=np.concatenate([pairs // n_links, np.repeat(np.arange(n_teams), len(own))]),
            link=np.concatenate([pairs % n_links, (n_links + own * inputs.topology.n_gpus + leaders[:, None]).ravel()]),
            bytes_=np.concatenate([bytes_, np.tile(amounts, n_teams)]),
            share=share,
        )

    def _loads(self, talk: Talk) -> tuple[Ints, Ints, Floats]:
        collective = talk.collective
        key = (collective.name, collective.size_bytes, collective.n_flows, talk.groups.tobytes())
        if key not in self._found:
            self._found[key] = member_loads(collective, self._inputs.topology, talk.groups)
        return self._found[key]


def _crew_costs(inputs: Inputs, folded: Costs, sent: list[_Sent]) -> CrewCosts:
    """Costs of all slots, those of messages team by team."""
    counts = np.array([one.n_teams for one in sent], dtype=np.int64)
    starts = np.cumsum(counts) - counts
    first = np.full(len(folded.duration_s) + 1, -1, dtype=np.int64)
    first[[one.slot for one in sent]] = starts
    row = np.concatenate([one.team + start for one, start in zip(sent, starts.tolist(), strict=True)])
    capacity, n_gpus = class_capacities(inputs), inputs.topology.n_gpus
    capacities = np.concatenate([inputs.topology.bandwidth_bytes_per_s, np.repeat(capacity[N_CLASSES:], n_gpus)])
    messages = Costs(
        duration_s=np.zeros(int(counts.sum())),
        link=np.concatenate([one.link for one in sent]),
        bytes_=np.concatenate([one.bytes_ for one in sent]),
        moves=Csr.of(row, np.arange(len(row)), int(counts.sum())),
        capacity_bytes_per_s=capacities,
        share=np.concatenate([one.share for one in sent]),
    )
    return CrewCosts(
        duration_s=np.append(folded.duration_s, 0.0),
        first=first,
        messages=transfers(messages),
        capacity_bytes_per_s=capacities,
    )


def _with_norm(program: Program) -> TaskGraph:
    """The graph with a slot of its own, the last, for what optimizers wait for that is no GPU's own."""
    graph, slots = program.graph, program.slots
    optimizer = np.array([isinstance(slot, OptimizerSlot) for slot in slots])
    free = np.array([slot is None for slot in slots])
    before = graph.edges[optimizer[graph.slot[graph.edges[:, 1]]], 0]
    slot = graph.slot.copy()
    slot[before[free[slot[before]] & (program.op[before] < 0)]] = len(slots)
    return TaskGraph(graph.lane, slot, graph.edges)


def _at_the_same_nic(inputs: Inputs, gpus: Ints) -> Ints:
    """For each of some GPUs, how many of them use its NIC."""
    nodes = inputs.cluster.spec.nodes
    _, place, counts = np.unique(gpus // (nodes.gpus // nodes.nics), return_inverse=True, return_counts=True)
    found: Ints = counts[place]
    return found


def _on_own_links(folded: Costs, slot: int) -> tuple[Ints, Floats]:
    """What a folded slot asks of links that are no cables: place among these, and amount."""
    moves = folded.moves.values[folded.moves.start[slot] : folded.moves.start[slot + 1]]
    classes = folded.link[moves] % LINKS_PER_RANK
    own = classes >= N_CLASSES
    return classes[own] - N_CLASSES, folded.bytes_[moves][own]
