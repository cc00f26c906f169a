"""The programs of all pipeline ranks as one task graph.

The graph depends on the plan only; `ffsim.training.slot_costs` fills in what it costs, so that one graph serves every
variation of the inputs. One data-parallel replica stands for all of them: they are alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ffsim.engine import NO_LANE, TaskGraph
from ffsim.schedules import Op, plan_messages
from ffsim.training.blocks import (
    LANES,
    Block,
    Lane,
    Operation,
    OptimizerSlot,
    SendSlot,
    Slot,
    SyncSlot,
    What,
    make_block,
)
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.stages import Stage

Ints = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Program:
    """The task graph of one optimizer step and what its tasks are.

    Attributes:
        graph: tasks and order; slots index ``slots``.
        slots: what each slot is.
        rank: ``[n_tasks]`` pipeline rank.
        category: ``[n_tasks]`` what the task is for, as text.
        label: ``[n_tasks]`` name shown in a trace.
        op: ``[n_tasks]`` number of the operation (rank after rank), -1 for messages and what follows the pipeline.
        ops: every operation with its pipeline rank.
    """

    graph: TaskGraph
    slots: tuple[Slot, ...]
    rank: Ints
    category: Ints
    label: Ints
    op: Ints
    ops: tuple[tuple[int, Op], ...]


class _Collector:
    """Gathers blocks first, then single tasks, and lays both out as columns."""

    def __init__(self) -> None:
        self.n_tasks = 0
        self.slots: dict[Slot, int] = {None: 0}
        self._blocks: list[_Template] = []
        self._firsts: list[int] = []
        self._ranks: list[int] = []
        self._tasks: list[tuple[int, int, int, str, str]] = []
        self._edges: list[tuple[int, int]] = []

    def slot(self, slot: Slot) -> int:
        return self.slots.setdefault(slot, len(self.slots))

    def add_block(self, block: _Template, rank: int) -> int:
        """Append a copy of a block, the next operation; returns the number of its first task."""
        assert not self._tasks, "blocks come first"
        first = self.n_tasks
        self._blocks.append(block)
        self._firsts.append(first)
        self._ranks.append(rank)
        self.n_tasks += len(block.lanes)
        return first

    def add_task(self, slot: Slot, rank: int, lane: Lane | None, category: str, label: str) -> int:
        """Append a task of its own."""
        number = NO_LANE if lane is None else rank * len(LANES) + LANES.index(lane)
        self._tasks.append((number, self.slot(slot), rank, category, label))
        self.n_tasks += 1
        return self.n_tasks - 1

    def add_edges(self, edges: Iterable[tuple[int, int]]) -> None:
        self._edges += edges

    def program(self, ops: tuple[tuple[int, Op], ...]) -> Program:
        sizes = [len(block.lanes) for block in self._blocks]
        n_edges = [len(block.edges) for block in self._blocks]
        rank = np.repeat(self._ranks, sizes)
        lanes = np.concatenate([block.lanes for block in self._blocks])
        lane, slot, ranks, category, label = zip(*self._tasks, strict=True)
        own = np.concatenate([block.edges for block in self._blocks]) + np.repeat(self._firsts, n_edges)[:, None]
        return Program(
            graph=TaskGraph(
                np.concatenate([np.where(lanes == NO_LANE, NO_LANE, rank * len(LANES) + lanes), lane]),
                np.concatenate([*(block.slots for block in self._blocks), slot]),
                np.concatenate([own, np.array(self._edges, dtype=np.int64).reshape(-1, 2)]),
            ),
            slots=tuple(self.slots),
            rank=np.concatenate([rank, ranks]),
            category=np.concatenate([*(block.categories for block in self._blocks), category]),
            label=np.concatenate([*(block.labels for block in self._blocks), label]),
            op=np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(len(self._tasks), -1)]),
            ops=ops,
        )


@dataclass(frozen=True, slots=True)
class _Template:
    """A block as arrays, ready to be copied."""

    lanes: Ints
    slots: Ints
    categories: Ints
    labels: Ints
    edges: Ints

    @classmethod
    def of(cls, block: Block, collector: _Collector) -> _Template:
        return cls(
            lanes=np.array([NO_LANE if lane is None else LANES.index(lane) for lane in block.lanes]),
            slots=np.array([collector.slot(slot) for slot in block.slots]),
            categories=np.array(block.categories),
            labels=np.array(block.labels),
            edges=np.array(block.edges, dtype=np.int64).reshape(-1, 2),
        )


def build_program(inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces) -> Program:
    """Lay out one optimizer step: the pipeline, then gradient reduction, optimizer and parameter gathering."""
    schedule = layout.schedule
    experts = frozenset(kind for kind, lowered in pieces.lowered.items() if lowered.has_experts and layout.ep > 1)
    collector = _Collector()
    templates: dict[tuple[int, Op], _Template] = {}
    starts: list[int] = []
    ends: list[int] = []
    ops: list[tuple[int, Op]] = []
    for rank, _, op in schedule.walk():
        key = (rank, op._replace(chunk=0, chunk2=0))
        if key not in templates:
            own = tuple(stages[stage] for stage in schedule.placement[rank])
            templates[key] = _Template.of(make_block(op, rank, own, experts), collector)
        first = collector.add_block(templates[key], rank)
        starts.append(first)
        ends.append(collector.n_tasks - 1)
        ops.append((rank, op))
    _add_messages(inputs, layout, collector, starts, ends)
    _add_synchronisation(inputs, layout, stages, pieces, collector, _last_weight_gradients(layout, ends))
    return collector.program(tuple(ops))


def _add_messages(inputs: Inputs, layout: Layout, collector: _Collector, starts: list[int], ends: list[int]) -> None:
    """Every pipeline message as a task of the sender, on one lane per direction."""
    plan = plan_messages(layout.schedule, inputs.spec.plan.messages)
    n_ops = len(starts)
    tasks = []
    for source, target in plan.ends:
        lane: Lane = "send_next" if target > source else "send_previous"
        tasks.append(collector.add_task(SendSlot(source, target), source, lane, "send", f"to rank {target}"))
    collector.add_edges(
        [
            (
                ends[before] if before < n_ops else tasks[before - n_ops],
                starts[after] if after < n_ops else tasks[after - n_ops],
            )
            for before, after in plan.edges
        ]
    )


def _last_weight_gradients(layout: Layout, ends: list[int]) -> dict[tuple[int, int], tuple[int, int]]:
    """When a stage's gradients on a rank are complete: (rank, module) -> place and end of its last operation."""
    last: dict[tuple[int, int], tuple[int, int]] = {}
    for number, (rank, position, op) in enumerate(layout.schedule.walk()):
        if op.kind in {"B", "W"}:
            last[rank, op.module] = (position, ends[number])
        elif op.kind == "FB":
            last[rank, op.module2] = (position, ends[number])
    return last


def _add_synchronisation(
    inputs: Inputs,
    layout: Layout,
    stages: tuple[Stage, ...],
    pieces: Pieces,
    collector: _Collector,
    complete: dict[tuple[int, int], tuple[int, int]],
) -> None:
    """Reduce each stage's gradients once all its holders have them, clip across all ranks, step, gather parameters.

    Stages go in the order in which their gradients are complete, the same on all their holders.
    """
    placement, sharded = layout.schedule.placement, inputs.spec.plan.zero >= 1
    lanes = _SyncLanes(collector)
    done = {
        stage: [complete[rank, placement[rank].index(stage)] for rank in layout.holders(stage)]
        for stage in range(len(stages))
    }
    order = sorted(done, key=lambda stage: (max(done[stage])[0], stage))
    reduced: list[int] = []
    for stage in order:
        for what in _held(stages[stage], pieces):
            operation: Operation = "reduce" if sharded else "all-reduce"
            after = [end for _, end in done[stage]]
            reduced += lanes.collective(operation, what, stage, layout.holders(stage), after)
    last = len(stages) - 1
    if stages[last].embedding_copy:
        ranks = [*layout.holders(0), *layout.holders(last)]
        reduced += lanes.collective("all-reduce", "embedding", last, ranks, reduced)
    norm = collector.add_task(None, 0, None, "start", "gradient norm")
    collector.add_edges([(task, norm) for task in reduced])
    steps = [
        collector.add_task(OptimizerSlot(rank), rank, "compute", "optimizer", "optimizer") for rank in range(layout.pp)
    ]
    collector.add_edges([(norm, step) for step in steps])
    for stage in order if sharded else ():
        for what in _held(stages[stage], pieces):
            ranks = layout.holders(stage)
            lanes.collective("gather", what, stage, ranks, [steps[rank] for rank in ranks])


def _held(stage: Stage, pieces: Pieces) -> list[Literal["dense", "experts"]]:
    """Kinds of parameters of a stage."""
    return ["dense", "experts"] if any(pieces.expert_parameters[piece] for piece in stage.pieces) else ["dense"]


class _SyncLanes:
    """Adds collectives of several pipeline ranks, which begin together on all of them."""

    def __init__(self, collector: _Collector) -> None:
        self._collector = collector
        self._latest: dict[int, int] = {}

    def collective(self, operation: Operation, what: What, stage: int, ranks: list[int], after: list[int]) -> list[int]:
        """Append one collective; returns its task on every rank."""
        add, label = self._collector.add_task, f"{operation} {what}, stage {stage}"
        before = [*after, *(self._latest[rank] for rank in ranks if rank in self._latest)]
        arrived = add(None, ranks[0], None, "start", f"all ready to {label}")
        tasks = [add(SyncSlot(operation, what, stage, rank), rank, "sync", "sync", label) for rank in ranks]
        self._collector.add_edges([(task, arrived) for task in before] + [(arrived, task) for task in tasks])
        self._latest |= dict(zip(ranks, tasks, strict=True))
        return tasks
