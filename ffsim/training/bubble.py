"""A step in the parts that DeepSeek published for V3's, and where its bubble comes from.

The parts are times in schedule operations: forwards, backwards and weight gradients on their own, overlapped pairs, the
optimizer with what surrounds it; all the rest is bubble (arXiv 2505.09343 Table 4). What an operation waits for inside,
such as expert traffic that nothing hides in the warm-up, is part of that operation there, and here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ffsim.engine import NO_LANE, TaskGraph, end_times_s
from ffsim.schedules import SCHEDULES, Messages, OpTimes, Schedule, plan_messages
from ffsim.training.blocks import SendSlot
from ffsim.training.bounds import mean_times
from ffsim.training.breakdown import operation_times
from ffsim.training.step import StepResult

Floats = np.ndarray[Any, Any]

PARTS = {
    "forward_only_s": ("F",),
    "backward_only_s": ("B", "Bi"),
    "weight_only_s": ("W",),
    "overlapped_s": ("FB",),
}
ROUNDING = 1e-12
AFTER = ("optimizer", "exposed/gradient_sync", "exposed/parameters")


def step_parts(result: StepResult) -> dict[str, float]:
    """Seconds of every part, mean over pipeline ranks; they sum to the step. Nothing at depth ``bounds``.

    ``optimizer_s`` takes in what is left of reducing gradients and gathering parameters before the first operation of a
    rank and after its last.
    """
    breakdown = result.breakdown
    if breakdown is None or result.timeline is None:
        return {}
    parts = {
        name: sum(float(np.mean(breakdown.operations[kind])) for kind in kinds if kind in breakdown.operations)
        for name, kinds in PARTS.items()
    }
    optimizer = float(np.mean(np.minimum(sum(breakdown.exposed[name] for name in AFTER), _outside_operations(result))))
    return parts | {"bubble_s": result.step_s - sum(parts.values()) - optimizer, "optimizer_s": optimizer}


def _outside_operations(result: StepResult) -> Floats:
    """``[pp]`` seconds before the first operation of every rank and after its last."""
    assert result.timeline is not None
    program = result.prepared.program
    first, last = operation_times(program, result.timeline)
    rank = np.array([rank for rank, _ in program.ops])
    begin, end = np.full(result.prepared.layout.pp, np.inf), np.zeros(result.prepared.layout.pp)
    np.minimum.at(begin, rank, first)
    np.maximum.at(end, rank, last)
    outside: Floats = begin + (result.step_s - end)
    return outside


def bubble_parts(result: StepResult) -> dict[str, float]:
    """Where the bubble of `step_parts` comes from, in seconds; the causes sum to it, mean over ranks.

    The simulated operations are replayed with one thing after another taken away: their messages, their differences.
    What that changes is what the thing cost. Causes may be negative: an order may idle for less than its formula says.
    Nothing at depth ``bounds``.
    """
    if result.timeline is None:
        return {}
    prepared = result.prepared
    schedule, program = prepared.layout.schedule, prepared.program
    first, last = operation_times(program, result.timeline)
    spent = (last - first).tolist()
    kinds: list[str] = [op.kind for _, op in program.ops]
    mean = mean_times(kinds, spent)
    busy = sum(spent) / schedule.n_ranks
    even, uneven, sent = _replays(result, schedule, [_of_kind(mean, kind) for kind in kinds], spent)
    waited = _held_up(result, schedule, spent, prepared.inputs.spec.plan.messages)
    ends = [even, uneven, sent, waited, float(last.max())]
    family, chunks = SCHEDULES[schedule.name], len(schedule.placement[0])
    formula = family.bubble(schedule.n_ranks, schedule.n_micro_batches, chunks, mean)
    formula = ends[0] - busy if formula is None else max(formula, 0.0)
    steps = np.diff([formula, *(end - busy for end in ends), step_parts(result)["bubble_s"]])
    steps[np.abs(steps) < ROUNDING * result.step_s] = 0.0
    return dict(zip(CAUSES, (formula, *steps.tolist()), strict=True))


CAUSES = (
    "closed form at mean times",
    "order of operations",
    "uneven stages",
    "messages between stages",
    "messages that wait for each other",
    "traffic that meets on links",
    "gradient reduction and the step",
)


def _of_kind(mean: OpTimes, kind: str) -> float:
    return {
        "F": mean.forward,
        "B": mean.b,
        "Bi": mean.input_gradient,
        "W": mean.weight_gradient,
        "FB": mean.fb,
    }[kind]


def _replays(result: StepResult, schedule: Schedule, even: list[float], spent: list[float]) -> list[float]:
    """Ends of the last operation: all alike and messages free; as they are and messages free; with their messages."""
    graph, message_s = _operations(result, schedule, "overlapped")
    free = [0.0] * len(message_s)
    columns = np.array([even + free, spent + free, spent + message_s]).T
    return _ends(graph, columns, len(spent))


def _held_up(result: StepResult, schedule: Schedule, spent: list[float], messages: Messages) -> float:
    """End of the last operation with messages as the plan has them."""
    graph, message_s = _operations(result, schedule, messages)
    return _ends(graph, np.array([spent + message_s]).T, len(spent))[0]


def _ends(graph: TaskGraph, columns: Floats, n_ops: int) -> list[float]:
    ends: list[float] = end_times_s(graph, columns)[:n_ops].max(axis=0).tolist()
    return ends


def _operations(result: StepResult, schedule: Schedule, messages: Messages) -> tuple[TaskGraph, list[float]]:
    """Operations and messages as a graph in which every task has a slot of its own, and how long the messages take."""
    plan = plan_messages(schedule, messages)
    idle, slots = result.prepared.costs.idle_s, result.prepared.program.slots
    sends = {(slot.source, slot.target): float(idle[n]) for n, slot in enumerate(slots) if isinstance(slot, SendSlot)}
    lanes: Sequence[int] = [rank for rank, _, _ in schedule.walk()] + [NO_LANE] * len(plan.ends)
    edges = np.array(plan.edges, dtype=np.int64).reshape(-1, 2)
    return TaskGraph(np.array(lanes), np.arange(len(lanes)), edges), [sends[pair] for pair in plan.ends]
