"""Operations of a schedule as small task graphs: kernels on the compute lane, exchanges with other ranks on their own.

An overlapped pair interleaves a forward and a backward the way DualPipe does: while one computes, the other's tokens
are on the wire.

    compute   F attention | B experts | W experts | F experts | B attention | W attention | ...
    experts   combine(B)  | dispatch(F)           | dispatch(B) | combine(F) | combine(B) of the next layer ...

What a tensor, context or expert-tensor group exchanges holds up the pass that needs it; weight gradients fill the time.
Where it is overlapped with products, it runs in as many chunks as the group has ranks: the products wait for the first
chunk of a gathering, and what follows a scattering for its last. Source: Transformer Engine's ring-exchange overlap.
Domain: the products beside take at least as long as the exchange; which of a step's products they are is not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal, NamedTuple, get_args

from ffsim.model.lowering import Exchange, ExchangeKind
from ffsim.schedules import Op
from ffsim.training.costs import Condition, entry
from ffsim.training.passes import Step, backward_steps, forward_steps, has_exchanges, merged, weight_steps
from ffsim.training.recipes import Part, Recipes
from ffsim.training.stages import Stage

GroupLane = Literal["tensor", "context", "expert_tensor"]
Lane = Literal["compute", "experts", "send_next", "send_previous", "sync", GroupLane, "host"]
LANES: tuple[Lane, ...] = get_args(Lane)

Category = Literal[
    "start",
    "end",
    "forward",
    "backward",
    "input_gradient",
    "weight_gradient",
    "dispatch",
    "combine",
    GroupLane,
    "send",
    "parameters",
    "sync",
    "optimizer",
    "host",
]


Half = Literal["F", "B"]
Operation = Literal["reduce", "gather", "all-reduce"]
What = Literal["dense", "experts", "embedding", "replicated"]


class ComputeSlot(NamedTuple):
    """A duration that is a sum of entries of `PieceTimes`, times ``slow``."""

    entries: tuple[int, ...]
    slow: float = 1.0


class ExchangeSlot(NamedTuple):
    """One expert dispatch or combine of a pipeline rank."""

    name: Literal["dispatch", "combine"]
    rank: int
    condition: Condition


class GroupSlot(NamedTuple):
    """One exchange within the tensor, context or expert-tensor groups of a pipeline rank.

    Attributes:
        size_bytes: as in `ffsim.model.lowering.Exchange`.
        part: share of it that this task is, where it runs in chunks.
    """

    operation: ExchangeKind
    group: GroupLane
    rank: int
    size_bytes: float
    part: float = 1.0


class HostSlot(NamedTuple):
    """The host of a rank, issuing the kernels of a sum of entries of `PieceTimes`."""

    rank: int  # keeps it apart from a `ComputeSlot`, which is equal to any tuple of the same entries
    entries: tuple[int, ...]


class SendSlot(NamedTuple):
    """One pipeline message."""

    source: int
    target: int


class SyncSlot(NamedTuple):
    """What a rank does of one gradient reduction or parameter gathering of a stage.

    ``reduce`` and ``gather`` move shards (ZeRO), ``all-reduce`` whole gradients; ``embedding`` is the copy on the last
    stage, which is summed up with the first stage's, ``replicated`` what tensor-parallel ranks hold alike.

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


Slot = ComputeSlot | ExchangeSlot | GroupSlot | HostSlot | SendSlot | SyncSlot | OptimizerSlot | None


@dataclass(slots=True)
class Block:
    """A small task graph: task 0 is its start, the last its end; neither takes time.

    Attributes:
        begins, ends: by half (F or B; the latter for weight gradients on their own, too): first and last computing task
            of every piece, by its place in the stage. Exact where the block was made with ``split``.
    """

    lanes: list[Lane | None] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    begins: dict[Half, dict[int, int]] = field(default_factory=lambda: {"F": {}, "B": {}})
    ends: dict[Half, dict[int, int]] = field(default_factory=lambda: {"F": {}, "B": {}})

    def add(self, lane: Lane | None, slot: Slot, category: Category, label: str, after: Iterable[int]) -> int:
        """Append a task that waits for others of the block."""
        task = len(self.lanes)
        self.lanes.append(lane)
        self.slots.append(slot)
        self.categories.append(category)
        self.labels.append(label)
        self.edges += [(before, task) for before in after]
        return task


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How blocks of a plan are made.

    Attributes:
        recipes: what passes over each piece consist of.
        tensor_chunks: chunks in which traffic of tensor groups runs beside products; 1 where it holds them up.
        host: whether the time in which the host issues kernels counts.
    """

    recipes: Recipes
    tensor_chunks: int = 1
    host: bool = False


def make_block(
    op: Op,
    rank: int,
    stages: tuple[Stage, ...],
    making: Making,
    *,
    split: bool = False,
    condition: Condition | None = None,
) -> Block:
    """Build the task graph of an operation.

    Args:
        op: the operation.
        rank: the pipeline rank that runs it.
        stages: the stages of its modules.
        making: what holds for all blocks of the plan.
        split: keep the pieces apart, so that others can wait for the end of each.
        condition: what runs beside all of the block; found from its own exchanges by default.
    """
    recipes = making.recipes
    used = [stages[half[0]] for half in (op.forward, op.backward) if half is not None]
    busy = any(has_exchanges(stage, recipes) for stage in used)
    builder = _Builder(rank, making, condition or _condition(op, used, recipes))
    if op.kind == "W":
        builder.alone(weight_steps(stages[op.module], recipes, split=split), "weight_gradient")
        return builder.finish()
    ahead: Iterator[None] = iter(())
    behind: Iterator[None] = iter(())
    if op.forward is not None:
        steps = forward_steps(stages[op.forward[0]], recipes, split=split)
        ahead = builder.forward(steps if busy or split else [merged(steps, "F stage")])
    if op.backward is not None:
        weights = op.kind != "Bi"
        steps = backward_steps(stages[op.backward[0]], recipes, weights=weights, split=split)
        whole: Category = "backward" if weights else "input_gradient"
        behind = builder.backward(steps) if busy or split else builder.whole([merged(steps, "B stage")], whole)
    next(behind, None)  # the first exchange of the backward half goes out before anything is computed
    for _ in zip_longest(ahead, behind):  # taking turns, half a piece each
        pass
    return builder.finish()


def _condition(op: Op, stages: list[Stage], recipes: Recipes) -> Condition:
    """What the halves of an overlapped pair find beside them: each other's exchanges."""
    if op.kind != "FB":
        return "alone"
    cuts = [cut for stage in stages for piece in stage.pieces for cut in recipes[piece].cuts]
    groups = {exchange.group for cut in cuts for exchange in (*cut.forward, *cut.backward)}
    if not groups or "expert" in groups:
        return "beside"
    return "overlapped"


class _Builder:
    """Adds tasks in the order in which a rank issues them; twice a piece a generator lets the other half go."""

    def __init__(self, rank: int, making: Making, condition: Condition) -> None:
        self._rank = rank
        self._making = making
        self._condition: Condition = condition
        self._block = Block()
        self._loose: set[int] = set()
        self._computed: list[int] = []
        self._start = self._block.add(None, None, "start", "start", ())

    def forward(self, steps: list[Step]) -> Iterator[None]:
        """Forward work, from the first piece to the last."""
        pass_ = _Pass("F", "forward", [self._start])
        for step in steps:
            yield from self._turns(pass_, step)

    def backward(self, steps: list[Step]) -> Iterator[None]:
        """Backward work, from the last piece to the first; the gradient of a combine is a dispatch, and vice versa.

        A piece's first exchange is issued as soon as the piece after it has its gradient, ahead of weight gradients.
        """
        pass_ = _Pass("B", "input_gradient", [self._start])
        opening = bool(steps) and not steps[0].parts
        if opening:
            self._step(pass_, steps[0])
        yield
        for step in steps[opening:]:
            yield from self._turns(pass_, step)

    def whole(self, steps: list[Step], category: Category) -> Iterator[None]:
        """Backward work without exchanges, weight gradients and all."""
        yield
        self.alone(steps, category)

    def alone(self, steps: list[Step], category: Category) -> None:
        """Steps without exchanges, one after the other."""
        pass_ = _Pass("B", category, [self._start])
        for step in steps:
            self._step(pass_, step)

    def _turns(self, pass_: _Pass, step: Step) -> Iterator[None]:
        for _ in range(step.rest_before):
            yield
        self._step(pass_, step)
        yield
        for _ in range(step.rest_after):
            yield

    def _step(self, pass_: _Pass, step: Step) -> None:
        """Compute, send the exchanges that follow on their way, compute weight gradients meanwhile."""
        scattered = self._scattered(step)
        bulk = [self._exchange(pass_, each, pass_.last, 1 - 1 / self._making.tensor_chunks) for each in scattered]
        beside = [*pass_.beside, *bulk]
        pass_.beside = []
        done = pass_.last
        if step.parts:
            done = [self._compute(pass_, step, step.parts, pass_.category, step.label, pass_.last, bool(beside))]
        done = [*done, *beside]
        last = [self._exchange(pass_, each, done, 1 / self._making.tensor_chunks) for each in scattered]
        for exchange in step.then[len(scattered) :]:
            last += self._sent(pass_, exchange, done)
        pass_.last = last or done
        if step.late:
            label = f"W {step.label.partition(' ')[2]}"
            among = any(exchange.group != "expert" for exchange in step.then)
            self._compute(pass_, step, step.late, "weight_gradient", label, done, among)

    def _scattered(self, step: Step) -> list[Exchange]:
        """The exchange that can begin while its step still computes, if any; weight gradients hide it as well."""
        first = step.then[:1] if step.parts and not step.late else ()
        return [each for each in first if self._in_chunks(each) and each.operation == "reduce-scatter"]

    def _in_chunks(self, exchange: Exchange) -> bool:
        return self._making.tensor_chunks > 1 and exchange.group == "tensor" and not exchange.beside

    def _sent(self, pass_: _Pass, exchange: Exchange, after: list[int]) -> list[int]:
        """Issue an exchange; returns what the next step waits for before it begins."""
        if exchange.beside:
            pass_.beside.append(self._exchange(pass_, exchange, after))
            return []
        if not self._in_chunks(exchange) or exchange.operation != "all-gather":
            return [self._exchange(pass_, exchange, after)]
        chunks = self._making.tensor_chunks
        first = self._exchange(pass_, exchange, after, 1 / chunks)
        pass_.beside.append(self._exchange(pass_, exchange, [first], 1 - 1 / chunks))
        return [first]

    def _compute(
        self,
        pass_: _Pass,
        step: Step,
        parts: tuple[Part, ...],
        category: Category,
        label: str,
        after: list[int],
        beside: bool,
    ) -> int:
        condition: Condition = "overlapped" if beside and self._condition == "alone" else self._condition
        entries = tuple(entry(*part, condition) for part in parts)
        self._computed += entries
        task = self._add("compute", ComputeSlot(entries), category, label, after)
        for place in step.places:
            self._block.begins[pass_.half].setdefault(place, task)
            self._block.ends[pass_.half][place] = task
        return task

    def _exchange(self, pass_: _Pass, exchange: Exchange, after: list[int], part: float = 1.0) -> int:
        operation, group = exchange.operation, exchange.group
        if group != "expert":
            slot = GroupSlot(operation, group, self._rank, exchange.size_bytes, part)
            return self._add(group, slot, group, f"{operation} {pass_.half}", after)
        assert operation in {"dispatch", "combine"}
        name: Literal["dispatch", "combine"] = "dispatch" if operation == "dispatch" else "combine"
        gradient_of = {"dispatch": "combine B", "combine": "dispatch B"}
        label = f"{name} F" if pass_.half == "F" else gradient_of[name]
        condition: Condition = "beside" if self._condition == "beside" else "alone"
        return self._add("experts", ExchangeSlot(name, self._rank, condition), name, label, after)

    def _add(self, lane: Lane, slot: Slot, category: Category, label: str, after: Iterable[int]) -> int:
        before = list(after)
        self._loose.difference_update(before)
        task = self._block.add(lane, slot, category, label, before)
        self._loose.add(task)
        return task

    def finish(self) -> Block:
        """Close the block with its end."""
        if self._making.host and self._computed:
            self._add("host", HostSlot(self._rank, tuple(self._computed)), "host", "issue kernels", [self._start])
        self._block.add(None, None, "end", "end", sorted(self._loose) or [self._start])
        return self._block


@dataclass(slots=True)
class _Pass:
    """Where a half of a block stands.

    Attributes:
        half, category: of its tasks.
        last: what the next step waits for before it begins.
        beside: exchanges under way that the end of the next step waits for.
    """

    half: Half
    category: Category
    last: list[int]
    beside: list[int] = field(default_factory=list)
