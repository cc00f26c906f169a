"""Every operator of a plan opened up: its work, how long it takes, and how far that is from the GPU's roofline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.compute import BASES
from ffsim.compute.roofline import peaks, roofline_s
from ffsim.model.operators import Operators
from ffsim.model.pieces import PieceKind
from ffsim.training.costs import CONDITIONS, PHASES, PIECES, Condition, run_conditions, time_kernels
from ffsim.training.layout import Layout
from ffsim.training.stages import Stage
from ffsim.training.step import Prepared

Floats = np.ndarray[Any, Any]
Ints = np.ndarray[Any, Any]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTable:
    """Operators of one pass over each piece of a model on one rank, by piece and phase.

    Attributes:
        condition: what they run in.
        sms: streaming multiprocessors they may use.
        operators: the work.
        piece: ``[n_ops]`` index into `PIECES`.
        seconds: ``[n_ops]``, as in `ffsim.training.costs.time_pieces`, gaps between kernels included.
        roofline: ``[n_ops]`` least time by `ffsim.compute.roofline.roofline_s`. [s]
        basis: ``[n_ops]`` index into `BASES`.
        passes: how often a step runs each piece, over all ranks of a pipeline.
        peaks: rate of these SMs by number format of the products. [FLOP/s]
    """

    condition: Condition
    sms: int
    operators: Operators
    piece: Ints
    seconds: Floats
    roofline: Floats
    basis: Ints
    passes: dict[PieceKind, int]
    peaks: dict[str, float]

    def rows(self) -> list[Row]:
        """One row an operator.

        Format and shape are those of matrix products and attention. Nothing is known about the roofline of an operator
        of which no work is counted. A share above 1 is left as it is: the operands were in a cache, or the time is
        wrong.
        """
        o = self.operators
        return [
            {
                "piece": PIECES[self.piece[n]],
                "phase": str(o.phase[n]),
                "name": str(o.name[n]),
                "family": str(o.family[n]),
                **_shape(o, n),
                "kernels": int(o.kernels[n]),
                **_work(o.flop[n], o.read_bytes[n] + o.write_bytes[n]),
                **_times(self.seconds[n], self.roofline[n]),
                "basis": BASES[self.basis[n]],
            }
            for n in range(len(o))
        ]

    def totals(self) -> list[Row]:
        """One row a piece and phase; the time of each is the sum of its operators.

        Operators of which no work is counted lower the share of the roofline.
        """
        o, found = self.operators, []
        for piece, passes in self.passes.items():
            for phase in PHASES:
                own = (self.piece == PIECES.index(piece)) & (o.phase == phase)
                if not own.any():
                    continue
                row = {"piece": piece, "phase": phase, "operators": int(own.sum()), "passes_per_step": passes}
                row |= _work(o.flop[own].sum(), o.total_bytes[own].sum())
                found.append(row | _times(self.seconds[own].sum(), self.roofline[own].sum()))
        return found


def operator_table(prepared: Prepared, condition: Condition | None = None) -> OperatorTable:
    """Open up the operators of a plan.

    Args:
        prepared: the workload, costed.
        condition: alone or beside communication; by default the one that most passes run in.
    """
    inputs = prepared.inputs
    condition = condition or usual_condition(prepared.layout)
    kernels, conditions = time_kernels(inputs, prepared.pieces), run_conditions(inputs, condition)
    phases = np.array([PHASES.index(phase) for phase in kernels.operators.phase])
    order = np.lexsort((phases, kernels.piece))
    at, operators = CONDITIONS.index(condition), kernels.operators.take(order)
    return OperatorTable(
        condition=condition,
        sms=inputs.cluster.gpu.sms.value - conditions.sms_for_communication,
        operators=operators,
        piece=kernels.piece[order],
        seconds=kernels.seconds[at][order],
        roofline=roofline_s(operators, inputs.cluster.gpu, conditions),
        basis=kernels.basis[at][order],
        passes=passes_per_step(prepared.stages, prepared.layout),
        peaks=peaks(operators, inputs.cluster.gpu, conditions),
    )


def usual_condition(layout: Layout) -> Condition:
    """Beside communication where the schedule overlaps most forward passes with backward ones, else alone."""
    kinds = [op.kind for _, _, op in layout.schedule.walk()]
    return "beside" if kinds.count("FB") > kinds.count("F") else "alone"


def passes_per_step(stages: tuple[Stage, ...], layout: Layout) -> dict[PieceKind, int]:
    """How often a step runs each piece of the model forward (and backward), over all ranks of a pipeline."""
    run = [piece for stage in stages for piece in stage.pieces]
    return {piece: run.count(piece) * layout.n_micro_batches for piece in PIECES if piece in run}


def _shape(o: Operators, n: int) -> Row:
    """Number format and shape of a product; other operators have none."""
    if not o.flop[n]:
        return dict.fromkeys(("dtype", "groups", "m", "n", "k"))
    return {"dtype": str(o.dtype[n])} | {axis: int(getattr(o, axis)[n]) for axis in ("groups", "m", "n", "k")}


def _work(flop: float, total_bytes: float) -> Row:
    intensity = float(flop / total_bytes) if total_bytes else None
    return {"flop": float(flop), "bytes": float(total_bytes), "intensity_flop_per_byte": intensity}


def _times(seconds: float, roofline: float) -> Row:
    share = float(roofline / seconds) if roofline else None
    return {"seconds": float(seconds), "roofline_s": float(roofline), "roofline_frac": share}
