"""When gradients are reduced and parameters gathered: the tasks that join a pipeline rank's data-parallel replicas.

Without overlap, gradients of a stage are reduced once its last pass has ended, and with ZeRO-1 the updated parameters
are gathered after the step. With it, buckets of gradients are reduced while that last pass goes on, and parameters are
gathered beside the first forward passes: those of the step before, as steps follow one another. ZeRO-2 reduces after
every pass, so that no rank keeps whole gradients (as DeepSpeed does), and ZeRO-3 also gathers each piece of a stage
before every use and frees it after (FSDP). All of it is issued in one order on one lane, as one communicator runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import NamedTuple, Protocol

from ffsim.schedules import Op
from ffsim.training.blocks import Half, Lane, Operation, OptimizerSlot, Slot, SyncSlot
from ffsim.training.buckets import Bucket, buckets, pieces_alone, replicated, whole
from ffsim.training.costs import Condition, Pieces
from ffsim.training.host_reduce import reduces_in_hosts
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.stages import Stage

Borders = Mapping[Half, Mapping[int, int]]


class Collector(Protocol):
    """What takes in tasks and their order (`ffsim.training.program`)."""

    def add_task(self, slot: Slot, rank: int, lane: Lane | None, category: str, label: str) -> int:
        """Append a task; returns its number."""

    def add_edges(self, edges: Iterable[tuple[int, int]]) -> None:
        """Let second tasks wait for first ones."""


class Pass(NamedTuple):
    """An operation of a rank in the task graph.

    Attributes:
        first, last: its first and last task.
        begins, ends: first and last task of each piece of the stage, by half; nothing where pieces are not told apart.
    """

    rank: int
    position: int
    op: Op
    first: int
    last: int
    begins: Borders
    ends: Borders


class Beside(NamedTuple):
    """What a pass must be prepared for.

    Attributes:
        split: its pieces are told apart, because collectives wait for them or they for collectives.
        condition: what runs beside all of it; none if nothing does, or if it is a pair, which has traffic of its own.
    """

    split: bool
    condition: Condition | None


def weights_of(op: Op) -> int:
    """The module whose weight gradients an operation computes, -1 for none."""
    if op.kind in {"B", "W"}:
        return op.module
    return op.module2 if op.kind == "FB" else -1


def beside(inputs: Inputs, layout: Layout) -> Callable[[int, int, Op], Beside]:
    """Which passes collectives of the data-parallel groups run beside: asked by (rank, position, operation)."""
    plan, overlap = inputs.spec.plan, inputs.overlap
    alone = layout.sharing(experts=inputs.model.moe is not None) == 1
    on_gpus = not reduces_in_hosts(inputs)
    last, first = set(_last_weight_gradients(layout).values()), set(_first_forwards(layout).values())

    def ask(rank: int, position: int, op: Op) -> Beside:
        if alone:
            return Beside(split=False, condition=None)
        every = plan.zero >= 2 and weights_of(op) >= 0
        reducing = bool(overlap.gradients) and (every or (rank, position) in last)
        gathering = bool(overlap.parameters) and 1 <= plan.zero <= 2 and (rank, position) in first
        using = plan.zero == 3 and op.kind != "W"
        split = reducing or gathering or plan.zero == 3
        busy = (reducing and on_gpus) or gathering or (using and bool(overlap.parameters))
        return Beside(split=split, condition="overlapped" if busy and op.kind != "FB" else None)

    return ask


def _last_weight_gradients(layout: Layout) -> dict[tuple[int, int], tuple[int, int]]:
    """When the gradients of (rank, module) are complete: after (rank, position)."""
    return {
        (rank, weights_of(op)): (rank, position) for rank, position, op in layout.schedule.walk() if weights_of(op) >= 0
    }


def _first_forwards(layout: Layout) -> dict[tuple[int, int], tuple[int, int]]:
    """When the parameters of (rank, module) are first used: in (rank, position)."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, position, op in layout.schedule.walk():
        if op.forward is not None:
            found.setdefault((rank, op.forward[0]), (rank, position))
    return found


def add_synchronisation(
    inputs: Inputs,
    layout: Layout,
    stages: tuple[Stage, ...],
    pieces: Pieces,
    collector: Collector,
    passes: Sequence[Pass],
) -> None:
    """Reduce gradients, clip across all ranks, step, gather parameters."""
    _Synchronisation(inputs, layout, stages, pieces, collector, passes).add()


class _Synchronisation:
    """One plan's collectives, in the order in which they are issued."""

    def __init__(
        self,
        inputs: Inputs,
        layout: Layout,
        stages: tuple[Stage, ...],
        pieces: Pieces,
        collector: Collector,
        passes: Sequence[Pass],
    ) -> None:
        self._zero, self._overlap = inputs.spec.plan.zero, inputs.overlap
        self._layout, self._stages, self._collector = layout, stages, collector
        self._lanes = _SyncLanes(collector)
        self._passes = {(one.rank, one.position): one for one in passes}
        self._last_weights = _last_weight_gradients(layout)
        self._by_rank: list[list[Pass]] = [[] for _ in range(layout.pp)]
        for one in passes:
            self._by_rank[one.rank].append(one)
        limit = inputs.bucket_bytes(layout.dp * layout.cp) / inputs.precision.gradient_wire_bytes.value
        in_calls = not reduces_in_hosts(inputs)  # HFReduce cuts what it gets into chunks of its own
        self._buckets = [buckets(stage, pieces, limit, in_calls=in_calls) for stage in stages]
        self._whole = [whole(stage, pieces) for stage in stages]
        self._alone = [pieces_alone(stage, pieces) for stage in stages] if self._zero == 3 else []
        self._replicated = [replicated(stage, pieces) for stage in stages]
        self._embedding = pieces.dense_parameters.get("embedding", 0)
        self._operation: Operation = "reduce" if self._zero >= 1 else "all-reduce"

    def add(self) -> None:
        """Everything, from the first gathering to the last."""
        ahead = bool(self._overlap.parameters) and 1 <= self._zero <= 2
        order = self._stages_by_completion()
        if ahead:
            self._gather_ahead()
        if self._zero >= 2:
            for rank in range(self._layout.pp):
                self._in_every_pass(rank)
            reduced = list(self._lanes.latest.values())
        else:
            reduced = [task for stage in order for task in self._reduce(stage)]
        last = len(self._stages) - 1
        if self._stages[last].embedding_copy:
            ranks = [*self._layout.holders(0), *self._layout.holders(last)]
            bucket = Bucket("embedding", self._embedding, 1, ())
            reduced += self._lanes.collective("all-reduce", bucket, last, ranks, reduced)
        reduced += self._reduce_replicated()
        steps = self._step(reduced)
        for stage in order if 1 <= self._zero <= 2 and not ahead else ():
            ranks = self._layout.holders(stage)
            for bucket in self._whole[stage]:
                self._lanes.collective("gather", bucket, stage, ranks, [steps[rank] for rank in ranks])

    def _reduce_replicated(self) -> Iterator[int]:
        """Add up, last of all, the gradients of what tensor-parallel ranks hold alike."""
        for rank, held in enumerate(self._layout.schedule.placement):
            total = sum(self._replicated[stage] for stage in held)
            if total:
                after = [self._by_rank[rank][-1].last]
                yield from self._lanes.collective(
                    "all-reduce", Bucket("replicated", total, 1, ()), held[0], [rank], after
                )

    def _step(self, reduced: list[int]) -> list[int]:
        """Clip by the norm of all gradients, then update; returns the optimizer's task on every rank."""
        add = self._collector.add_task
        norm = add(None, 0, None, "start", "gradient norm")
        steps = [add(OptimizerSlot(rank), rank, "compute", "optimizer", "optimizer") for rank in range(self._layout.pp)]
        last = [one.last for one in self._passes.values()] if not reduced else []
        self._collector.add_edges([(task, norm) for task in (*reduced, *last)] + [(norm, step) for step in steps])
        return steps

    def _stages_by_completion(self) -> list[int]:
        """Stages in the order in which their gradients are complete, the same on all their holders."""
        placement, done = self._layout.schedule.placement, self._last_weights
        latest = {
            stage: max(done[rank, placement[rank].index(stage)][1] for rank in self._layout.holders(stage))
            for stage in range(len(self._stages))
        }
        return sorted(latest, key=lambda stage: (latest[stage], stage))

    def _reduce(self, stage: int) -> Iterator[int]:
        """Reduce a stage's gradients: bucket by bucket beside its last pass, or all of them after it."""
        ranks = self._layout.holders(stage)
        last = [
            self._passes[self._last_weights[rank, self._layout.schedule.placement[rank].index(stage)]] for rank in ranks
        ]
        overlapped = all(one.ends.get("B") for one in last)
        for bucket in self._buckets[stage] if overlapped else self._whole[stage]:
            after = [one.ends["B"][min(bucket.places)] if overlapped else one.last for one in last]
            yield from self._lanes.collective(self._operation, bucket, stage, ranks, after)

    def _gather_ahead(self) -> None:
        """Gather what the step before has updated, first pieces first; the first passes wait for what they need."""
        placement, first = self._layout.schedule.placement, _first_forwards(self._layout)
        begin = {
            stage: [first[rank, placement[rank].index(stage)] for rank in self._layout.holders(stage)]
            for stage in range(len(self._stages))
        }
        for stage in sorted(begin, key=lambda stage: (max(position for _, position in begin[stage]), stage)):
            ranks = self._layout.holders(stage)
            for bucket in reversed(self._buckets[stage]):
                tasks = self._lanes.collective("gather", bucket, stage, ranks, [], category="parameters")
                starts = [self._passes[at].begins.get("F", {}) for at in begin[stage]]
                places = [starts[number].get(min(bucket.places)) for number in range(len(ranks))]
                self._collector.add_edges(
                    (task, place) for task, place in zip(tasks, places, strict=True) if place is not None
                )

    def _in_every_pass(self, rank: int) -> None:
        """ZeRO-2 and 3: collectives of every pass of a rank, in the order in which they are issued.

        The parameters of a piece are asked for while the piece before it is computed, ahead of that one's gradients;
        without overlap when it is done, behind them.
        """
        early, asynchronous = bool(self._overlap.parameters), bool(self._overlap.gradients)
        done: list[tuple[int, int]] = []  # first and last task of the pieces before
        waiting: list[tuple[int, Bucket, int]] = []  # gradients that are complete: stage, bucket, after which task
        for use in self._uses_of(rank):
            held = [] if early else self._flush(rank, waiting, use.begin)
            back = 2 if early else 1
            after = [_before(done[-back], use.begin)] if len(done) >= back else []
            gathered = [
                task
                for bucket in (self._alone[use.stage].get(use.place, []) if use.gathers else [])
                for task in self._lanes.collective("gather", bucket, use.stage, [rank], after, "parameters")
            ]
            held += self._flush(rank, waiting, use.begin)
            self._collector.add_edges((task, use.begin) for task in (*gathered, *([] if asynchronous else held)))
            waiting += [(use.stage, bucket, use.end) for bucket in self._complete(use)]
            done.append((use.begin, use.end))
        self._flush(rank, waiting)

    def _uses_of(self, rank: int) -> Iterator[_Use]:
        """The pieces that a rank computes with, pass by pass."""
        for one in self._by_rank[rank]:
            yield from _uses(one, self._layout.schedule.placement[rank], gathers=self._zero == 3)

    def _complete(self, use: _Use) -> list[Bucket]:
        """Buckets whose gradients are complete once a piece has been passed."""
        if not use.reduces:
            return []
        if use.place < 0:
            return self._whole[use.stage]
        if self._zero == 3:
            return self._alone[use.stage].get(use.place, [])
        return [bucket for bucket in self._buckets[use.stage] if min(bucket.places) == use.place]

    def _flush(self, rank: int, waiting: list[tuple[int, Bucket, int]], begin: float = inf) -> list[int]:
        """Issue the reductions whose gradients are complete before a task begins.

        In a pair the halves take turns: a piece of one may begin before that of the other, listed ahead, is done.
        """
        tasks = [
            task
            for stage, bucket, after in waiting
            if after < begin
            for task in self._lanes.collective("reduce", bucket, stage, [rank], [after])
        ]
        waiting[:] = [one for one in waiting if one[2] >= begin]
        return tasks


class _Use(NamedTuple):
    """A piece of a stage in one pass; place -1 is a whole stage that was not split."""

    stage: int
    place: int
    begin: int
    end: int
    gathers: bool
    reduces: bool


def _uses(one: Pass, placement: tuple[int, ...], *, gathers: bool) -> list[_Use]:
    """The pieces that a pass computes with, in its order."""
    op, found = one.op, []
    halves: list[tuple[Half, int]] = []
    if op.forward is not None:
        halves.append(("F", op.forward[0]))
    behind = op.backward[0] if op.backward is not None else weights_of(op)
    if behind >= 0:
        halves.append(("B", behind))
    for half, module in halves:
        reduces = half == "B" and weights_of(op) == module
        places = one.ends.get(half, {})
        if not places:
            found.append(_Use(placement[module], -1, one.first, one.last, False, reduces))
        for place, end in places.items():
            gathered = gathers and op.kind != "W"
            found.append(_Use(placement[module], place, one.begins[half][place], end, gathered, reduces))
    return sorted(found, key=lambda use: (use.begin, use.place))


def _before(earlier: tuple[int, int], begin: int) -> int:
    """The last task of an earlier piece, or its first where the halves of a pair are interleaved with it."""
    first, last = earlier
    return last if last < begin else first


class _SyncLanes:
    """Adds collectives of one or several pipeline ranks, which begin together on all of them."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.latest: dict[int, int] = {}

    def collective(
        self,
        operation: Operation,
        bucket: Bucket,
        stage: int,
        ranks: list[int],
        after: list[int],
        category: str = "sync",
    ) -> list[int]:
        """Append one collective; returns its task on every rank."""
        add, label = self._collector.add_task, f"{operation} {bucket.what}, stage {stage}"
        slots = [SyncSlot(operation, bucket.what, stage, rank, bucket.parameters, bucket.calls) for rank in ranks]
        before = [*after, *(self.latest[rank] for rank in ranks if rank in self.latest)]
        arrived = [add(None, ranks[0], None, "start", f"all ready to {label}")] if len(ranks) > 1 else []
        tasks = [add(slot, rank, "sync", category, label) for slot, rank in zip(slots, ranks, strict=True)]
        self._collector.add_edges((one, ready) for one in before for ready in arrived or tasks)
        self._collector.add_edges((ready, task) for ready in arrived for task in tasks)
        self.latest |= dict(zip(ranks, tasks, strict=True))
        return tasks
