"""The pieces a pipeline deals in: embedding, layers, MTP module, head; each costed once and counted many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ffsim.errors import ModelDomainError, Problem
from ffsim.model import cnn, layers
from ffsim.model import functions as f
from ffsim.model.arrays import Shape
from ffsim.model.cache import Cache
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
from ffsim.model.spec import CnnSpec, Gqa, Mla, ModelSpec
from ffsim.model.tape import Tape, recording

PieceKind = Literal["embedding", "dense", "moe", "mtp", "head", "convolutions", "classifier"]


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
        redundant_experts: copies of experts per layer, spread over the ranks beside the experts themselves.
        router_kernels: kernels that choosing experts takes.
    """

    micro_batch: int
    sequence_length: int
    precision: Precision
    recompute: Sequence[Recompute] = ()
    expert_parallel: int = 1
    expert_load: float = 1.0
    redundant_experts: int = 0
    router_kernels: int = 1

    @property
    def tokens(self) -> int:
        """Tokens per micro-batch on one rank."""
        return self.micro_batch * self.sequence_length


def layer_kind(spec: ModelSpec, layer: int) -> PieceKind:
    """Whether a layer (0-based) is dense or has experts."""
    return "moe" if spec.is_moe(layer) else "dense"


def piece_shapes(
    spec: ModelSpec | CnnSpec, kind: PieceKind, expert_parallel: int = 1, redundant_experts: int = 0
) -> Shapes:
    """Parameters that one rank holds for a piece; a tied head shares the embedding's table and has none of its own."""
    if isinstance(spec, CnnSpec):
        return cnn.cnn_shapes(spec, cnn_piece(kind))
    extra = redundant_experts // expert_parallel
    shapes = _piece_shapes(spec, kind, expert_parallel)
    return {
        name: (shape[0] + extra, *shape[1:]) if name.startswith("experts_") else shape for name, shape in shapes.items()
    }


def _piece_shapes(spec: ModelSpec, kind: PieceKind, expert_parallel: int) -> Shapes:
    if kind == "embedding":
        return embedding_shapes(spec)
    if kind == "head":
        return head_shapes(spec)
    if kind == "mtp":
        return {**mtp_shapes(spec), **layer_shapes(spec, spec.layers, expert_parallel=expert_parallel)}
    layer = 0 if kind == "dense" else spec.layers - 1
    return layer_shapes(spec, layer, expert_parallel=expert_parallel)


def cnn_piece(kind: PieceKind) -> cnn.CnnPiece:
    """The piece of a convolutional model that is meant.

    Raises:
        ModelDomainError: it is a transformer's.
    """
    if kind == "convolutions" or kind == "classifier":  # noqa: PLR1714 - a set would not narrow the type
        return kind
    what = f"a convolutional model has no piece {kind!r}"
    raise ModelDomainError(Problem(what=what, fix="use convolutions or classifier"))


def lower_piece(spec: ModelSpec | CnnSpec, kind: PieceKind, work: Workpiece) -> Lowered:
    """Record one pass over a piece on shape-only arrays and lower it to kernels.

    The MTP module does not include its output head, which is the model's own head run once more. Of a convolutional
    model ``work.micro_batch`` counts images.

    Raises:
        ModelDomainError: the model has no such piece, or a convolutional one is to be recomputed or cut in sequences.
    """
    if isinstance(spec, CnnSpec):
        return _lower_cnn(spec, cnn_piece(kind), work)
    p = shape_arrays(piece_shapes(spec, kind, work.expert_parallel, work.redundant_experts))
    x = Shape(work.micro_batch, work.sequence_length, spec.hidden)
    tokens = Shape(work.micro_batch, work.sequence_length)
    with recording() as tape:
        y = _run(spec, kind, p, x, tokens)
    tape.backward([(y, Shape(*y.shape))])
    return _lowered(tape, work)


def _lower_cnn(spec: CnnSpec, kind: cnn.CnnPiece, work: Workpiece) -> Lowered:
    if work.sequence_length != 1 or work.recompute:
        what = f"{spec.title} takes images, not sequences of {work.sequence_length} with recompute {work.recompute!r}"
        raise ModelDomainError(Problem(what=what, fix="use sequence_length: 1 and recompute: none"))
    p = shape_arrays(piece_shapes(spec, kind))
    x = Shape(*cnn.cnn_input(spec, kind, work.micro_batch))
    with recording() as tape:
        if kind == "convolutions":
            y = cnn.convolutions(spec, p, x)
        else:
            y = f.cross_entropy(cnn.logits(spec, p, x), Shape(work.micro_batch))
    tape.backward([(y, Shape(*y.shape))])
    return _lowered(tape, work)


def lower_decoding(spec: ModelSpec, kind: Literal["dense", "moe", "mtp"], work: Workpiece, cached: int) -> Lowered:
    """Record one decoding step of a layer on shape-only arrays and lower it to kernels.

    MLA runs in its absorbed form over cached latents. The embedding and the head of a step are the forward kernels of
    those pieces.

    Args:
        spec: the model.
        kind: which layer.
        work: how it is run; ``sequence_length`` is the number of new tokens of every sequence.
        cached: tokens of every sequence that came before.

    Returns:
        Kernels of phase F only; nothing is kept.
    """
    p = shape_arrays(piece_shapes(spec, kind, work.expert_parallel))
    x = Shape(work.micro_batch, work.sequence_length, spec.hidden)
    tokens = Shape(work.micro_batch, work.sequence_length)
    with recording() as tape:
        _run(spec, kind, p, x, tokens, _shape_cache(spec.attention, work.micro_batch, cached))
    return _lowered(tape, work)


def _shape_cache(a: Gqa | Mla, batch: int, tokens: int) -> Cache:
    if isinstance(a, Gqa):
        shape = (batch, tokens, a.kv_heads, a.head_dim)
        return Cache("key_value", {"k": Shape(*shape), "v": Shape(*shape)})
    held = {"latent": Shape(batch, tokens, a.kv_lora_rank), "rope_key": Shape(batch, tokens, a.qk_rope_dim)}
    if a.indexer is not None:
        held["index_key"] = Shape(batch, tokens, a.indexer.head_dim)
    return Cache("latent", held)


def _lowered(tape: Tape, work: Workpiece) -> Lowered:
    load = work.expert_load if work.expert_parallel > 1 else 1.0  # all experts on one rank: nothing is uneven
    lowered = lower(tape, work.precision, work.recompute, expert_load=load)
    return replace(lowered, operators=_with_router(lowered.operators, work.router_kernels))


def _run(spec: ModelSpec, kind: PieceKind, p: Arrays, x: Shape, tokens: Shape, cache: Cache | None = None) -> Any:
    if kind == "embedding":
        return layers.embedding(p, tokens)
    if kind == "head":
        table = {"embed": Shape(spec.vocab, spec.hidden)} if spec.tied else {}
        return f.cross_entropy(layers.logits(spec, {**p, **table}, x), tokens)
    tables = layers.rope_tables(spec, layers.Rope(), Shape(tokens.shape[1]))
    if kind != "mtp":
        return layers.layer(spec, p, x, tables, cache=cache)
    inner = layers.mtp_input(p, x, layers.embedding({"embed": Shape(spec.vocab, spec.hidden)}, tokens))
    return layers.normed(p, "mtp_norm", layers.layer(spec, p, inner, tables, cache=cache))


def _with_router(operators: Operators, kernels: int) -> Operators:
    """Choosing experts is one operator of the model but a row of small kernels on a GPU."""
    chooses = np.char.endswith(operators.name, "choose_experts")
    return replace(operators, kernels=np.where(chooses, kernels, operators.kernels))
