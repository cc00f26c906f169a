"""What the optimizer step of a rank takes."""

from __future__ import annotations

from ffsim.compute import Conditions, time_operators
from ffsim.model.operators import Operators, Row
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.stages import Stage, stage_parameters


def optimizer_s(inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces, rank: int) -> float:
    """Time of one optimizer step on a rank: memory traffic over the states it holds and the gradients it clears."""
    p, total = inputs.precision, 0.0
    for dense, expert, dense_shards, expert_shards in held_parameters(inputs, layout, stages, pieces, rank):
        states = p.gradient_bytes + 2 * (p.master_bytes + p.moment_bytes) + p.weight_bytes.value
        total += (dense / dense_shards + expert / expert_shards) * states + 2 * (dense + expert) * p.gradient_bytes
    update = Row(name="optimizer", phase="W", segment=0, family="elementwise", read_bytes=total, kernels=3)
    times = time_operators(Operators.of([update]), inputs.cluster.gpu, inputs.profile, Conditions())
    return float(times.seconds[0])


def held_parameters(
    inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces, rank: int
) -> list[tuple[int, int, int, int]]:
    """Per stage of a rank: dense and expert parameters, and over how many ranks the optimizer shards each."""
    rows = []
    sharded = inputs.spec.plan.zero >= 1
    for stage in layout.schedule.placement[rank]:
        dense, expert = stage_parameters(stages[stage], pieces)
        holders = len(layout.holders(stage))
        shards, expert_shards = layout.dp * layout.cp * holders, layout.edp * holders
        rows.append((dense, expert, shards if sharded else 1, expert_shards if sharded else 1))
    return rows
