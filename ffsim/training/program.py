"""The programs of all pipeline ranks as one task graph.

The graph depends on the plan only; `ffsim.training.slot_costs` fills in what it costs, so that one graph serves every
variation of the inputs. One data-parallel replica stands for all of them: they are alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.engine import NO_LANE, TaskGraph
from ffsim.schedules import Op, plan_messages
from ffsim.training.blocks import (
    LANES,
    Block,
    Lane,
    Making,
    SendSlot,
    Slot,
    make_block,
)
from ffsim.training.costs import Condition, Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.recipes import make_recipes
from ffsim.training.stages import Stage
from ffsim.training.synchronise import Borders, Pass, add_synchronisation, beside
from ffsim.training.traffic import boundary_gather

Ints = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Program:
    """The task graph of one optimizer step and what its tasks are.

    Attributes:
        graph: tasks and order; slots index ``slots``.
        slots: what each slot is.
        rank: ``[n_tasks]`` pipeline rank.
        categories, category_code: what tasks are for, and ``[n_tasks]`` which of these each is.
        labels, label_code: names shown in a trace, likewise.
        op: ``[n_tasks]`` number of the operation (rank after rank), -1 for messages and what follows the pipeline.
        ops: every operation with its pipeline rank.
    """

    graph: TaskGraph
    slots: tuple[Slot, ...]
    rank: Ints
    categories: tuple[str, ...]
    category_code: Ints
    labels: tuple[str, ...]
    label_code: Ints
    op: Ints
    ops: tuple[tuple[int, Op], ...]

    @property
    def category(self) -> Ints:
        """``[n_tasks]`` what each task is for, as text."""
        return np.array(self.categories)[self.category_code]

    @property
    def label(self) -> Ints:
        """``[n_tasks]`` name shown in a trace."""
        return np.array(self.labels)[self.label_code]

    def of(self, category: str) -> Ints:
        """``[n_tasks]`` which tasks are for something."""
        number = self.categories.index(category) if category in self.categories else -1
        return np.asarray(self.category_code == number)


class _Collector:
    """Gathers blocks first, then single tasks, and lays both out as columns."""

    def __init__(self) -> None:
        self.n_tasks = 0
        self.slots: dict[Slot, int] = {None: 0}
        self._blocks: list[_Template] = []
        self._firsts: list[int] = []
        self._ranks: list[int] = []
        self.categories: dict[str, int] = {}
        self.labels: dict[str, int] = {}
        self._tasks: list[tuple[int, int, int, int, int]] = []
        self._edges: list[tuple[int, int]] = []

    def slot(self, slot: Slot) -> int:
        return self.slots.setdefault(slot, len(self.slots))

    def words(self, category: str, label: str) -> tuple[int, int]:
        """Numbers of a category and a label."""
        return (
            self.categories.setdefault(category, len(self.categories)),
            self.labels.setdefault(label, len(self.labels)),
        )

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
        self._tasks.append((number, self.slot(slot), rank, *self.words(category, label)))
        self.n_tasks += 1
        return self.n_tasks - 1

    def add_edges(self, edges: Iterable[tuple[int, int]]) -> None:
        self._edges += edges

    def program(self, ops: tuple[tuple[int, Op], ...]) -> Program:
        sizes = [len(block.lanes) for block in self._blocks]
        n_edges = [len(block.edges) for block in self._blocks]
        rank = np.repeat(self._ranks, sizes)
        lanes = np.concatenate([block.lanes for block in self._blocks])
        lane, slot, ranks, category, label = np.array(self._tasks, dtype=np.int64).reshape(-1, 5).T
        own = np.concatenate([block.edges for block in self._blocks]) + np.repeat(self._firsts, n_edges)[:, None]
        return Program(
            graph=TaskGraph(
                np.concatenate([np.where(lanes == NO_LANE, NO_LANE, rank * len(LANES) + lanes), lane]),
                np.concatenate([*(block.slots for block in self._blocks), slot]),
                np.concatenate([own, np.array(self._edges, dtype=np.int64).reshape(-1, 2)]),
            ),
            slots=tuple(self.slots),
            rank=np.concatenate([rank, ranks]),
            categories=tuple(self.categories),
            category_code=np.concatenate([*(block.categories for block in self._blocks), category]).astype(np.int8),
            labels=tuple(self.labels),
            label_code=np.concatenate([*(block.labels for block in self._blocks), label]).astype(np.int32),
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
    borders: tuple[Borders, Borders]

    @classmethod
    def of(cls, block: Block, collector: _Collector, *, split: bool) -> _Template:
        words = np.array([collector.words(*pair) for pair in zip(block.categories, block.labels, strict=True)])
        return cls(
            lanes=np.array([NO_LANE if lane is None else LANES.index(lane) for lane in block.lanes]),
            slots=np.array([collector.slot(slot) for slot in block.slots]),
            categories=words[:, 0],
            labels=words[:, 1],
            edges=np.array(block.edges, dtype=np.int64).reshape(-1, 2),
            borders=(block.begins, block.ends) if split else ({}, {}),
        )

    def borders_at(self, first: int) -> list[Borders]:
        """First and last tasks of the pieces of a copy that begins with a task."""
        return [
            {half: {place: first + task for place, task in places.items()} for half, places in borders.items()}
            for borders in self.borders
        ]


def build_program(inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces) -> Program:
    """Lay out one optimizer step: the pipeline, then gradient reduction, optimizer and parameter gathering."""
    schedule = layout.schedule
    making = Making(
        recipes=make_recipes(inputs, pieces),
        tensor_chunks=layout.tp if inputs.overlap.tensor else 1,
        host=inputs.software.host_issue.value > 0,
    )
    collector = _Collector()
    templates: dict[tuple[int, Op, bool, Condition | None], _Template] = {}
    starts: list[int] = []
    ends: list[int] = []
    ops: list[tuple[int, Op]] = []
    passes: list[Pass] = []
    ask = beside(inputs, layout)
    for rank, position, op in schedule.walk():
        split, condition = ask(rank, position, op)
        key = (rank, op._replace(chunk=0, chunk2=0), split, condition)
        if key not in templates:
            own = tuple(stages[stage] for stage in schedule.placement[rank])
            block = make_block(op, rank, own, making, split=split, condition=condition)
            templates[key] = _Template.of(block, collector, split=split)
        first = collector.add_block(templates[key], rank)
        starts.append(first)
        ends.append(collector.n_tasks - 1)
        ops.append((rank, op))
        passes.append(Pass(rank, position, op, first, ends[-1], *templates[key].borders_at(first)))
    _add_messages(inputs, layout, collector, starts, ends)
    add_synchronisation(inputs, layout, stages, pieces, collector, passes)
    return collector.program(tuple(ops))


def _add_messages(inputs: Inputs, layout: Layout, collector: _Collector, starts: list[int], ends: list[int]) -> None:
    """Every pipeline message as a task of the sender, on one lane per direction."""
    plan = plan_messages(layout.schedule, inputs.spec.plan.messages)
    n_ops = len(starts)
    tasks, arrived = [], []
    for source, target in plan.ends:
        wraps = layout.pp > 2 and abs(target - source) == layout.pp - 1  # stages dealt in turn: the last to the first
        lane: Lane = "send_next" if (target > source) != wraps else "send_previous"
        tasks.append(collector.add_task(SendSlot(source, target), source, lane, "send", f"to rank {target}"))
        arrived.append(tasks[-1])
        gather = boundary_gather(inputs, layout, target)
        if gather is not None:
            arrived[-1] = collector.add_task(gather, target, None, "tensor", f"gather from rank {source}")
            collector.add_edges([(tasks[-1], arrived[-1])])
    collector.add_edges(
        [
            (
                ends[before] if before < n_ops else arrived[before - n_ops],
                starts[after] if after < n_ops else tasks[after - n_ops],
            )
            for before, after in plan.edges
        ]
    )
