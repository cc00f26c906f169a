"""Where the step goes: every instant of every rank has one cause, and the causes add up to the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.engine import Timeline
from ffsim.training.blocks import LANES, ComputeSlot, SendSlot
from ffsim.training.costs import FAMILIES, PHASES, PieceTimes, phases_of
from ffsim.training.program import Program

Floats = np.ndarray[Any, Any]
Ints = np.ndarray[Any, Any]

PHASE_CAUSES = {"F": "forward", "R": "recomputation", "B": "input_gradient", "W": "weight_gradient"}
FAMILY_NAMES = {
    "gemm": "products",
    "convolution": "products",
    "grouped_gemm": "expert_products",
    "attention_forward": "attention",
    "attention_backward": "attention",
    "attention_decode": "attention",
    "elementwise": "elementwise",
    "host_copy": "elementwise",
}
# While a rank computes nothing, the first of these under way from or to it is the cause; with none, it is the bubble.
EXPOSED = {
    "dispatch": "exposed/dispatch",
    "combine": "exposed/combine",
    "tensor": "exposed/tensor",
    "context": "exposed/context",
    "expert_tensor": "exposed/expert_tensor",
    "parameters": "exposed/parameters",
    "sync": "exposed/gradient_sync",
    "send": "exposed/pipeline_send",
    "host": "host",
}
BUBBLE = "bubble"
STRAGGLER = "compute/straggler"
ALWAYS_LISTED = ("dispatch", "combine", "send", "sync")
ROUNDING = 1e-12  # of the step: less than this is no bubble


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Seconds by cause.

    Attributes:
        exposed: per cause, ``[pp]`` seconds; they sum to the step on every rank.
        busy: per activity, ``[pp]`` seconds during which it is under way, overlap counted twice.
        operations: per kind of schedule operation, ``[pp]`` seconds from its first to its last kernel.
    """

    exposed: dict[str, Floats]
    busy: dict[str, Floats]
    operations: dict[str, Floats]


def break_down(program: Program, timeline: Timeline, step_s: float, times: PieceTimes, slow: Floats) -> Breakdown:
    """Attribute every instant of every rank.

    Args:
        program: the tasks.
        timeline: when they ran.
        step_s: the step, in which other replicas may run a little longer than this one.
        times: what compute slots are sums of.
        slow: ``[pp]`` how many times as long each rank's GPU computes: what goes beyond once is its own cause.
    """
    n_ranks, usual = len(slow), 1 / np.maximum(slow, 1.0)
    shares = _compute_shares(program, times)
    exposed: dict[str, Floats] = {name: np.zeros(n_ranks) for name in _names()}
    busy: dict[str, Floats] = {}
    on_compute = program.graph.lane % len(LANES) == LANES.index("compute")
    on_compute &= program.graph.lane >= 0
    seconds = timeline.end_s - timeline.start_s
    for number, cause in enumerate(PHASE_CAUSES.values()):
        for column, family in enumerate(FAMILIES):
            share = shares[:, number, column]
            rows = on_compute & (share > 0)[program.graph.slot]
            spent = share[program.graph.slot[rows]] * seconds[rows]
            per_rank = np.bincount(program.rank[rows], weights=spent, minlength=n_ranks)
            exposed[f"compute/{cause}/{FAMILY_NAMES[family]}"] += per_rank * usual
            exposed[STRAGGLER] += per_rank * (1 - usual)
    rows = program.of("optimizer")
    step = np.bincount(program.rank[rows], weights=seconds[rows], minlength=n_ranks)
    exposed["optimizer"] += step * usual
    exposed[STRAGGLER] += step * (1 - usual)
    receiver = _receivers(program)
    messages = {category: np.flatnonzero(program.of(category)) for category in EXPOSED}
    for rank in range(n_ranks):
        for name, value in _idle_causes(program, timeline, rank, on_compute, receiver, messages).items():
            exposed[name][rank] += value
        left = step_s - sum(float(column[rank]) for column in exposed.values())
        exposed[BUBBLE][rank] = left if left > ROUNDING * step_s else 0.0
    for cause in EXPOSED:
        rows = program.of(cause)
        if cause in ALWAYS_LISTED or rows.any():
            busy[cause] = np.bincount(program.rank[rows], weights=seconds[rows], minlength=n_ranks)
    busy["compute"] = np.bincount(program.rank[on_compute], weights=seconds[on_compute], minlength=n_ranks)
    return Breakdown(exposed, busy, _operations(program, timeline, n_ranks))


def _names() -> list[str]:
    leaves = list(dict.fromkeys(FAMILY_NAMES.values()))
    compute = [f"compute/{cause}/{leaf}" for cause in PHASE_CAUSES.values() for leaf in leaves]
    return [*compute, STRAGGLER, "optimizer", *EXPOSED.values(), BUBBLE]


def _compute_shares(program: Program, times: PieceTimes) -> Floats:
    """``[n_slots, n_phases, n_families]`` share of each compute slot's time."""
    shares = np.zeros((len(program.slots), len(PHASES), len(FAMILIES)))
    for number, slot in enumerate(program.slots):
        if isinstance(slot, ComputeSlot) and (total := times.total(slot.entries)) > 0:
            np.add.at(shares[number], phases_of(slot.entries), times.seconds[list(slot.entries)] / total)
    return shares


def _receivers(program: Program) -> Ints:
    """``[n_tasks]`` the rank at the other end of a pipeline message, a task's own rank for everything else."""
    target = np.array([slot.target if isinstance(slot, SendSlot) else -1 for slot in program.slots])
    other = target[program.graph.slot]
    return np.where(other >= 0, other, program.rank)


def _idle_causes(
    program: Program, timeline: Timeline, rank: int, on_compute: Ints, receiver: Ints, messages: dict[str, Ints]
) -> dict[str, float]:
    """Seconds in which a rank computes nothing, by what is under way from or to it meanwhile."""
    covered = _intervals(timeline, np.flatnonzero((program.rank == rank) & on_compute))
    result = {}
    for category, name in EXPOSED.items():
        rows = messages[category]
        mine = rows[(program.rank[rows] == rank) | (receiver[rows] == rank)]
        with_this = _merge(np.concatenate([covered, _intervals(timeline, mine)])) if len(mine) else covered
        result[name] = _length(with_this) - _length(covered)
        covered = with_this
    return result


def _intervals(timeline: Timeline, rows: Ints) -> Floats:
    """``[n, 2]`` merged times during which any of some tasks runs."""
    return _merge(np.stack([timeline.start_s[rows], timeline.end_s[rows]], axis=1))


def _merge(intervals: Floats) -> Floats:
    """Union of intervals."""
    if not len(intervals):
        return intervals
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(intervals[:, 1])
    first = np.concatenate([[True], intervals[1:, 0] > reach[:-1]])
    starts = intervals[first, 0]
    last = np.append(np.flatnonzero(first)[1:] - 1, len(intervals) - 1)
    return np.stack([starts, reach[last]], axis=1)


def _length(intervals: Floats) -> float:
    return float((intervals[:, 1] - intervals[:, 0]).sum()) if len(intervals) else 0.0


def _operations(program: Program, timeline: Timeline, n_ranks: int) -> dict[str, Floats]:
    """Time in schedule operations, by kind."""
    first, last = operation_times(program, timeline)
    ranks = np.array([rank for rank, _ in program.ops])
    kinds = np.array([op.kind for _, op in program.ops])
    return {
        str(kind): np.bincount(ranks[kinds == kind], weights=(last - first)[kinds == kind], minlength=n_ranks)
        for kind in sorted(set(kinds.tolist()))
    }


def operation_times(program: Program, timeline: Timeline) -> tuple[Floats, Floats]:
    """``[n_ops]`` start and end of every schedule operation.

    From its first kernel or transfer to its last one; where its first transfer goes out before the operation ahead of
    it on the rank has ended, from that end on, so that operations of a rank follow each other.
    """
    real = (program.op >= 0) & ~program.of("start") & ~program.of("end")
    first, last = np.full(len(program.ops), np.inf), np.zeros(len(program.ops))
    np.minimum.at(first, program.op[real], timeline.start_s[real])
    np.maximum.at(last, program.op[real], timeline.end_s[real])
    for number in range(1, len(program.ops)):
        if program.ops[number][0] == program.ops[number - 1][0]:
            first[number] = max(first[number], last[number - 1])
            last[number] = max(last[number], last[number - 1])
    return first, last
