"""Every rank and every flow spelled out: what the folded program stands for, and what it is checked against.

Each GPU runs its own copy of its pipeline rank's program, and every message moves over the links of the cluster that
its GPUs really use: NICs, switches and NVLink ports that GPUs or pipeline ranks share are shared here, too. What a
group does together is one task of the group: it begins when all of them are ready, goes on at one pace over all links
that it uses, and ends for all at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ffsim.collectives import N_CLASSES, member_loads
from ffsim.engine import Costs, Crew, CrewCosts, Csr, TaskGraph, first_work, transfers
from ffsim.errors import ModelDomainError, Problem
from ffsim.training.blocks import ExchangeSlot, GroupSlot, OptimizerSlot, SendSlot, SyncSlot
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.perturb import computing, jitter, jitter_sigma, paces
from ffsim.training.program import Program
from ffsim.training.sync_traffic import in_hosts, sync_groups, sync_member_loads
from ffsim.training.traffic import LINKS_PER_RANK, Messages, class_capacities, talk

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]

MessageSlot = SendSlot | ExchangeSlot | GroupSlot | SyncSlot
MAX_FULL_TASKS = 30_000_000  # 1.5 GB; half a minute where GPUs run alike, minutes where they do not


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
    inputs: Inputs, layout: Layout, program: Program, messages: Messages, costs: Costs, seed: int = 0
) -> tuple[TaskGraph, Crew, CrewCosts]:
    """The program, who does its tasks, and what they cost every group.

    Computing is done by every GPU by itself, messages by the groups that `talk` names; what the optimizer waits for,
    the norm of all gradients, waits for everybody.
    """
    teams = _Teams(layout)
    tracer = _Tracer(inputs, layout, teams, messages, costs)
    sent = [tracer.sent(number, slot) for number, slot in enumerate(program.slots) if isinstance(slot, MessageSlot)]
    kind = np.zeros(len(program.slots) + 1, dtype=np.int64)
    kind[[one.slot for one in sent]] = [one.kind for one in sent]
    kind[-1] = teams.kind(np.zeros(layout.members))
    graph, crew = _with_norm(program), Crew(kind=kind, team=teams.table)
    perturbed = _perturbed(inputs, layout, program, first_work(graph, crew), seed)
    return graph, crew, replace(_crew_costs(inputs, costs, sent), **perturbed)


def _perturbed(inputs: Inputs, layout: Layout, program: Program, first: Ints, seed: int) -> dict[str, Any]:
    """Columns of `CrewCosts` for slow GPUs and chance, as far as there are any."""
    pace, sigma, columns = paces(inputs, layout), jitter_sigma(inputs), {}
    if (pace != 1).any():
        columns["row"] = np.where(computing(program), program.rank, -1)
        columns["pace"] = pace / pace.max(axis=1, keepdims=True)  # the folded costs are those of the slowest
    if sigma:
        columns["noise"] = jitter(program, first, layout.members, sigma, seed)
    return columns


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
        """``[n_members]`` which group holds each of a rank's members, -1 for none."""
        rows, columns = np.nonzero(self.is_of(groups, rank))
        team = np.full(self._gpus.shape[1], -1)
        team[self.member[groups[rows, columns]]] = rows
        return team

    def is_of(self, gpus: Ints, rank: int) -> Ints:
        """Which GPUs belong to a pipeline rank."""
        return np.asarray(self._rank[gpus] == rank)


class _Tracer:
    """Finds the links of every message, once for those that are alike."""

    def __init__(self, inputs: Inputs, layout: Layout, teams: _Teams, messages: Messages, folded: Costs) -> None:
        self._inputs, self._layout, self._teams = inputs, layout, teams
        self._messages, self._folded = messages, folded
        self._found: dict[tuple[object, ...], _Loads] = {}

    def sent(self, number: int, slot: MessageSlot) -> _Sent:
        """Bytes of a slot's teams on the links of the cluster and on those that a GPU has by itself.

        Where links are shared, a collective counts as one, and so do the messages of one stage through one NIC.
        Messages of replicas that take turns at a NIC (`Software.staggered_sends`) are one for all of them, as if they
        met there.
        """
        inputs, rank = self._inputs, slot.source if isinstance(slot, SendSlot) else slot.rank
        gpus, loads = self._layout.gpus_of(rank), self._loads(slot)
        mine, team = self._teams.is_of(loads.gpu, rank), self._teams.of_groups(loads.groups, rank)
        if (team < 0).any():  # replicas that send in turn over a NIC: one of them, for all
            assert isinstance(slot, SendSlot)
            team = _nic_of(inputs, gpus)
        kind = self._teams.kind(team)
        team_of = self._teams.table[kind]
        n_teams, n_links = int(team_of.max()) + 1, inputs.topology.n_links
        sender = team_of[self._teams.member[loads.gpu[mine]]]
        pairs, place = np.unique(sender * n_links + loads.link[mine], return_inverse=True)
        amounts = np.bincount(place.ravel(), loads.amount[mine], len(pairs))
        leaders = gpus[np.unique(team_of, return_index=True)[1]]
        own, own_bytes = _on_own_links(self._folded, number)
        own_links = n_links + own * inputs.topology.n_gpus + leaders[:, None]
        return _Sent(
            slot=number,
            kind=kind,
            n_teams=n_teams,
            team=np.concatenate([pairs // n_links, np.repeat(np.arange(n_teams), len(own))]),
            link=np.concatenate([pairs % n_links, own_links.ravel()]),
            bytes_=np.concatenate([amounts * self._bytes_each(number, slot), np.tile(own_bytes, n_teams)]),
            share=1 / _at_the_same_nic(inputs, leaders) if isinstance(slot, SendSlot) else np.ones(n_teams),
        )

    def _loads(self, slot: MessageSlot) -> _Loads:
        """What GPUs send over which links, in the unit of the slot's `Message`."""
        topology = self._inputs.topology
        if isinstance(slot, SyncSlot):
            whole, hosts = slot.operation == "all-reduce", in_hosts(self._inputs, slot)
            key: tuple[object, ...] = (slot.what, whole, hosts, *self._layout.holders(slot.stage))
            if key not in self._found:
                loads = sync_member_loads(self._inputs, self._layout, slot._replace(parameters=1))
                self._found[key] = _Loads(sync_groups(self._layout, slot), *loads)
            return self._found[key].times(slot.parameters)
        done = talk(self._inputs, self._layout, slot)
        collective = done.collective
        key = (collective.name, collective.size_bytes, collective.n_flows, done.groups.tobytes())
        if key not in self._found:
            self._found[key] = _Loads(done.groups, *member_loads(collective, topology, done.groups))
        return self._found[key].times(slot.size_bytes if isinstance(slot, GroupSlot) else 1.0)

    def _bytes_each(self, number: int, slot: MessageSlot) -> float:
        """Bytes to count for one unit: what the folded costs make of the unit, protocol and all."""
        message = self._messages[slot._replace(condition="alone") if isinstance(slot, ExchangeSlot) else slot]
        if not message.links:
            return 0.0
        first = self._folded.moves.values[self._folded.moves.start[number]]
        return float(self._folded.bytes_[first]) / message.amounts[0]


class _Loads(NamedTuple):
    """Who is in which group, and what every GPU sends over which link."""

    groups: Ints
    gpu: Ints
    link: Ints
    amount: Floats

    def times(self, factor: float) -> _Loads:
        """As many times as much."""
        return self._replace(amount=self.amount * factor)


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
    _, place, counts = np.unique(_nic_of(inputs, gpus), return_inverse=True, return_counts=True)
    found: Ints = counts[place]
    return found


def _nic_of(inputs: Inputs, gpus: Ints) -> Ints:
    nodes = inputs.cluster.spec.nodes
    found: Ints = gpus // (nodes.gpus // nodes.nics)
    return found


def _on_own_links(folded: Costs, slot: int) -> tuple[Ints, Floats]:
    """What a folded slot asks of links that are no cables: place among these, and amount."""
    moves = folded.moves.values[folded.moves.start[slot] : folded.moves.start[slot + 1]]
    classes = folded.link[moves] % LINKS_PER_RANK
    own = classes >= N_CLASSES
    return classes[own] - N_CLASSES, folded.bytes_[moves][own]
