"""Task graphs that many members run alike: each its own copy of most tasks, and some tasks together in teams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.engine.binding import without_idle_links
from ffsim.engine.flows import Flows
from ffsim.engine.fluid import check, load_kernel
from ffsim.engine.graph import NO_LANE, Floats, Ints, TaskGraph, Timeline
from ffsim.engine.plain import CIRCLE
from ffsim.engine.records import Work
from ffsim.errors import SimulationError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crew:
    """Who does the tasks of a graph.

    A task of kind k is done once by every team of that kind: when all its members are ready, and for all of them at
    once. Kind 0 is every member by itself.

    Attributes:
        kind: ``[n_slots]``, row of ``team``.
        team: ``[n_kinds, n_members]`` team of every member, from 0 without gaps.
    """

    kind: Ints
    team: Ints

    @property
    def n_members(self) -> int:
        """Members."""
        return int(self.team.shape[1])

    @property
    def n_teams(self) -> Ints:
        """``[n_kinds]``."""
        return np.asarray(self.team.max(axis=1) + 1)

    @classmethod
    def alone(cls, n_slots: int) -> Crew:
        """One member."""
        return cls(kind=np.zeros(n_slots, dtype=np.int64), team=np.zeros((1, 1), dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CrewCosts:
    """What the slots of a task graph cost every team.

    Attributes:
        duration_s: ``[n_slots]`` time on the lane; for a transfer its latency.
        first: ``[n_slots]`` place in ``messages`` of what the slot's first team sends, other teams following; -1 for
            slots that send nothing.
        messages: bytes and links of every transfer; `Flows.latency_s` and the order are not used.
        capacity_bytes_per_s: ``[n_links]``.
        row: ``[n_tasks]`` row of ``pace`` that tasks of single members go by, -1 for none; none at all if left out.
        pace: ``[n_rows, n_members]`` times as long as ``duration_s``.
        noise: ``[n_work]`` likewise for every task of every team (in the order of `Crew`'s work), 1 for no change.
    """

    duration_s: Floats
    first: Ints
    messages: Flows
    capacity_bytes_per_s: Floats
    row: Ints | None = None
    pace: Floats | None = None
    noise: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CrewTimeline:
    """When every team did every task.

    Attributes:
        first: ``[n_tasks]`` place of the first team's times; those of the task's other teams follow.
        kind: ``[n_tasks]``.
        crew: who.
        start_s, end_s: ``[n_work]``.
        n_events: one for every task without transfer, two for every other.
    """

    first: Ints
    kind: Ints
    crew: Crew
    start_s: Floats
    end_s: Floats
    n_events: int

    @property
    def makespan_s(self) -> float:
        """Time from zero to the last end."""
        return float(self.end_s.max(initial=0.0))

    def of(self, member: int) -> Timeline:
        """The tasks as one member sees them."""
        work = self.first + self.crew.team[self.kind, member]
        return Timeline(self.start_s[work], self.end_s[work], self.n_events)

    def last(self) -> int:
        """The member that ends last; the first of several."""
        return int(np.argmax([self.of(member).makespan_s for member in range(self.crew.n_members)]))


def first_work(graph: TaskGraph, crew: Crew) -> Ints:
    """``[n_tasks + 1]`` where the work of every task begins, and how much there is."""
    first = np.zeros(graph.n_tasks + 1, dtype=np.int64)
    np.cumsum(crew.n_teams[crew.kind[graph.slot]], out=first[1:])
    return first


def execute_crew(graph: TaskGraph, crew: Crew, costs: CrewCosts) -> CrewTimeline:
    """Run a task graph for all members at once, their transfers on shared links.

    Times of tasks without transfers follow from order alone and are worked out ahead of the clock; only transfers are
    events, at max-min fair rates (see `ffsim.engine.simulate_flows`).

    Raises:
        SimulationError: some tasks wait for each other in a circle.
    """
    check(costs.messages, costs.capacity_bytes_per_s, ())
    kernel = load_kernel("run_teams")
    state = kernel.empty_state(costs.capacity_bytes_per_s, weighted=costs.messages.weight is not None)
    channel, message, turn = _channels(graph, crew, costs)
    sent = without_idle_links(costs.messages.picked(message), turn, costs.capacity_bytes_per_s)
    if len(sent):
        state, _, _ = kernel.add_flows(state, sent, grow=False)
    work = _work(graph, crew, costs, channel, sent.size_bytes)
    kernel.run_teams(state, work)
    left = int(work.ends[2])
    if left:
        raise SimulationError(f"{left} of {len(work.end_s)} tasks never ran: {CIRCLE}")
    n_events = int(state.count[kernel.N_EVENTS])
    return CrewTimeline(work.first[:-1], work.kind, crew, work.start_s, work.end_s, n_events)


def _channels(graph: TaskGraph, crew: Crew, costs: CrewCosts) -> tuple[Ints, Ints, Ints]:
    """``[n_tasks]`` the flow of each task's first team (-1 without transfer), and the message and turn of every flow.

    A lane does one thing at a time, so that all its tasks of one slot can share a flow, and flows of one lane and team
    take turns.
    """
    sends = np.flatnonzero(costs.first[graph.slot] >= 0)
    of_lane = graph.lane[sends].astype(np.int64)
    lane = np.where(of_lane == NO_LANE, of_lane.max(initial=0) + 1 + sends, of_lane)
    pairs, place = np.unique(lane * len(costs.first) + graph.slot[sends], return_inverse=True)
    lane, slot = np.divmod(pairs, len(costs.first))
    kind = crew.kind[slot]
    n_teams = crew.n_teams[kind]
    first = np.cumsum(n_teams) - n_teams
    channel = np.full(graph.n_tasks, -1, dtype=np.int32)
    channel[sends] = first[place.ravel()]
    team = np.arange(n_teams.sum()) - np.repeat(first, n_teams)
    turn = np.repeat(lane * len(crew.team) + kind, n_teams) * crew.n_members + team
    return channel, np.repeat(costs.first[slot], n_teams) + team, np.unique(turn, return_inverse=True)[1].ravel()


def _work(graph: TaskGraph, crew: Crew, costs: CrewCosts, channel: Ints, size: Floats) -> Work:
    """Everything that the compiled runner needs, with small numbers where they fit."""
    first, kind = first_work(graph, crew), crew.kind[graph.slot].astype(np.int16)
    n_work, n_kinds = int(first[-1]), len(crew.team)
    in_team = np.stack([np.bincount(team, minlength=crew.n_members) for team in crew.team])
    begin = np.concatenate([np.zeros((n_kinds, 1), dtype=np.int64), in_team.cumsum(axis=1)], axis=1)
    before = np.diff(graph.predecessors.start)
    teams = crew.n_teams
    waiting = np.empty(n_work, dtype=np.int32)
    for number in range(n_kinds):  # a team waits for every member's predecessors
        tasks = np.flatnonzero(kind == number)
        places = first[tasks, None] + np.arange(teams[number])
        waiting[places] = before[tasks, None] * in_team[number, : teams[number]]
    row = np.full(graph.n_tasks, -1) if costs.row is None else costs.row
    return Work(
        first=first,
        slot=graph.slot.astype(np.int32),
        kind=kind,
        team=crew.team.astype(np.int32),
        begin=begin.astype(np.int32),
        member=np.argsort(crew.team, axis=1, kind="stable").astype(np.int32),
        next_start=graph.successors.start.astype(np.int32),
        successor=graph.successors.values.astype(np.int32),
        channel=channel,
        duration_s=np.asarray(costs.duration_s, dtype=np.float64),
        row=row.astype(np.int32),
        pace=np.ones((0, crew.n_members)) if costs.pace is None else costs.pace,
        noise=np.zeros(0, dtype=np.float32) if costs.noise is None else costs.noise,
        waiting=waiting,
        start_s=np.zeros(n_work),
        end_s=np.zeros(n_work),
        doing=np.zeros(len(size), dtype=np.int32),
        size=np.asarray(size, dtype=np.float64),
        queue_task=np.empty(n_work, dtype=np.int32),
        queue_team=np.empty(n_work, dtype=np.int32),
        ends=np.array([0, 0, n_work]),
    )
