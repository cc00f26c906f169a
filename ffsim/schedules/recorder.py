"""Records the program of a rank as it issues operations and messages."""

from __future__ import annotations

from typing import Literal

from ffsim.schedules.ops import Direction, Message, Op


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
