"""What follows the pipeline: gradients are reduced, clipped and applied, and parameters gathered again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from ffsim.training.blocks import Lane, Operation, OptimizerSlot, Slot, SyncSlot, What
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.stages import Stage


class Collector(Protocol):
    """What takes in tasks and their order (`ffsim.training.program`)."""

    def add_task(self, slot: Slot, rank: int, lane: Lane | None, category: str, label: str) -> int:
        """Append a task; returns its number."""

    def add_edges(self, edges: Iterable[tuple[int, int]]) -> None:
        """Let second tasks wait for first ones."""


def last_weight_gradients(layout: Layout, ends: list[int]) -> dict[tuple[int, int], tuple[int, int]]:
    """When a stage's gradients on a rank are complete: (rank, module) -> place and end of its last operation."""
    last: dict[tuple[int, int], tuple[int, int]] = {}
    for number, (rank, position, op) in enumerate(layout.schedule.walk()):
        if op.kind in {"B", "W"}:
            last[rank, op.module] = (position, ends[number])
        elif op.kind == "FB":
            last[rank, op.module2] = (position, ends[number])
    return last


def add_synchronisation(
    inputs: Inputs,
    layout: Layout,
    stages: tuple[Stage, ...],
    pieces: Pieces,
    collector: Collector,
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

    def __init__(self, collector: Collector) -> None:
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
