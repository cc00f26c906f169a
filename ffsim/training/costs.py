"""What the pieces of a plan cost: seconds of computing per phase and segment, alone and beside communication.

`PieceTimes` is a small table (piece, phase, segment, condition, family) of seconds; every duration in the simulated
step is a sum of its entries, so that any total can be opened up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from ffsim.compute import BASES, Conditions, time_operators
from ffsim.model.lowering import Lowered
from ffsim.model.operators import Family, Operators, Row
from ffsim.model.parameters import count
from ffsim.model.pieces import PieceKind, Workpiece, lower_piece, piece_shapes
from ffsim.training.inputs import Inputs

Floats = np.ndarray[Any, Any]
Ints = np.ndarray[Any, Any]

PIECES: tuple[PieceKind, ...] = get_args(PieceKind)
PHASES = ("F", "B", "W")
N_SEGMENTS = 3
FAMILIES: tuple[Family, ...] = get_args(Family)
Condition = Literal["alone", "beside"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)

ROW_MAPPING = Row(name="feed_forward/dispatch/map rows", phase="F", segment=1, family="elementwise")
"""Working out where tokens go: as long as `ExpertKernels.row_mapping` says, its FLOP and bytes are not counted."""

TABLE_SHAPE = (len(PIECES), len(PHASES), N_SEGMENTS, len(CONDITIONS), len(FAMILIES))


def entry(piece: PieceKind, phase: str, segment: int, condition: Condition) -> int:
    """Row of `PieceTimes.seconds` (before the family axis) as one flat number."""
    index = (PIECES.index(piece), PHASES.index(phase), segment, CONDITIONS.index(condition))
    return int(np.ravel_multi_index(index, TABLE_SHAPE[:-1]))


@dataclass(frozen=True, slots=True)
class PieceTimes:
    """Compute seconds of every piece.

    Attributes:
        seconds: ``[n_entries, n_families]``, one row per (piece, phase, segment, condition); see `entry`.
        basis_share: share of the time of one layer that is measured, interpolated and extrapolated.
    """

    seconds: Floats
    basis_share: dict[str, float]

    def total(self, entries: Sequence[int]) -> float:
        """Seconds of several entries together."""
        return float(self.seconds[list(entries)].sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedKernels:
    """Every kernel of every piece with its time.

    Attributes:
        operators: kernels of all pieces, and one `ROW_MAPPING` for each piece with experts on other ranks.
        piece: ``[n_ops]`` index into `PIECES`.
        seconds: ``[n_conditions, n_ops]``, what a step takes for them.
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
    """

    lowered: dict[PieceKind, Lowered]
    dense_parameters: dict[PieceKind, int]
    expert_parameters: dict[PieceKind, int]


def workpiece(inputs: Inputs, ep: int, micro_batch: int) -> Workpiece:
    """How the pieces of a workload are run."""
    return Workpiece(
        micro_batch=micro_batch,
        sequence_length=inputs.spec.sequence_length,
        precision=inputs.precision,
        recompute=inputs.spec.plan.recomputed,
        expert_parallel=ep,
        expert_load=inputs.expert_load(ep).busiest_over_mean if ep > 1 else 1.0,
        redundant_experts=inputs.redundant_experts,
        router_kernels=inputs.spec.assumptions.router_kernels.value,
    )


def cut(inputs: Inputs, ep: int, micro_batch: int) -> Pieces:
    """Lower every piece that the model has."""
    spec = inputs.model
    kinds: list[PieceKind] = ["embedding", "head"]
    if spec.moe is None or spec.moe.first_dense > 0:
        kinds.append("dense")
    if spec.moe is not None and spec.moe.first_dense < spec.layers:
        kinds.append("moe")
    if spec.mtp_layers:
        kinds.append("mtp")
    work = workpiece(inputs, ep, micro_batch)
    shapes = {kind: piece_shapes(spec, kind, ep, inputs.redundant_experts) for kind in kinds}
    experts = {
        kind: count({name: shape for name, shape in parts.items() if name.startswith("experts_")})
        for kind, parts in shapes.items()
    }
    return Pieces(
        lowered={kind: _kept(lower_piece(spec, kind, work), inputs, ep) for kind in kinds},
        dense_parameters={kind: count(parts) - experts[kind] for kind, parts in shapes.items()},
        expert_parameters=experts,
    )


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
    seconds, basis = [], []
    for condition in CONDITIONS:
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
    rows = inputs.spec.plan.micro_batch * inputs.spec.sequence_length * (moe.top_k if moe else 0)
    return inputs.kernels.row_mapping.value * rows


def time_pieces(inputs: Inputs, pieces: Pieces) -> PieceTimes:
    """Add up the kernels of every piece by phase, segment, condition and family."""
    kernels = time_kernels(inputs, pieces)
    o = kernels.operators
    phase = np.searchsorted(np.array(sorted(PHASES)), o.phase)
    phase = np.array([PHASES.index(name) for name in sorted(PHASES)])[phase]
    family = np.array([FAMILIES.index(name) for name in o.family])
    segment = np.asarray(o.segment, dtype=np.int64)
    seconds = np.zeros(TABLE_SHAPE)
    for number, each in enumerate(kernels.seconds):
        np.add.at(seconds, (kernels.piece, phase, segment, np.full(len(o), number), family), each)
    layers = np.isin(kernels.piece, [PIECES.index("dense"), PIECES.index("moe")])
    each, basis = kernels.seconds[-1][layers], kernels.basis[-1][layers]
    shares: dict[str, float] = {name: float(each[basis == code].sum() / each.sum()) for code, name in enumerate(BASES)}
    return PieceTimes(seconds.reshape(-1, len(FAMILIES)), shares)
