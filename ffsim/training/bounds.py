"""Closed forms around the simulated step: perfect overlap below, none above, and an estimate between.

All three follow from durations per stage and the bubble formulas of the schedules; where a schedule has none, its order
is replayed. Tests hold that the simulated step lies between the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.engine import Costs
from ffsim.schedules import SCHEDULES, OpTimes, Schedule, replay
from ffsim.training.blocks import (
    ComputeSlot,
    ExchangeSlot,
    GroupSlot,
    HostSlot,
    OptimizerSlot,
    SendSlot,
    SyncSlot,
)
from ffsim.training.layout import Layout
from ffsim.training.program import Program

MESSAGES = (SendSlot, SyncSlot, ExchangeSlot, GroupSlot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Seconds per step.

    Attributes:
        lower: the busiest rank computes without a pause: no bubble, no exposed communication, then the optimizer.
        upper: nothing overlaps: every operation takes the longest time of its kind on any rank, with all its transfers
            and messages in a row, plus the bubble of the schedule and all synchronisation in a row.
        estimate: computing and expert traffic on the busiest rank, plus the published bubble formula, plus
            synchronisation. In an overlapped pair the longer of computing and traffic counts, elsewhere both.
    """

    lower: float
    upper: float
    estimate: float


def bounds(program: Program, layout: Layout, costs: Costs, ranks_per_port: int = 1) -> Bounds:
    """Closed forms for one step.

    Args:
        program: the tasks.
        layout: ranks and schedule.
        costs: what the tasks cost.
        ranks_per_port: most pipeline ranks that share a NIC: their messages may all wait for each other.

    Source: bubble formulas of `ffsim.schedules.bubbles`. The upper bound uses them where they are exact: with F and Bi
    raised to the larger of F, Bi and W. Where the order of a schedule depends on durations, or there is no formula,
    the order itself is replayed with the longest durations.
    """
    messages = np.array([isinstance(slot, MESSAGES) for slot in program.slots])
    idle: list[float] = np.where(messages, ranks_per_port * costs.idle_s, costs.idle_s).tolist()
    compute, host, traffic = per_operation(program, idle)
    kinds: list[str] = [op.kind for _, op in program.ops]
    held = [max(pair) for pair in zip(compute, host, strict=True)]
    spent = [max(a, b) if kind == "FB" else a + b for a, b, kind in zip(held, traffic, kinds, strict=True)]
    busy = _per_rank(program, layout, spent)
    after = _after(program, idle, layout)
    send = _longest_send(program, idle)
    sync = max(step + gather for _, step, gather in after) + max(reduce for reduce, _, _ in after)

    serial = _longest(kinds, [a + b for a, b in zip(held, traffic, strict=True)])
    upper = _upper(layout, serial, send + _beside_passes(program, layout, idle)) + sync
    estimate = max(busy) + _bubble(layout, mean_times(kinds, spent)) + sync
    least = zip(_per_rank(program, layout, compute), _per_rank(program, layout, host), after, strict=True)
    lower = max(max(computing, issuing) + step for computing, issuing, (_, step, _) in least)
    return Bounds(lower=lower, upper=upper, estimate=min(max(estimate, lower), upper))


def per_operation(program: Program, idle: list[float]) -> tuple[list[float], list[float], list[float]]:
    """Seconds of computing, of the host and of exchanges in every operation."""
    kinds: tuple[tuple[type, ...], ...] = ((ComputeSlot,), (HostSlot,), (ExchangeSlot, GroupSlot))
    inside = program.op >= 0
    op, slot = program.op[inside], program.graph.slot[inside]
    totals = []
    for each in kinds:
        seconds = np.array([idle[number] if isinstance(of, each) else 0.0 for number, of in enumerate(program.slots)])
        totals.append(np.bincount(op, weights=seconds[slot], minlength=len(program.ops)).tolist())
    compute, host, traffic = totals
    return compute, host, traffic


def _per_rank(program: Program, layout: Layout, seconds: list[float]) -> list[float]:
    """Sum over the operations of every pipeline rank."""
    totals = [0.0] * layout.pp
    for (rank, _), value in zip(program.ops, seconds, strict=True):
        totals[rank] += value
    return totals


def _beside_passes(program: Program, layout: Layout, idle: list[float]) -> float:
    """What a pass may wait for reductions and gatherings of its own, where there are some in every pass."""
    counts = np.bincount(program.graph.slot, minlength=len(program.slots))
    n_passes = layout.n_micro_batches // (2 if layout.schedule.both_ends else 1)
    waits = [0.0] * layout.pp
    for number, slot in enumerate(program.slots):
        if isinstance(slot, SyncSlot) and counts[number] >= n_passes > 1:
            waits[slot.rank] += idle[number] * -(-int(counts[number]) // n_passes)
    return max(waits)


def _longest_send(program: Program, idle: list[float]) -> float:
    """The longest message between stages, with what the receivers gather of it."""
    sends = [idle[number] for number, slot in enumerate(program.slots) if isinstance(slot, SendSlot)]
    slots = {program.graph.slot[task] for task in np.flatnonzero((program.op < 0) & program.of("tensor"))}
    return max(sends, default=0.0) + max((idle[slot] for slot in slots), default=0.0)


def _after(program: Program, idle: list[float], layout: Layout) -> list[tuple[float, float, float]]:
    """Reduction, optimizer and gathering seconds of every rank, all tasks in a row."""
    counts = np.bincount(program.graph.slot, minlength=len(program.slots)).tolist()
    totals = [[0.0, 0.0, 0.0] for _ in range(layout.pp)]
    for number, slot in enumerate(program.slots):
        if isinstance(slot, SyncSlot):
            totals[slot.rank][2 if slot.operation == "gather" else 0] += counts[number] * idle[number]
        elif isinstance(slot, OptimizerSlot):
            totals[slot.rank][1] += idle[number]
    return [(reduce, step, gather) for reduce, step, gather in totals]


def _longest(kinds: list[str], seconds: list[float]) -> dict[str, float]:
    result: dict[str, float] = {}
    for kind, value in zip(kinds, seconds, strict=True):
        result[kind] = max(result.get(kind, 0.0), value)
    return result


def mean_times(kinds: list[str], seconds: list[float]) -> OpTimes:
    """Mean durations of the operations of each kind."""
    totals: dict[str, list[float]] = {}
    for kind, value in zip(kinds, seconds, strict=True):
        totals.setdefault(kind, []).append(value)
    means = {kind: sum(values) / len(values) for kind, values in totals.items()}
    forward, weight = means.get("F", 0.0), means.get("W", 0.0)
    backward = means.get("B", means.get("Bi", 0.0) + weight)
    return OpTimes(
        forward=forward,
        input_gradient=backward - weight,
        weight_gradient=weight,
        backward=backward,
        pair=means.get("FB", forward + backward),
    )


def _upper(layout: Layout, longest: dict[str, float], send: float) -> float:
    """Step of a schedule in which no operation is shorter than the longest of its kind and its message."""
    schedule, family = layout.schedule, SCHEDULES[layout.schedule.name]
    weight = longest.get("W", 0.0)
    half = send + max(
        longest.get("F", 0.0),
        longest.get("Bi", 0.0),
        longest.get("B", 0.0) - weight,
        (longest.get("FB", 0.0) - weight) / 2,
        weight,
    )
    t = OpTimes(forward=half, input_gradient=half, weight_gradient=weight)
    bubble = _bubble_form(layout, t)
    if family.needs_times or bubble is None:
        return _replayed(schedule, longest, send)
    passes = layout.n_micro_batches * (1 if schedule.both_ends else len(schedule.placement[0]))
    return passes * t.fb + max(0.0, bubble)


def _replayed(schedule: Schedule, longest: dict[str, float], send: float) -> float:
    times = OpTimes(
        forward=longest.get("F", 0.0) + send,
        input_gradient=longest.get("Bi", 0.0) + send,
        weight_gradient=longest.get("W", 0.0),
        backward=longest.get("B", 0.0) + send,
        pair=longest.get("FB", 0.0) + send,
    )
    return replay(schedule, times, latency=send, messages="rendezvous").makespan


def _bubble(layout: Layout, t: OpTimes) -> float:
    """The closed form of the schedule; its replay where there is none."""
    bubble = _bubble_form(layout, t)
    return max(0.0, max(replay(layout.schedule, t).bubble) if bubble is None else bubble)


def _bubble_form(layout: Layout, t: OpTimes) -> float | None:
    family, chunks = SCHEDULES[layout.schedule.name], len(layout.schedule.placement[0])
    return family.bubble(layout.pp, layout.n_micro_batches, chunks, t)
