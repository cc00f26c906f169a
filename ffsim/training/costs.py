"""What the pieces of a plan cost: seconds of computing per phase and segment, alone and beside communication.

`PieceTimes` is a small table (piece, phase, segment, condition, family) of seconds; every duration in the simulated
step is a sum of its entries, so that any total can be opened up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ffsim.compute import BASES, Conditions, time_operators
from ffsim.model.lowering import Lowered
from ffsim.model.operators import Family, Operators
from ffsim.model.parameters import count
from ffsim.model.pieces import PieceKind, Workpiece, lower_piece, piece_shapes
from ffsim.training.inputs import Inputs

Floats = np.ndarray[Any, Any]

PIECES: tuple[PieceKind, ...] = get_args(PieceKind)
PHASES = ("F", "B", "W")
N_SEGMENTS = 3
FAMILIES: tuple[Family, ...] = get_args(Family)
Condition = Literal["alone", "beside"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)

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
        recompute=inputs.spec.plan.recompute,
        expert_parallel=ep,
        expert_load=inputs.spec.assumptions.expert_load.value,
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
    shapes = {kind: piece_shapes(spec, kind, ep) for kind in kinds}
    experts = {
        kind: count({name: shape for name, shape in parts.items() if name.startswith("experts_")})
        for kind, parts in shapes.items()
    }
    return Pieces(
        lowered={kind: lower_piece(spec, kind, work) for kind in kinds},
        dense_parameters={kind: count(parts) - experts[kind] for kind, parts in shapes.items()},
        expert_parameters=experts,
    )


def time_pieces(inputs: Inputs, pieces: Pieces) -> PieceTimes:
    """Time every kernel of every piece, alone and beside communication."""
    kinds = list(pieces.lowered)
    tables = [pieces.lowered[kind].operators for kind in kinds]
    everything = _concatenated(tables)
    owner = np.repeat([PIECES.index(kind) for kind in kinds], [len(table) for table in tables])
    phase = np.searchsorted(np.array(sorted(PHASES)), everything.phase)
    phase = np.array([PHASES.index(name) for name in sorted(PHASES)])[phase]
    family = np.array([FAMILIES.index(name) for name in everything.family])
    segment = np.asarray(everything.segment, dtype=np.int64)
    assumptions = inputs.spec.assumptions
    seconds = np.zeros(TABLE_SHAPE)
    shares: dict[str, float] = {}
    sms = inputs.sms_for_communication
    for number, condition in enumerate(CONDITIONS):
        beside = condition == "beside" and sms > 0
        taken = sms if beside else round(sms * (1 - assumptions.sms_given_back.value))
        conditions = Conditions(sms_for_communication=taken, beside_communication=beside)
        times = time_operators(everything, inputs.cluster.gpu, inputs.profile, conditions)
        each = (times.seconds + assumptions.launch_gap.value * everything.kernels) * assumptions.operator_time.value
        np.add.at(seconds, (owner, phase, segment, np.full(len(owner), number), family), each)
        layers = np.isin(owner, [PIECES.index("dense"), PIECES.index("moe")])
        shares = {
            basis: float(each[layers & (times.basis == code)].sum() / each[layers].sum())
            for code, basis in enumerate(BASES)
        }
    moe = inputs.model.moe
    if inputs.spec.plan.ep > 1 and moe is not None:
        rows = inputs.spec.plan.micro_batch * inputs.spec.sequence_length * moe.top_k
        for kind in kinds:
            if pieces.lowered[kind].has_experts:
                forward = (PIECES.index(kind), PHASES.index("F"), 1, slice(None), FAMILIES.index("elementwise"))
                seconds[forward] += inputs.kernels.row_mapping.value * rows * assumptions.operator_time.value
    return PieceTimes(seconds.reshape(-1, len(FAMILIES)), shares)


def _concatenated(tables: Sequence[Operators]) -> Operators:
    columns = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in Operators.__slots__
        if name != "name"
    }
    return Operators(name=tuple(name for table in tables for name in table.name), **columns)
