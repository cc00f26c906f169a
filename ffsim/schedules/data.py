"""Pipeline schedules as data: ordered operations and messages per rank. Durations are someone else's business."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ffsim.schedules.messages import Groups, group_messages
from ffsim.schedules.ops import Direction, Op, Transfer

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
        groups: messages where the schedule says itself when they are issued; see `messages`.
    """

    name: str
    placement: tuple[tuple[int, ...], ...]
    both_ends: bool
    n_micro_batches: int
    ops: tuple[tuple[Op, ...], ...]
    groups: Groups | None = None

    @property
    def n_ranks(self) -> int:
        """Pipeline ranks."""
        return len(self.ops)

    @cached_property
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

    @cached_property
    def messages(self) -> Groups:
        """``messages[rank][i]`` is issued together just before operation i, the last group after the last.

        Where the schedule does not say itself, see `group_messages`.
        """
        if self.groups is not None:
            return self.groups
        return group_messages([len(ops) for ops in self.ops], self.transfers)

    @cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """Every result that another rank needs, in the order of the operations that need them, rank after rank."""
        found = []
        for rank, position, op in self.walk():
            for key, module in self.inputs(rank, op):
                source = self.producers[key]
                if source[0] != rank:
                    sender = self.placement[source[0]].index(key[1])
                    found.append(Transfer(source, (rank, position), key[0], sender, module, key[3]))
        return tuple(found)

    def inputs(self, rank: int, op: Op) -> list[tuple[Key, int]]:
        """What an operation needs from other stages, and for which module."""
        found = []
        halves: tuple[tuple[Direction, tuple[int, int] | None], ...] = (("F", op.forward), ("B", op.backward))
        for direction, half in halves:
            key = None if half is None else self.needs(self.key(direction, rank, *half))
            if half is not None and key is not None:
                found.append((key, half[0]))
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


def from_orders(
    name: str, placement: tuple[tuple[int, ...], ...], n_micro_batches: int, orders: Sequence[Sequence[Op]]
) -> Schedule:
    """A schedule that feeds one end and is told by the order of operations on each rank."""
    return Schedule(
        name=name,
        placement=placement,
        both_ends=False,
        n_micro_batches=n_micro_batches,
        ops=tuple(tuple(ops) for ops in orders),
    )
