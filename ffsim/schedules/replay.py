"""Replays a schedule with fixed durations per kind of operation: makespan and bubbles, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ffsim.engine import NO_LANE, Costs, Csr, TaskGraph, Timeline, execute
from ffsim.schedules.bubbles import OpTimes
from ffsim.schedules.data import Schedule
from ffsim.schedules.ops import Message

Messages = Literal["overlapped", "blocking", "rendezvous"]


@dataclass(frozen=True, slots=True)
class Replay:
    """Outcome of a replay.

    Attributes:
        makespan: end of the last operation.
        busy: per rank, time in operations.
        span: per rank, from the start of its first to the end of its last operation.
        timeline: start and end of every operation, rank after rank.
    """

    makespan: float
    busy: tuple[float, ...]
    span: tuple[float, ...]
    timeline: Timeline

    @property
    def bubble(self) -> tuple[float, ...]:
        """Per rank, makespan less busy time."""
        return tuple(self.makespan - busy for busy in self.busy)

    @property
    def span_bubble(self) -> tuple[float, ...]:
        """Per rank, span less busy time: what is idle where ranks need not wait for each other between steps."""
        return tuple(span - busy for span, busy in zip(self.span, self.busy, strict=True))


def replay(schedule: Schedule, times: OpTimes, *, latency: float = 0.0, messages: Messages = "overlapped") -> Replay:
    """Run a schedule with the same durations on every rank.

    Args:
        schedule: what every rank does.
        times: durations by kind.
        latency: of every message.
        messages: how messages hold up computing; see `plan_messages`.
    """
    n_ops = sum(len(ops) for ops in schedule.ops)
    kinds = ["F", "B", "Bi", "W", "FB"]
    plan = plan_messages(schedule, messages)
    n_messages = len(plan.ends)
    slot = [kinds.index(op.kind) for _, _, op in schedule.walk()] + [len(kinds)] * n_messages
    lane = [rank for rank, _, _ in schedule.walk()] + [NO_LANE] * n_messages
    durations = [times.forward, times.b, times.input_gradient, times.weight_gradient, times.fb, latency]
    graph = TaskGraph(np.array(lane), np.array(slot), np.array(plan.edges, dtype=np.int64).reshape(-1, 2))
    timeline = execute(graph, fixed_costs(durations))
    spent = (timeline.end_s - timeline.start_s)[:n_ops]
    busy = np.bincount(np.array(lane[:n_ops]), weights=spent, minlength=schedule.n_ranks)
    last = np.cumsum([len(ops) for ops in schedule.ops])
    span = timeline.end_s[last - 1] - timeline.start_s[np.append(0, last[:-1])]
    return Replay(float(timeline.end_s[:n_ops].max()), tuple(busy.tolist()), tuple(span.tolist()), timeline)


def fixed_costs(durations: list[float]) -> Costs:
    """Costs of slots that only take time."""
    nothing = np.array([], dtype=np.int64)
    return Costs(np.array(durations), nothing, np.array([]), Csr.of(nothing, nothing, len(durations)), np.array([]))


@dataclass(frozen=True, slots=True)
class MessagePlan:
    """Order between operations, with every message between ranks as a task of its own.

    Attributes:
        edges: between tasks. Operations are numbered rank after rank, messages follow, in the order of use or,
            where ranks wait for them, as each rank sends them.
        ends: (sending rank, receiving rank) of each message.
    """

    edges: list[tuple[int, int]]
    ends: list[tuple[int, int]]


def plan_messages(schedule: Schedule, messages: Messages) -> MessagePlan:
    """Decide what waits for which message.

    ``overlapped``: an operation waits only for the data it needs. ``blocking``: messages go out in the schedule's own
    groups and an operation waits for every receive of its group, needed yet or not. ``rendezvous``: sends too wait,
    until the other end has posted the receive.
    """
    first = [0]
    for ops in schedule.ops:
        first.append(first[-1] + len(ops))
    if messages == "overlapped":
        return _by_data(schedule, first)
    return _by_groups(schedule, first, rendezvous=messages == "rendezvous")


def _by_data(schedule: Schedule, first: list[int]) -> MessagePlan:
    edges: list[tuple[int, int]] = []
    ends: list[tuple[int, int]] = []
    for rank, position, op in schedule.walk():
        for key, _ in schedule.inputs(rank, op):
            producer = schedule.producers[key]
            source, target = first[producer[0]] + producer[1], first[rank] + position
            if producer[0] == rank:
                edges.append((source, target))
            else:
                message = first[-1] + len(ends)
                edges += [(source, message), (message, target)]
                ends.append((producer[0], rank))
    return MessagePlan(edges, ends)


def _by_groups(schedule: Schedule, first: list[int], *, rendezvous: bool) -> MessagePlan:
    matched: dict[tuple[object, ...], dict[str, tuple[int, int]]] = {}
    for rank, groups in enumerate(schedule.messages):
        for position, group in enumerate(groups):
            for message in group:
                matched.setdefault(_sender_key(schedule, rank, message), {})[message.end] = (rank, position)
    edges: list[tuple[int, int]] = []
    ends: list[tuple[int, int]] = []
    for pair in sorted(matched.values(), key=lambda pair: pair["s"]):  # as they are sent, so that none waits in vain
        (source, sent), (target, received) = pair["s"], pair["r"]
        task = first[-1] + len(ends)
        edges.append((first[source] + sent - 1, task))  # issued once the operation before it has ended
        if received < len(schedule.ops[target]):
            edges.append((task, first[target] + received))
        if rendezvous and received > 0:
            edges.append((first[target] + received - 1, task))
        if rendezvous and sent < len(schedule.ops[source]):
            edges.append((task, first[source] + sent))
        ends.append((source, target))
    return MessagePlan(edges, ends)


def _sender_key(schedule: Schedule, rank: int, message: Message) -> tuple[object, ...]:
    """Names a message alike at both ends: by the stage that sends it."""
    stage = schedule.placement[rank][message.module]
    if message.end == "r":
        stage += -1 if message.direction == "F" else 1
    return (message.direction, stage, message.module if schedule.both_ends else 0, message.chunk)
