"""Closed forms around the simulated step: perfect overlap below, none above, and an estimate between.

All three follow from durations per stage and the bubble formulas of the schedules; no event is simulated. Tests hold
that the simulated step lies between the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.engine import Costs
from ffsim.schedules import SCHEDULES, OpTimes, one_f_one_b_bubble
from ffsim.training.blocks import ComputeSlot, ExchangeSlot, OptimizerSlot, SendSlot, Slot, SyncSlot
from ffsim.training.layout import Layout
from ffsim.training.program import Program


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

    Source: bubble formulas of arXiv 2412.19437 Table 2 (`ffsim.schedules.bubbles`). The upper bound uses them where
    they are exact: with F and Bi raised to the larger of F, Bi and W.
    """
    messages = np.array([isinstance(slot, SendSlot | SyncSlot | ExchangeSlot) for slot in program.slots])
    idle: list[float] = np.where(messages, ranks_per_port * costs.idle_s, costs.idle_s).tolist()
    compute, traffic = _per_operation(program, idle)
    kinds: list[str] = [op.kind for _, op in program.ops]
    spent = [max(a, b) if kind == "FB" else a + b for a, b, kind in zip(compute, traffic, kinds, strict=True)]
    computing, busy = _per_rank(program, layout, compute), _per_rank(program, layout, spent)
    after = [_after(program.slots, idle, rank) for rank in range(layout.pp)]
    send = max((idle[n] for n, slot in enumerate(program.slots) if isinstance(slot, SendSlot)), default=0.0)
    sync = max(step + gather for _, step, gather in after) + max(reduce for reduce, _, _ in after)

    serial = _longest(kinds, [a + b for a, b in zip(compute, traffic, strict=True)])
    mean = _mean(kinds, spent)
    upper = _uniform(layout, _exact(serial, send)) + sync
    estimate = max(busy) + _bubble(layout, mean) + sync
    lower = max(computing[rank] + after[rank][1] for rank in range(layout.pp))
    return Bounds(lower=lower, upper=upper, estimate=min(max(estimate, lower), upper))


def _per_operation(program: Program, idle: list[float]) -> tuple[list[float], list[float]]:
    """Compute and expert-transfer seconds of every operation."""
    compute, traffic = [0.0] * len(program.ops), [0.0] * len(program.ops)
    for op, slot in zip(program.op.tolist(), program.graph.slot.tolist(), strict=True):
        if op < 0:
            continue
        kind = program.slots[slot]
        if isinstance(kind, ComputeSlot):
            compute[op] += idle[slot]
        elif isinstance(kind, ExchangeSlot):
            traffic[op] += idle[slot]
    return compute, traffic


def _per_rank(program: Program, layout: Layout, seconds: list[float]) -> list[float]:
    """Sum over the operations of every pipeline rank."""
    totals = [0.0] * layout.pp
    for (rank, _), value in zip(program.ops, seconds, strict=True):
        totals[rank] += value
    return totals


def _after(slots: tuple[Slot, ...], idle: list[float], rank: int) -> tuple[float, float, float]:
    """Reduction, optimizer and gathering seconds of a rank after the pipeline."""
    reduce = step = gather = 0.0
    for number, slot in enumerate(slots):
        if isinstance(slot, SyncSlot) and slot.rank == rank:
            if slot.operation == "gather":
                gather += idle[number]
            else:
                reduce += idle[number]
        elif isinstance(slot, OptimizerSlot) and slot.rank == rank:
            step = idle[number]
    return reduce, step, gather


def _longest(kinds: list[str], seconds: list[float]) -> dict[str, float]:
    result: dict[str, float] = {}
    for kind, value in zip(kinds, seconds, strict=True):
        result[kind] = max(result.get(kind, 0.0), value)
    return result


def _mean(kinds: list[str], seconds: list[float]) -> OpTimes:
    totals: dict[str, list[float]] = {}
    for kind, value in zip(kinds, seconds, strict=True):
        totals.setdefault(kind, []).append(value)
    means = {kind: sum(values) / len(values) for kind, values in totals.items()}
    forward, backward = means.get("F", 0.0), means.get("B", means.get("Bi", 0.0))
    weight = means.get("W", 0.0)
    return OpTimes(
        forward=forward,
        input_gradient=backward - weight,
        weight_gradient=weight,
        backward=backward,
        pair=means.get("FB", forward + backward),
    )


def _exact(longest: dict[str, float], send: float) -> OpTimes:
    """Durations no shorter than any of their kind, in the range where the bubble formulas are exact."""
    weight = longest.get("W", 0.0)
    half = max(
        longest.get("F", 0.0),
        longest.get("Bi", 0.0),
        longest.get("B", 0.0) - weight,
        (longest.get("FB", 0.0) - weight) / 2,
        weight,
    )
    return OpTimes(forward=half + send, input_gradient=half + send, weight_gradient=weight)


def _uniform(layout: Layout, t: OpTimes) -> float:
    """Step of a schedule whose operations take the same time on every rank."""
    modules = len(layout.schedule.placement[0])
    passes = layout.n_micro_batches * (1 if layout.schedule.both_ends else modules)
    bubble = _bubble(layout, t)
    if SCHEDULES[layout.schedule.name].needs_times:  # an order made for other durations may idle for longer
        bubble = max(bubble, one_f_one_b_bubble(layout.pp, t))
    return passes * t.fb + bubble


def _bubble(layout: Layout, t: OpTimes) -> float:
    family, chunks = SCHEDULES[layout.schedule.name], len(layout.schedule.placement[0])
    bubble = family.bubble(layout.pp, layout.n_micro_batches, chunks, t)
    return max(0.0, one_f_one_b_bubble(layout.pp, t) if bubble is None else bubble)
