"""The pieces a pipeline deals in: embedding, layers, MTP module, head; each costed once and counted many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

import numpy as np

from ffsim.model import functions as f
from ffsim.model import layers
from ffsim.model.arrays import Shape
from ffsim.model.lowering import Lowered, Recompute, lower
from ffsim.model.operators import Operators
from ffsim.model.parameters import (
    Arrays,
    Shapes,
    embedding_shapes,
    head_shapes,
    layer_shapes,
    mtp_shapes,
    shape_arrays,
)
from ffsim.model.precision import Precision
from ffsim.model.spec import ModelSpec
from ffsim.model.tape import recording

PieceKind = Literal["embedding", "dense", "moe", "mtp", "head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workpiece:
    """How a piece is run.

    Attributes:
        micro_batch: sequences per micro-batch on one rank.
        sequence_length: tokens per sequence.
        precision: number formats.
        recompute: outputs computed again in the backward pass.
        expert_parallel: ranks the routed experts are spread over.
        expert_load: rows on the busiest rank over the mean; 1 is perfect balance.
        router_kernels: kernels that choosing experts takes.
    """

    micro_batch: int
    sequence_length: int
    precision: Precision
    recompute: Sequence[Recompute] = ()
    expert_parallel: int = 1
    expert_load: float = 1.0
    router_kernels: int = 1

    @property
    def tokens(self) -> int:
        """Tokens per micro-batch on one rank."""
        return self.micro_batch * self.sequence_length


def layer_kind(spec: ModelSpec, layer: int) -> PieceKind:
    """Whether a layer (0-based) is dense or has experts."""
    return "moe" if spec.is_moe(layer) else "dense"


def piece_shapes(spec: ModelSpec, kind: PieceKind, expert_parallel: int = 1) -> Shapes:
    """Parameters that one rank holds for a piece; a tied head shares the embedding's table and has none of its own."""
    if kind == "embedding":
        return embedding_shapes(spec)
    if kind == "head":
        return head_shapes(spec)
    if kind == "mtp":
        return {**mtp_shapes(spec), **layer_shapes(spec, spec.layers, expert_parallel=expert_parallel)}
    layer = 0 if kind == "dense" else spec.layers - 1
    return layer_shapes(spec, layer, expert_parallel=expert_parallel)


def lower_piece(spec: ModelSpec, kind: PieceKind, work: Workpiece) -> Lowered:
    """Record one pass over a piece on shape-only arrays and lower it to kernels.

    The MTP module does not include its output head, which is the model's own head run once more.
    """
    p = shape_arrays(piece_shapes(spec, kind, work.expert_parallel))
    x = Shape(work.micro_batch, work.sequence_length, spec.hidden)
    tokens = Shape(work.micro_batch, work.sequence_length)
    with recording() as tape:
        y = _run(spec, kind, p, x, tokens)
    tape.backward([(y, Shape(*y.shape))])
    lowered = lower(tape, work.precision, work.recompute)
    lowered = replace(lowered, operators=_with_router(lowered.operators, work.router_kernels))
    if not lowered.has_experts or work.expert_parallel == 1:  # all experts on one rank: nothing is uneven
        return lowered
    of_experts = float(ceil(work.expert_load * lowered.saved_expert_bytes))
    return replace(
        lowered,
        operators=_loaded(lowered.operators, work.expert_load),
        saved_bytes=lowered.saved_bytes - lowered.saved_expert_bytes + of_experts,
        saved_expert_bytes=of_experts,
    )


def _run(spec: ModelSpec, kind: PieceKind, p: Arrays, x: Shape, tokens: Shape) -> Any:
    if kind == "embedding":
        return layers.embedding(p, tokens)
    if kind == "head":
        table = {"embed": Shape(spec.vocab, spec.hidden)} if spec.tied else {}
        return f.cross_entropy(layers.logits(spec, {**p, **table}, x), tokens)
    tables = layers.rope_tables(spec, layers.Rope(), np.arange(tokens.shape[1]))
    if kind != "mtp":
        return layers.layer(spec, p, x, tables)
    inner = layers.mtp_input(p, x, layers.embedding({"embed": Shape(spec.vocab, spec.hidden)}, tokens))
    return layers.normed(p, "mtp_norm", layers.layer(spec, p, inner, tables))


def _with_router(operators: Operators, kernels: int) -> Operators:
    """Choosing experts is one operator of the model but a row of small kernels on a GPU."""
    chooses = np.char.endswith(operators.name, "choose_experts")
    return replace(operators, kernels=np.where(chooses, kernels, operators.kernels))


def _loaded(operators: Operators, load: float) -> Operators:
    """The operators of the busiest rank: expert rows grow by the load, everything else stays."""
    grouped = operators.family == "grouped_gemm"
    weights = grouped & (operators.phase == "W")
    rows = np.array([("experts/" in name or "permute" in name) for name in operators.name])
    factor = np.where(rows, load, 1.0)
    return replace(
        operators,
        m=np.where(grouped & ~weights, np.ceil(operators.m * load), operators.m).astype(operators.m.dtype),
        k=np.where(weights, np.ceil(operators.k * load), operators.k).astype(operators.k.dtype),
        flop=operators.flop * factor,
        read_bytes=operators.read_bytes * factor,
        write_bytes=operators.write_bytes * factor,
    )
