"""Pipeline schedules as data: ordered operations and messages per rank. Durations are someone else's business."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

OpKind = Literal["F", "B", "Bi", "W", "FB"]
Direction = Literal["F", "B"]


class Op(NamedTuple):
    """One operation of a rank.

    Attributes:
        kind: F forward; B full backward; Bi its input-gradient half; W the weight-gradient half put off; FB one
            overlapped pair, forward of (module, chunk) with full backward of (module2, chunk2).
        module: which of the rank's stages.
        chunk: which micro-batch, counted within the module for a schedule that feeds both ends.
        module2, chunk2: the backward half of a pair.
    """

    kind: OpKind
    module: int
    chunk: int
    module2: int = -1
    chunk2: int = -1

    @property
    def forward(self) -> tuple[int, int] | None:
        """The (module, chunk) whose forward this is, if any."""
        return (self.module, self.chunk) if self.kind in {"F", "FB"} else None

    @property
    def backward(self) -> tuple[int, int] | None:
        """The (module, chunk) whose input gradient this computes, if any."""
        if self.kind == "FB":
            return (self.module2, self.chunk2)
        return (self.module, self.chunk) if self.kind in {"B", "Bi"} else None


class Message(NamedTuple):
    """One point-to-point message, as one end sees it: ``s`` send or ``r`` receive, with whom, what."""

    end: Literal["s", "r"]
    peer: int
    direction: Direction
    module: int
    chunk: int


Key = tuple[Direction, int, int, int]


@dataclass(frozen=True)
class Schedule:
    """What every rank of a pipeline does, in order.

    Attributes:
        name: as users write it.
        placement: stage of each rank's modules, ``placement[rank][module]``.
        both_ends: micro-batches enter at both ends and stay in the module they entered (DualPipe); otherwise they pass
            through all stages whatever module holds them.
        n_micro_batches: micro-batches per step, over both ends.
        ops: operations per rank.
        messages: ``messages[rank][i]`` is issued together just before operation i (the last group after the last).
    """

    name: str
    placement: tuple[tuple[int, ...], ...]
    both_ends: bool
    n_micro_batches: int
    ops: tuple[tuple[Op, ...], ...]
    messages: tuple[tuple[tuple[Message, ...], ...], ...]

    @property
    def n_ranks(self) -> int:
        """Pipeline ranks."""
        return len(self.ops)

    @property
    def n_stages(self) -> int:
        """Stages the model is cut into."""
        return 1 + max(stage for modules in self.placement for stage in modules)

    def key(self, direction: Direction, rank: int, module: int, chunk: int) -> Key:
        """Names a forward or backward by stage and micro-batch, the same on every rank."""
        return (direction, self.placement[rank][module], module if self.both_ends else 0, chunk)

    def needs(self, key: Key) -> Key | None:
        """The operation on another stage whose result this one needs, none at the entrance."""
        direction, stage, end, chunk = key
        if direction == "F":
            return None if stage == 0 else ("F", stage - 1, end, chunk)
        return None if stage == self.n_stages - 1 else ("B", stage + 1, end, chunk)

    @cached_property
    def producers(self) -> dict[Key, tuple[int, int]]:
        """Where each forward and input gradient is computed: key -> (rank, position)."""
        found: dict[Key, tuple[int, int]] = {}
        for rank, position, op in self.walk():
            if op.forward is not None:
                found[self.key("F", rank, *op.forward)] = (rank, position)
            if op.backward is not None:
                found[self.key("B", rank, *op.backward)] = (rank, position)
        return found

    def walk(self) -> Iterator[tuple[int, int, Op]]:
        """Every (rank, position, operation)."""
        for rank, ops in enumerate(self.ops):
            for position, op in enumerate(ops):
                yield rank, position, op

    def peak_activations(self, *, until_weight_gradient: bool = False) -> tuple[int, ...]:
        """Most micro-batches per rank whose forward ran and whose backward has not.

        Args:
            until_weight_gradient: hold a micro-batch until its W when its backward was split.
        """
        peaks = []
        for ops in self.ops:
            held = peak = 0
            for op in ops:
                held += op.forward is not None
                peak = max(peak, held)
                if op.kind == "W":
                    held -= until_weight_gradient
                elif op.backward is not None:
                    held -= not (until_weight_gradient and op.kind == "Bi")
            peaks.append(peak)
        return tuple(peaks)


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of schedule.

    Attributes:
        build: the schedule of so many ranks and micro-batches.
        check: raises the same errors without building it.
        stages_per_rank: stages the model is cut into, per rank.
        both_ends: see `Schedule`; every stage is held twice.
    """

    build: Callable[[int, int], Schedule]
    check: Callable[[int, int], None]
    stages_per_rank: int
    both_ends: bool = False


class RankRecorder:
    """Collects the operations and message groups of one rank, as a program for that rank would issue them."""

    def __init__(self, schedule_placement: tuple[tuple[int, ...], ...], rank: int, *, both_ends: bool) -> None:
        self._placement = schedule_placement
        self._rank = rank
        self._both_ends = both_ends
        self._last_stage = max(stage for modules in schedule_placement for stage in modules)
        self._holders = {
            (stage, module if both_ends else 0): holder
            for holder, modules in enumerate(schedule_placement)
            for module, stage in enumerate(modules)
        }
        self._pending: list[Message] = []
        self.ops: list[Op] = []
        self.groups: list[tuple[Message, ...]] = []

    def add(self, op: Op) -> None:
        """Issue the messages that wait, then the operation."""
        self.flush()
        self.ops.append(op)

    def flush(self) -> None:
        """Issue the messages that wait."""
        self.groups.append(tuple(self._pending))
        self._pending = []

    def message(self, end: Literal["s", "r"], direction: Direction, module: int, chunk: int) -> None:
        """Send a result on or receive an input, unless it stays on the rank or there is none."""
        stage = self._placement[self._rank][module]
        onward = (direction == "F") == (end == "s")
        other = stage + 1 if onward else stage - 1
        if not 0 <= other <= self._last_stage:
            return
        peer = self._holders[other, module if self._both_ends else 0]
        if peer != self._rank:
            self._pending.append(Message(end, peer, direction, module, chunk))
