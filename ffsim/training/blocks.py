"""Operations of a schedule as small task graphs: kernels on the compute lane, expert traffic on its own.

An overlapped pair interleaves a forward and a backward the way DualPipe does: while one computes, the other's tokens
are on the wire.

    compute   F attention | B experts | W experts | F experts | B attention | W attention | ...
    experts   combine(B)  | dispatch(F)           | dispatch(B) | combine(F) | combine(B) of the next layer ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal, NamedTuple

from ffsim.model.pieces import PieceKind
from ffsim.schedules import Op
from ffsim.training.costs import Condition, entry
from ffsim.training.stages import Stage

Lane = Literal["compute", "experts", "send_next", "send_previous", "sync"]
LANES: tuple[Lane, ...] = ("compute", "experts", "send_next", "send_previous", "sync")

Category = Literal[
    "start", "end", "forward", "input_gradient", "weight_gradient", "dispatch", "combine", "send", "sync", "optimizer"
]


Operation = Literal["reduce", "gather", "all-reduce"]
What = Literal["dense", "experts", "embedding"]


class ComputeSlot(NamedTuple):
    """A duration that is a sum of entries of `PieceTimes`."""

    entries: tuple[int, ...]


class ExchangeSlot(NamedTuple):
    """One expert dispatch or combine of a pipeline rank."""

    name: Literal["dispatch", "combine"]
    rank: int
    condition: Condition


class SendSlot(NamedTuple):
    """One pipeline message."""

    source: int
    target: int


class SyncSlot(NamedTuple):
    """What a rank does of one gradient reduction or parameter gathering of a stage.

    ``reduce`` and ``gather`` move shards (ZeRO), ``all-reduce`` whole gradients; ``embedding`` is the copy on the last
    stage, which is summed up with the first stage's.

    Attributes:
        parameters: how many a rank's whole buffer holds.
        calls: collectives of equal size that it is spread over, one after the other.
    """

    operation: Operation
    what: What
    stage: int
    rank: int
    parameters: int
    calls: int


class OptimizerSlot(NamedTuple):
    """The optimizer step of a rank."""

    rank: int


Slot = ComputeSlot | ExchangeSlot | SendSlot | SyncSlot | OptimizerSlot | None


@dataclass(slots=True)
class Block:
    """A small task graph: task 0 is its start, the last its end; neither takes time."""

    lanes: list[Lane | None] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, lane: Lane | None, slot: Slot, category: Category, label: str, after: Iterable[int]) -> int:
        """Append a task that waits for others of the block."""
        task = len(self.lanes)
        self.lanes.append(lane)
        self.slots.append(slot)
        self.categories.append(category)
        self.labels.append(label)
        self.edges += [(before, task) for before in after]
        return task


class Part(NamedTuple):
    """Work of one pass over one piece, in two halves around its expert exchange.

    Attributes:
        outer, inner: entries computed outside and between dispatch and combine.
        outer_w, inner_w: weight gradients that belong to each half.
        experts: whether there is an exchange at all.
    """

    piece: PieceKind
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    outer_w: tuple[int, ...]
    inner_w: tuple[int, ...]
    experts: bool


def forward_parts(stage: Stage, condition: Condition, experts: frozenset[PieceKind]) -> list[Part]:
    """Forward work of a stage, piece by piece; what follows a combine is done with the next piece's first half."""
    parts: list[Part] = []
    carried: tuple[int, ...] = ()
    for piece in stage.pieces:
        exchange = piece in experts
        first = (*carried, entry(piece, "F", 0, condition))
        middle, last = entry(piece, "F", 1, condition), entry(piece, "F", 2, condition)
        if exchange:
            parts.append(Part(piece, first, (middle,), (), (), experts=True))
            carried = (last,)
        else:
            parts.append(Part(piece, (*first, middle, last), (), (), (), experts=False))
            carried = ()
    if carried:
        parts.append(Part(stage.pieces[-1], carried, (), (), (), experts=False))
    return parts


def backward_parts(stage: Stage, condition: Condition, experts: frozenset[PieceKind], *, weights: bool) -> list[Part]:
    """Backward work of a stage, last piece first; with its weight gradients unless they are put off."""
    parts = []
    for piece in reversed(stage.pieces):
        entries = {
            (phase, segment): entry(piece, phase, segment, condition) for phase in ("B", "W") for segment in range(3)
        }
        inner = (entries["B", 2], entries["B", 1])
        inner_w = (entries["W", 1], entries["W", 2]) if weights else ()
        outer_w = (entries["W", 0],) if weights else ()
        if piece in experts:
            parts.append(Part(piece, (entries["B", 0],), inner, outer_w, inner_w, experts=True))
        else:
            parts.append(Part(piece, (*inner, entries["B", 0]), (), (*inner_w, *outer_w), (), experts=False))
    return parts


def weight_entries(stage: Stage, condition: Condition) -> tuple[int, ...]:
    """Entries of the weight gradients of a whole stage."""
    return tuple(entry(piece, "W", segment, condition) for piece in reversed(stage.pieces) for segment in range(3))


def make_block(op: Op, rank: int, stages: tuple[Stage, ...], experts: frozenset[PieceKind]) -> Block:
    """Build the task graph of an operation.

    Args:
        op: the operation.
        rank: the pipeline rank that runs it.
        stages: the stages of its modules.
        experts: pieces whose tokens are exchanged with other ranks.
    """
    condition: Condition = "beside" if op.kind == "FB" else "alone"
    builder = _Builder(rank, condition)
    if op.kind == "W":
        entries = weight_entries(stages[op.module], condition)
        builder.compute(entries, "weight_gradient", "W stage", [builder.start])
        return builder.finish()
    forward = op.forward
    backward = op.backward
    ahead = builder.forward(forward_parts(stages[forward[0]], condition, experts)) if forward else iter(())
    weights = op.kind != "Bi"
    behind = (
        builder.backward(backward_parts(stages[backward[0]], condition, experts, weights=weights))
        if backward
        else iter(())
    )
    next(behind, None)  # the first expert traffic of the backward half goes out before anything is computed
    for _ in zip_longest(ahead, behind):  # taking turns, half a piece each
        pass
    return builder.finish()


class _Builder:
    """Adds tasks in the order in which a rank issues them; twice a piece a generator lets the other half go."""

    def __init__(self, rank: int, condition: Condition) -> None:
        self._rank = rank
        self._condition: Condition = condition
        self._block = Block()
        self._loose: set[int] = set()
        self.start = self._block.add(None, None, "start", "start", ())

    def compute(self, entries: tuple[int, ...], category: Category, label: str, after: Iterable[int]) -> int:
        return self._add("compute", ComputeSlot(entries), category, label, after)

    def exchange(self, name: Literal["dispatch", "combine"], label: str, after: Iterable[int]) -> int:
        return self._add("experts", ExchangeSlot(name, self._rank, self._condition), name, label, after)

    def _add(self, lane: Lane, slot: Slot, category: Category, label: str, after: Iterable[int]) -> int:
        before = list(after)
        self._loose.difference_update(before)
        task = self._block.add(lane, slot, category, label, before)
        self._loose.add(task)
        return task

    def forward(self, parts: list[Part]) -> Iterator[None]:
        """Forward work, from the first piece to the last."""
        last = self.start
        for part in parts:
            last = self.compute(part.outer, "forward", f"F {part.piece}", [last])
            if part.experts:
                last = self.exchange("dispatch", "dispatch F", [last])
            yield
            if part.experts:
                last = self.compute(part.inner, "forward", "F experts", [last])
                last = self.exchange("combine", "combine F", [last])
            yield

    def backward(self, parts: list[Part]) -> Iterator[None]:
        """Backward work, from the last piece to the first; the gradient of a combine is a dispatch, and vice versa.

        A piece's first traffic is issued as soon as the piece after it has its gradient, ahead of weight gradients.
        """
        last = self._open(parts[0], self.start)
        yield
        for number, part in enumerate(parts):
            if part.experts:
                last = self.compute(part.inner, "input_gradient", "B experts", [last])
                arrived = self.exchange("combine", "dispatch B", [last])
                if part.inner_w:
                    self.compute(part.inner_w, "weight_gradient", "W experts", [last])
                last = arrived
            yield
            through = self.compute(part.outer, "input_gradient", f"B {part.piece}", [last])
            last = self._open(parts[number + 1], through) if number + 1 < len(parts) else through
            if part.outer_w:
                self.compute(part.outer_w, "weight_gradient", f"W {part.piece}", [through])
            yield

    def _open(self, part: Part, after: int) -> int:
        return self.exchange("dispatch", "combine B", [after]) if part.experts else after

    def finish(self) -> Block:
        """Close the block with its end."""
        self._block.add(None, None, "end", "end", sorted(self._loose) or [self.start])
        return self._block
