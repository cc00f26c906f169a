"""Device memory of every pipeline rank, by kind, at the fullest moment of the schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ffsim.errors import InfeasiblePlan, Problem
from ffsim.model.operators import Operators
from ffsim.model.parameters import count, layer_shapes
from ffsim.schedules import SCHEDULES, Schedule
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.optimizer import held_parameters
from ffsim.training.spec import PlanSpec
from ffsim.training.stages import Stage
from ffsim.units import BYTES

MemoryKind = Literal[
    "weights", "gradients", "optimizer", "activations", "workspace", "communication", "framework", "fragmentation"
]
KINDS: tuple[MemoryKind, ...] = get_args(MemoryKind)


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on each GPU of a pipeline rank.

    Attributes:
        rank: pipeline rank.
        stages: stages it holds.
        by_kind: bytes of each kind; ``activations`` at their peak over the schedule.
        activation_shares: of the peak, bytes by stage.
    """

    rank: int
    stages: tuple[int, ...]
    by_kind: dict[MemoryKind, float]
    activation_shares: dict[int, float]

    @property
    def total(self) -> float:
        """All kinds together."""
        return sum(self.by_kind.values())


def memory(inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces) -> tuple[RankMemory, ...]:
    """Work out the memory of every pipeline rank."""
    activations = []
    for rank, held in enumerate(layout.schedule.placement):
        saved = [sum(pieces.lowered[piece].saved_bytes for piece in stages[stage].pieces) for stage in held]
        activations.append(dict(zip(held, _peak(layout.schedule, rank, saved), strict=True)))
    return with_activations(inputs, layout, stages, pieces, activations)


def with_activations(
    inputs: Inputs,
    layout: Layout,
    stages: tuple[Stage, ...],
    pieces: Pieces,
    activations: Sequence[dict[int, float]],
) -> tuple[RankMemory, ...]:
    """`memory` where the activations at the fullest moment are known already: bytes by stage, for every rank."""
    return tuple(_rank_memory(inputs, layout, stages, pieces, rank, shares) for rank, shares in enumerate(activations))


def _rank_memory(
    inputs: Inputs,
    layout: Layout,
    stages: tuple[Stage, ...],
    pieces: Pieces,
    rank: int,
    activation_shares: dict[int, float],
) -> RankMemory:
    p, assumptions = inputs.precision, inputs.spec.assumptions
    held, activations = layout.schedule.placement[rank], sum(activation_shares.values())
    weights = gradients = optimizer = 0.0
    for dense, expert, dense_shards, expert_shards in held_parameters(inputs, layout, stages, pieces, rank):
        weights += (dense + expert) * p.weight_bytes.value
        gradients += (dense + expert) * p.gradient_bytes
        optimizer += (dense / dense_shards + expert / expert_shards) * (p.master_bytes + p.moment_bytes)
    kinds = {piece for stage in held for piece in stages[stage].pieces}
    lasting = weights + gradients + optimizer + activations
    by_kind: dict[MemoryKind, float] = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "activations": activations,
        "workspace": max(_largest_output(pieces.lowered[kind].operators) for kind in kinds),
        "communication": assumptions.communication_buffers.value if layout.gpus > 1 else 0.0,
        "framework": assumptions.framework_memory.value,
        "fragmentation": assumptions.fragmentation.value * lasting,
    }
    return RankMemory(rank, held, by_kind, activation_shares)


def _largest_output(operators: Operators) -> float:
    """Bytes of the largest result of a kernel; weight gradients go to their accumulators, which are counted there."""
    return float(operators.write_bytes[operators.phase != "W"].max(initial=0.0))


def _peak(schedule: Schedule, rank: int, saved: list[float]) -> list[float]:
    """Activation bytes by module at the moment when their sum is largest.

    A micro-batch is held from its forward to its full backward, or to its weight gradient where that is put off.
    """
    now, peak = [0.0] * len(saved), [0.0] * len(saved)
    for op in schedule.ops[rank]:
        if op.forward is not None:
            now[op.forward[0]] += saved[op.forward[0]]
            if sum(now) > sum(peak):
                peak = list(now)
        if op.kind == "W":
            now[op.module] -= saved[op.module]
        elif op.backward is not None and op.kind != "Bi":
            now[op.backward[0]] -= saved[op.backward[0]]
    return peak


def least_bytes(inputs: Inputs, plan: PlanSpec) -> float:
    """Weights and gradients of a rank if every rank held the same: the fullest rank of a plan never needs less."""
    model, precision = inputs.model, inputs.precision
    layers = Counter("moe" if model.is_moe(layer) else "dense" for layer in range(model.layers))
    sizes = {
        "dense": count(layer_shapes(model, 0, expert_parallel=plan.ep)),
        "moe": count(layer_shapes(model, model.layers - 1, expert_parallel=plan.ep)),
    }
    held = sum(sizes[kind] * number for kind, number in layers.items())
    copies = 2 if SCHEDULES[plan.schedule].both_ends else 1
    return held / plan.pp * copies * (precision.weight_bytes.value + precision.gradient_bytes)


def overflow(inputs: Inputs, ranks: tuple[RankMemory, ...]) -> RankMemory | None:
    """The fullest rank if it does not fit in the GPU's memory, else None."""
    fullest = max(ranks, key=lambda rank: rank.total)
    return fullest if fullest.total > inputs.cluster.gpu.memory.value else None


def does_not_fit(inputs: Inputs, rank: RankMemory, advice: str) -> InfeasiblePlan:
    """The error for a plan whose fullest rank does not fit."""
    capacity = inputs.cluster.gpu.memory.value
    parts = ", ".join(f"{kind} {BYTES.format(size, 3)}" for kind, size in rank.by_kind.items() if size)
    return InfeasiblePlan(
        Problem(
            where=str(inputs.document.place(("plan",))),
            path="plan",
            what=f"pipeline rank {rank.rank} needs {BYTES.format(rank.total, 3)} of {BYTES.format(capacity, 3)} "
            f"on each {inputs.cluster.gpu.title} ({parts})",
            fix=advice,
        )
    )
