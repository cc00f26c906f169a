"""Device memory of every pipeline rank, by kind, at the fullest moment of the schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, NamedTuple, get_args

import numpy as np

from ffsim.errors import InfeasiblePlan, Problem
from ffsim.model.lowering import Lowered
from ffsim.model.operators import Operators
from ffsim.model.parameters import count, layer_shapes
from ffsim.model.spec import CnnSpec
from ffsim.schedules import SCHEDULES, Schedule
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.optimizer import held_parameters
from ffsim.training.spec import PlanSpec
from ffsim.training.stages import Stage
from ffsim.units import BYTES

MemoryKind = Literal[
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "replay",
    "gathered",
    "workspace",
    "communication",
    "framework",
    "fragmentation",
]
KINDS: tuple[MemoryKind, ...] = get_args(MemoryKind)


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on each GPU of a pipeline rank.

    Attributes:
        rank: pipeline rank.
        stages: stages it holds.
        by_kind: bytes of each kind; ``activations`` at their peak over the schedule; ``replay`` what the recomputation
            of one piece keeps until its backward pass is done; ``gathered`` what is whole for a while of what ranks
            share: parameters and gradients in use, buckets on their way.
        activation_shares: of the peak, bytes by stage.
        host_bytes: of the rank's share of host memory, where states are offloaded.
    """

    rank: int
    stages: tuple[int, ...]
    by_kind: dict[MemoryKind, float]
    activation_shares: dict[int, float]
    host_bytes: float = 0.0

    @property
    def total(self) -> float:
        """All kinds together."""
        return sum(self.by_kind.values())


def memory(inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces) -> tuple[RankMemory, ...]:
    """Work out the memory of every pipeline rank.

    Domain: every allocation of a kind is at its own peak at the same moment, which is at most a piece's worth more than
    the fullest moment holds; what a framework keeps beyond these kinds is the margin of ``assumptions.fragmentation``.
    """
    activations = []
    for rank, held in enumerate(layout.schedule.placement):
        kept = [_kept(stages[stage], pieces) for stage in held]
        activations.append(dict(zip(held, _peak(layout.schedule, rank, kept), strict=True)))
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


class _Kept(NamedTuple):
    """Activation bytes of a micro-batch in a stage: after its forward pass, and once only weight gradients wait."""

    saved: float
    for_weights: float


def _kept(stage: Stage, pieces: Pieces) -> _Kept:
    """What a stage keeps. A piece that is not replayed where others are keeps all that a replay would."""
    saved = for_weights = 0.0
    for place, piece in enumerate(stage.pieces):
        lowered = pieces.lowered[piece]
        whole = lowered.replayed_bytes and place not in stage.replayed
        saved += lowered.replayed_bytes if whole else lowered.saved_bytes
        for_weights += lowered.weight_bytes
    return _Kept(saved, for_weights)


def _rank_memory(
    inputs: Inputs,
    layout: Layout,
    stages: tuple[Stage, ...],
    pieces: Pieces,
    rank: int,
    activation_shares: dict[int, float],
) -> RankMemory:
    assumptions, plan = inputs.spec.assumptions, inputs.spec.plan
    held, activations = layout.schedule.placement[rank], sum(activation_shares.values())
    lowered = [pieces.lowered[kind] for kind in dict.fromkeys(kind for stage in held for kind in stages[stage].pieces)]
    weights, gradients, optimizer = _states(inputs, layout, stages, pieces, rank)
    offloaded = plan.offload == "optimizer"
    replay = max((one.replayed_bytes for stage in held for one in _replayed(stages[stage], pieces)), default=0.0)
    gathered = _gathered(inputs, layout, [stages[stage] for stage in held], pieces)
    lasting = weights + gradients + (0.0 if offloaded else optimizer) + activations + replay
    by_kind: dict[MemoryKind, float] = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": 0.0 if offloaded else optimizer,
        "activations": activations,
        "replay": replay,
        "gathered": gathered,
        "workspace": max(_largest_output(one.operators) for one in lowered),
        "communication": assumptions.communication_buffers.value if layout.gpus > 1 else 0.0,
        "framework": assumptions.framework_memory.value,
        "fragmentation": assumptions.fragmentation.value * lasting,
    }
    return RankMemory(rank, held, by_kind, activation_shares, optimizer if offloaded else 0.0)


def _replayed(stage: Stage, pieces: Pieces) -> list[Lowered]:
    return [pieces.lowered[stage.pieces[place]] for place in sorted(stage.replayed)]


def _states(
    inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces, rank: int
) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer states that a rank holds: whole, or its share as ZeRO has it."""
    p, zero = inputs.precision, inputs.spec.plan.zero
    weights = gradients = optimizer = 0.0
    for dense, expert, dense_shards, expert_shards in held_parameters(inputs, layout, stages, pieces, rank):
        whole, shared = dense + expert, dense / dense_shards + expert / expert_shards
        weights += (shared if zero >= 3 else whole) * p.weight_bytes.value
        gradients += (shared if zero >= 2 else whole) * p.gradient_bytes
        optimizer += shared * (p.master_bytes + p.moment_bytes)
    return weights, gradients, optimizer


def _gathered(inputs: Inputs, layout: Layout, held: Sequence[Stage], pieces: Pieces) -> float:
    """Bytes that are whole for a while where ranks share parameters or gradients.

    Under ZeRO-3 the parameters of a piece that is being computed and of the one fetched ahead, and the gradients of a
    piece until they are reduced. Under ZeRO-2 two buckets on their way.
    """
    plan, p = inputs.spec.plan, inputs.precision
    if layout.sharing(experts=inputs.model.moe is not None) == 1:
        return 0.0
    if plan.zero < 3:
        return 2 * inputs.bucket_bytes(layout.dp * layout.cp) if plan.zero == 2 else 0.0
    sizes = [
        [pieces.dense_parameters[kind] + pieces.expert_parameters[kind] for kind in stage.pieces] for stage in held
    ]
    ahead = 2 if inputs.overlap.parameters else 1
    parameters = max(sum(row[at : at + ahead]) for row in sizes for at in range(len(row)))
    largest = max(size for row in sizes for size in row)
    return parameters * p.weight_bytes.value + largest * p.gradient_bytes


def _largest_output(operators: Operators) -> float:
    """Bytes of the largest result of one kernel; weight gradients go to their accumulators, which are counted there."""
    each = operators.write_bytes / np.maximum(operators.kernels, 1)
    return float(each[operators.phase != "W"].max(initial=0.0))


def _peak(schedule: Schedule, rank: int, kept: Sequence[_Kept]) -> list[float]:
    """Activation bytes by module at the moment when their sum is largest.

    A micro-batch is held from its forward to its full backward pass; where the weight gradient is put off, what that
    needs is held on from the input gradient to it.
    """
    now, peak = [0.0] * len(kept), [0.0] * len(kept)
    for op in schedule.ops[rank]:
        if op.forward is not None:
            now[op.forward[0]] += kept[op.forward[0]].saved
            if sum(now) > sum(peak):
                peak = list(now)
        if op.kind == "W":
            now[op.module] -= kept[op.module].for_weights
        elif op.backward is not None:
            module = op.backward[0]
            now[module] -= kept[module].saved - (kept[module].for_weights if op.kind == "Bi" else 0.0)
    return peak


def least_bytes(inputs: Inputs, plan: PlanSpec) -> float:
    """Weights and gradients of a rank if every rank held the same: the fullest rank of a plan never needs less."""
    model, precision = inputs.model, inputs.precision
    if isinstance(model, CnnSpec):
        return model.parameters * (precision.weight_bytes.value + precision.gradient_bytes)
    layers = Counter("moe" if model.is_moe(layer) else "dense" for layer in range(model.layers))
    split = {"expert_parallel": plan.ep, "tensor_parallel": plan.tp, "expert_tensor_parallel": plan.etp}
    sizes = {
        "dense": count(layer_shapes(model, 0, **split)),
        "moe": count(layer_shapes(model, model.layers - 1, **split)),
    }
    held = sum(sizes[kind] * number for kind, number in layers.items())
    copies = 2 if SCHEDULES[plan.schedule].both_ends else 1
    kept = precision.weight_bytes.value * (plan.zero < 3) + precision.gradient_bytes * (plan.zero < 2)
    return held / plan.pp * copies * kept


def overflow(inputs: Inputs, ranks: tuple[RankMemory, ...]) -> RankMemory | None:
    """The fullest rank if it does not fit in the GPU's memory, or what it offloads in the host's; else None."""
    fullest = max(ranks, key=lambda rank: rank.total)
    if fullest.total > inputs.cluster.gpu.memory.value:
        return fullest
    most = max(ranks, key=lambda rank: rank.host_bytes)
    return most if most.host_bytes > _host_share(inputs) else None


def _host_share(inputs: Inputs) -> float:
    """A GPU's share of host memory; no limit where the cluster does not say how much there is."""
    nodes = inputs.cluster.spec.nodes
    return nodes.memory.value / nodes.gpus if nodes.memory is not None else inf


def does_not_fit(inputs: Inputs, rank: RankMemory, advice: str) -> InfeasiblePlan:
    """The error for a plan whose fullest rank does not fit."""
    capacity = inputs.cluster.gpu.memory.value
    if rank.total > capacity:
        parts = ", ".join(f"{kind} {BYTES.format(size, 3)}" for kind, size in rank.by_kind.items() if size)
        on = f"on each {inputs.cluster.gpu.title} ({parts})"
        what = f"needs {BYTES.format(rank.total, 3)} of {BYTES.format(capacity, 3)} {on}"
    else:
        share = BYTES.format(_host_share(inputs), 3)
        what = f"offloads {BYTES.format(rank.host_bytes, 3)} a GPU, whose share of host memory is {share}"
    place = str(inputs.document.place(("plan",)))
    return InfeasiblePlan(Problem(where=place, path="plan", what=f"pipeline rank {rank.rank} {what}", fix=advice))
