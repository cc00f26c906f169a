"""Schedules made of a building block: the operations of one micro-batch, each at a slot of its own, again and again.

Rank r holds stages r and 2p - 1 - r, so that micro-batches end where they began. The work of one micro-batch takes a
rank six slots (forward, input and weight gradient of either stage one each, a full backward two). A block may therefore
be repeated every six slots if no two operations of a rank meet in a slot modulo six. How long it keeps an activation
sets how many a rank holds. Slots are those of equal durations: the order of a schedule depends on nothing else.

Source: Qi et al., arXiv 2405.15362: repeat, squeeze, reorder. How the two ends of a step are filled is inferred from
schedules made by github sail-sg/zero-bubble-pipeline-parallelism 39f2c18, which the golden tests hold these against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ffsim.schedules.data import Schedule, from_orders
from ffsim.schedules.ops import Op, OpKind

INTERVAL = 6
Block = Mapping[tuple[OpKind, int], int]  # kind and stage -> its slot for the first micro-batch


class Task(NamedTuple):
    """An operation in the repeated block; sorts by slot, then rank."""

    slot: int
    rank: int
    kind: OpKind
    stage: int
    chunk: int

    @property
    def width(self) -> int:
        """Slots it takes."""
        return 2 if self.kind == "B" else 1


def repeat(name: str, n_ranks: int, n_micro_batches: int, block: Block, *, steady: bool) -> Schedule:
    """The schedule of a block that is repeated and squeezed.

    In the order of their slots, operations go to the first free slot of their rank once their inputs are there. A
    forward also waits until its rank holds fewer activations than the fullest rank does in the repeated block.

    Args:
        name: of the schedule.
        n_ranks: pipeline ranks, two stages each.
        n_micro_batches: micro-batches per step.
        block: slots of the operations of every stage.
        steady: from the first micro-batch's last backward to the last one's first forward, ranks keep to the order of
            the block, but for weight gradients. From then on weight gradients make room or fill what is free.
    """
    rows = _Rows(n_ranks, fullest(n_ranks, block))
    tasks = _repeated(n_ranks, n_micro_batches, block)
    if steady:
        _place(rows, tasks, begin=block["Bi", 0], end=INTERVAL * (n_micro_batches - 1))
    else:
        for task in tasks:
            rows.put(task)
    placement = tuple((rank, 2 * n_ranks - 1 - rank) for rank in range(n_ranks))
    return from_orders(name, placement, n_micro_batches, [list(rows.order(rank)) for rank in range(n_ranks)])


def fullest(n_ranks: int, block: Block) -> int:
    """Most stages' activations that a rank holds while a block is repeated without end.

    >>> fullest(1, {("F", 0): 0, ("F", 1): 1, ("B", 1): 2, ("B", 0): 4})
    2
    """
    held = [[0] * INTERVAL for _ in range(n_ranks)]
    for stage in range(2 * n_ranks):
        end = block["B", stage] + 2 if ("B", stage) in block else block["W", stage] + 1
        for slot in range(block["F", stage], end):
            held[rank_of(n_ranks, stage)][slot % INTERVAL] += 1
    return max(max(slots) for slots in held)


def rank_of(n_ranks: int, stage: int) -> int:
    """Where a stage is held."""
    return min(stage, 2 * n_ranks - 1 - stage)


def _repeated(n_ranks: int, n_micro_batches: int, block: Block) -> list[Task]:
    """The block of every micro-batch, by slot and rank."""
    return sorted(
        Task(slot + INTERVAL * chunk, rank_of(n_ranks, stage), kind, stage, chunk)
        for (kind, stage), slot in block.items()
        for chunk in range(n_micro_batches)
    )


def _place(rows: _Rows, tasks: list[Task], begin: int, end: int) -> None:
    """Warm-up, steady middle between two slots of the repeated block, and cool-down."""
    end = max(end, begin + 1)
    gained = 0
    for task in tasks:
        cools_from = end if task.rank == 0 else end - 1
        if task.slot >= cools_from:
            if task.kind == "W":
                rows.put_off(task)
            else:
                rows.put(task, not_before=cools_from - gained)
        elif task.slot < begin or task.kind == "W":
            rows.put(task)
        else:
            rows.put(task, not_before=rows.turn[task.rank])
        if task.slot == begin and task.rank == 0:
            gained = begin + 1 - rows.turn[0]
    rows.put_rest()


class _Rows:
    """What every rank does in which slot so far.

    Attributes:
        turn: of each rank, the end of the last slot taken by anything but a weight gradient.
    """

    def __init__(self, n_ranks: int, limit: int) -> None:
        self._last_stage = 2 * n_ranks - 1
        self._limit = limit
        self._taken: list[list[Task | None]] = [[] for _ in range(n_ranks)]
        self._change: list[list[int]] = [[] for _ in range(n_ranks)]  # of activations held, as each slot begins
        self._held = [0] * n_ranks  # once everything so far is done
        self._put_off: list[list[Task]] = [[] for _ in range(n_ranks)]
        self._ends: dict[tuple[str, int, int], int] = {}
        self.turn = [0] * n_ranks

    def order(self, rank: int) -> Iterator[Op]:
        """The operations of a rank."""
        for task in dict.fromkeys(self._taken[rank]):
            if task is not None:
                yield Op(task.kind, int(task.stage != rank), task.chunk)

    def put(self, task: Task, *, not_before: int = 0) -> None:
        """Take the first free slot; weight gradients that were put off make room for a forward that lacks it."""
        slot = max(not_before, self._arrival(task))
        if task.kind == "F":
            while self._held[task.rank] >= self._limit:
                weight = self._put_off[task.rank].pop(0)
                self._take(weight, self._free(weight, self._arrival(weight)))
            slot = self._room(task.rank, slot)
        self._take(task, self._free(task, slot))

    def put_off(self, task: Task) -> None:
        """Leave a weight gradient for later, behind those of the second stage, whose activations are younger."""
        rest = self._put_off[task.rank]
        rest.append(task)
        rest.sort(key=lambda task: (-task.stage, task.chunk))

    def put_rest(self) -> None:
        """Fill the slots that are left with what was put off, each with the first that can go there."""
        for rest in self._put_off:
            slot = 0
            while rest:
                slot = self._free(rest[0], slot)
                ready = next((task for task in rest if self._arrival(task) <= slot), None)
                if ready is not None:
                    rest.remove(ready)
                    self._take(ready, slot)
                slot += 1

    def _arrival(self, task: Task) -> int:
        """When all inputs are there."""
        _, _, kind, stage, chunk = task
        if kind == "W":
            return self._ends["B", stage, chunk]
        if kind == "F":
            return self._ends["F", stage - 1, chunk] if stage > 0 else 0
        after = ("B", stage + 1, chunk) if stage < self._last_stage else ("F", stage, chunk)
        return self._ends[after]

    def _room(self, rank: int, slot: int) -> int:
        """The first slot from a given one on after which a rank never holds as much as it may."""
        changes, held = self._change[rank], self._held[rank]
        for last in range(len(changes) - 1, slot - 1, -1):
            if held >= self._limit:
                return last + 1
            held -= changes[last]
        return slot

    def _free(self, task: Task, slot: int) -> int:
        """The first slot from a given one on where a task fits."""
        taken = self._taken[task.rank]
        while any(taken[slot : slot + task.width]):
            slot += 1
        return slot

    def _take(self, task: Task, slot: int) -> None:
        rank, end = task.rank, slot + task.width
        taken, change = self._taken[rank], self._change[rank]
        taken += [None] * (end - len(taken))
        change += [0] * (end + 1 - len(change))
        taken[slot:end] = [task] * task.width
        self._ends[task.kind[0], task.stage, task.chunk] = end
        if task.kind == "F":
            change[slot] += 1
            self._held[rank] += 1
        elif task.kind != "Bi":
            change[end] -= 1
            self._held[rank] -= 1
        if task.kind != "W":
            self.turn[rank] = max(self.turn[rank], end)
