"""What the pieces of a plan cost: seconds of computing per phase and segment, alone and beside communication.

`PieceTimes` is a small table (piece, phase, segment, condition, family) of seconds; every duration in the simulated
step is a sum of its entries, so that any total can be opened up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Any, Literal, get_args

import numpy as np

from ffsim.compute import BASES, Conditions, time_operators
from ffsim.compute.host import host_issue_s
from ffsim.model.lowering import Lowered
from ffsim.model.operators import Family, Operators, Row
from ffsim.model.parameters import Shapes, count
from ffsim.model.pieces import PieceKind, Workpiece, lower_piece, piece_shapes
from ffsim.model.spec import CnnSpec, ModelSpec
from ffsim.model.tape import Phase
from ffsim.training.inputs import Inputs

Floats = np.ndarray[Any, Any]
Ints = np.ndarray[Any, Any]

PIECES: tuple[PieceKind, ...] = get_args(PieceKind)
PHASES: tuple[Phase, ...] = get_args(Phase)
MAX_SEGMENTS = 16
LAYERS: tuple[PieceKind, ...] = ("dense", "moe", "convolutions", "classifier")
FAMILIES: tuple[Family, ...] = get_args(Family)
Condition = Literal["alone", "beside", "overlapped"]
"""What else the GPU does meanwhile: nothing, expert traffic by SMs set aside for it, NCCL's kernels."""
CONDITIONS: tuple[Condition, ...] = get_args(Condition)

ROW_MAPPING = Row(name="feed_forward/dispatch/map rows", phase="F", segment=1, family="elementwise")
"""Working out where tokens go: as long as `ExpertKernels.row_mapping` says, its FLOP and bytes are not counted."""

TABLE_SHAPE = (len(PIECES), len(PHASES), MAX_SEGMENTS, len(CONDITIONS), len(FAMILIES))


def entry(piece: PieceKind, phase: Phase, segment: int, condition: Condition) -> int:
    """Row of `PieceTimes.seconds` (before the family axis) as one flat number."""
    number = PIECES.index(piece) * len(PHASES) + PHASES.index(phase)
    return (number * MAX_SEGMENTS + segment) * len(CONDITIONS) + CONDITIONS.index(condition)


def phases_of(entries: Sequence[int]) -> Ints:
    """``[n]`` index into `PHASES` of some entries."""
    phases: Ints = np.unravel_index(np.asarray(entries, dtype=np.int64), TABLE_SHAPE[:-1])[1]
    return phases


@dataclass(frozen=True, slots=True)
class PieceTimes:
    """Compute seconds of every piece.

    Attributes:
        seconds: ``[n_entries, n_families]``, one row per (piece, phase, segment, condition); see `entry`.
        host: ``[n_entries]`` seconds that the host takes to issue the kernels.
        basis_share: share of the time of one layer that is measured, interpolated and extrapolated.
    """

    seconds: Floats
    host: Floats
    basis_share: dict[str, float]

    def total(self, entries: Sequence[int]) -> float:
        """Seconds of several entries together, rounded once: the same however they are grouped."""
        return fsum(self.seconds[list(entries)].ravel().tolist())

    def issuing(self, entries: Sequence[int]) -> float:
        """Seconds of the host for several entries together."""
        return fsum(self.host[list(entries)].tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedKernels:
    """Every kernel of every piece with its time.

    Attributes:
        operators: kernels of all pieces, and one `ROW_MAPPING` for each piece with experts on other ranks.
        piece: ``[n_ops]`` index into `PIECES`.
        seconds: ``[n_conditions, n_ops]``, what a step takes for them; nothing runs ``overlapped`` where the plan has
            no traffic of NCCL beside computing, and the times are those of ``alone``.
        basis: ``[n_conditions, n_ops]`` index into `BASES`.
    """

    operators: Operators
    piece: Ints
    seconds: Floats
    basis: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The pieces a model is cut into, lowered.

    Attributes:
        lowered: kernels and saved bytes per micro-batch, by piece.
        dense_parameters, expert_parameters: what one rank holds of each piece.
        replicated_parameters: of the dense ones, those that tensor-parallel ranks hold alike (norms, routers) while
            each sees other tokens (sequence parallelism), so that they must add up their gradients.
    """

    lowered: dict[PieceKind, Lowered]
    dense_parameters: dict[PieceKind, int]
    expert_parameters: dict[PieceKind, int]
    replicated_parameters: dict[PieceKind, int]


def workpiece(inputs: Inputs, ep: int, micro_batch: int) -> Workpiece:
    """How the pieces of a workload are run."""
    plan, software = inputs.spec.plan, inputs.software
    return Workpiece(
        micro_batch=micro_batch,
        sequence_length=inputs.spec.sequence_length,
        precision=inputs.precision,
        recompute=plan.recomputed,
        expert_parallel=ep,
        expert_load=inputs.expert_load(ep).busiest_over_mean if ep > 1 else 1.0,
        redundant_experts=inputs.redundant_experts,
        router_kernels=inputs.spec.assumptions.router_kernels.value,
        tensor_parallel=plan.tp,
        sequence_parallel=plan.sequence_parallel,
        context_parallel=plan.cp,
        context_exchange=plan.context_exchange,
        expert_tensor_parallel=plan.etp,
        attention=software.attention,
        dropout=software.dropout,
    )


def cut(inputs: Inputs, ep: int, micro_batch: int) -> Pieces:
    """Lower every piece that the model has."""
    spec, kinds = inputs.model, _kinds(inputs.model)
    work = workpiece(inputs, ep, micro_batch)
    plan = inputs.spec.plan
    shapes = {
        kind: piece_shapes(
            spec,
            kind,
            ep,
            inputs.redundant_experts,
            tensor_parallel=plan.tp,
            expert_tensor_parallel=plan.etp,
        )
        for kind in kinds
    }
    experts = {
        kind: count({name: shape for name, shape in parts.items() if name.startswith("experts_")})
        for kind, parts in shapes.items()
    }
    return Pieces(
        lowered={kind: _kept(lower_piece(spec, kind, work), inputs, ep) for kind in kinds},
        dense_parameters={kind: count(parts) - experts[kind] for kind, parts in shapes.items()},
        expert_parameters=experts,
        replicated_parameters={kind: _replicated(inputs, ep, kind, parts) for kind, parts in shapes.items()},
    )


def _replicated(inputs: Inputs, ep: int, kind: PieceKind, parts: Shapes) -> int:
    plan = inputs.spec.plan
    if plan.tp == 1 or not plan.sequence_parallel:
        return 0
    whole = piece_shapes(inputs.model, kind, ep, inputs.redundant_experts)
    return count(
        {name: shape for name, shape in parts.items() if shape == whole[name] and not name.startswith("experts_")}
    )


def _kinds(model: ModelSpec | CnnSpec) -> list[PieceKind]:
    if isinstance(model, CnnSpec):
        return ["convolutions", "classifier"]
    kinds: list[PieceKind] = ["embedding", "head"]
    if model.moe is None or model.moe.first_dense > 0:
        kinds.append("dense")
    if model.moe is not None and model.moe.first_dense < model.layers:
        kinds.append("moe")
    if model.mtp_layers:
        kinds.append("mtp")
    return kinds


def _kept(lowered: Lowered, inputs: Inputs, ep: int) -> Lowered:
    """What waits for the backward pass: by the fullest rank of a stage, where each layer has its own busiest rank."""
    if not lowered.has_experts or ep == 1:
        return lowered
    load = inputs.expert_load(ep)
    of_experts = lowered.saved_expert_bytes * (load.fullest_over_mean / load.busiest_over_mean)
    saved = lowered.saved_bytes - lowered.saved_expert_bytes + of_experts
    return replace(lowered, saved_bytes=saved, saved_expert_bytes=of_experts)


def run_conditions(inputs: Inputs, condition: Condition) -> Conditions:
    """What kernels find: the SMs that expert traffic leaves them beside it, and what it gives back once it rests."""
    sms = inputs.sms_for_communication
    if condition == "overlapped":
        return Conditions(sms_for_communication=inputs.spec.assumptions.nccl_sms.value)
    beside = condition == "beside" and sms > 0
    taken = sms if beside else round(sms * (1 - inputs.spec.assumptions.sms_given_back.value))
    return Conditions(sms_for_communication=taken, beside_communication=beside)


def time_kernels(inputs: Inputs, pieces: Pieces) -> TimedKernels:
    """Time every kernel of every piece, alone and beside communication."""
    kinds = list(pieces.lowered)
    tables = [pieces.lowered[kind].operators for kind in kinds]
    mapped = [kind for kind in kinds if pieces.lowered[kind].has_experts and inputs.spec.plan.ep > 1]
    mapping = [Operators.of([ROW_MAPPING])] * len(mapped)
    everything = Operators.concatenate([*tables, *mapping])
    owners = [PIECES.index(kind) for kind in (*kinds, *mapped)]
    assumptions = inputs.spec.assumptions
    gaps = assumptions.launch_gap.value * everything.kernels
    seconds: list[Floats] = []
    basis: list[Ints] = []
    for condition in CONDITIONS:
        if condition == "overlapped" and not inputs.overlaps_nccl:
            seconds.append(seconds[0])
            basis.append(basis[0])
            continue
        times = time_operators(everything, inputs.cluster.gpu, inputs.profile, run_conditions(inputs, condition))
        each = times.seconds + gaps
        each[len(everything) - len(mapped) :] = _row_mapping_s(inputs)
        seconds.append(each * assumptions.operator_time.value)
        basis.append(times.basis)
    return TimedKernels(
        operators=everything,
        piece=np.repeat(owners, [len(table) for table in (*tables, *mapping)]),
        seconds=np.stack(seconds),
        basis=np.stack(basis),
    )


def _row_mapping_s(inputs: Inputs) -> float:
    """Time of working out where the rows of one micro-batch go."""
    moe = inputs.model.moe
    rows = tokens_dispatched(inputs) * (moe.top_k if moe else 0)
    return inputs.kernels.row_mapping.value * rows


def tokens_dispatched(inputs: Inputs) -> int:
    """Tokens of one micro-batch that a rank sends to experts."""
    plan = inputs.spec.plan
    return workpiece(inputs, plan.ep, plan.micro_batch).tokens_between_blocks


def time_pieces(inputs: Inputs, pieces: Pieces) -> PieceTimes:
    """Add up the kernels of every piece by phase, segment, condition and family."""
    kernels = time_kernels(inputs, pieces)
    o = kernels.operators
    phase = np.array([PHASES.index(name) for name in o.phase.tolist()])
    family = np.array([FAMILIES.index(name) for name in o.family.tolist()])
    segment = np.asarray(o.segment, dtype=np.int64)
    seconds, issued = np.zeros(TABLE_SHAPE), np.zeros(TABLE_SHAPE[:-1])
    host = host_issue_s(o, inputs.software.host_issue.value)
    for number, each in enumerate(kernels.seconds):
        where = (kernels.piece, phase, segment, np.full(len(o), number))
        np.add.at(seconds, (*where, family), each)
        np.add.at(issued, where, host)
    layers = np.isin(kernels.piece, [PIECES.index(kind) for kind in LAYERS])
    at = CONDITIONS.index("beside")
    each, basis = kernels.seconds[at][layers], kernels.basis[at][layers]
    shares: dict[str, float] = {name: float(each[basis == code].sum() / each.sum()) for code, name in enumerate(BASES)}
    return PieceTimes(seconds.reshape(-1, len(FAMILIES)), issued.ravel(), shares)
