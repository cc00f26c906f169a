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
from ffsim.model.execution import AttentionKernels, ContextExchange, Execution, executing
from ffsim.model.lowering import Lowered, Recompute, lower
from ffsim.model.maps import normed
from ffsim.model.operators import Operators
from ffsim.model.parameters import (
    Arrays,
    Shapes,
    embedding_shapes,
    head_shapes,
    layer_shapes,
    mtp_shapes,
    rank_spec,
    shape_arrays,
)
from ffsim.model.precision import Precision
from ffsim.model.spec import CnnSpec, Gqa, Mla, ModelSpec
from ffsim.model.split import check_split
from ffsim.model.tape import Tape, recording

DROPPED = 0.1  # of activations; costs do not depend on it
_ALONE = Execution()
PieceKind = Literal["embedding", "dense", "moe", "mtp", "head", "convolutions", "classifier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workpiece:
    """How a piece is run.

    Attributes:
        micro_batch: sequences per micro-batch.
        sequence_length: tokens per whole sequence.
        precision: number formats.
        recompute: outputs computed again in the backward pass.
        expert_parallel: ranks the routed experts are spread over.
        expert_load: rows on the busiest rank over the mean; 1 is perfect balance.
        redundant_experts: copies of experts per layer, spread over the ranks beside the experts themselves.
        router_kernels: kernels that choosing experts takes.
        tensor_parallel: ranks that divide heads, inner widths and vocabulary.
        sequence_parallel: whether they divide the tokens between blocks too.
        context_parallel: ranks that divide every sequence.
        context_exchange: how attention sees the tokens of the others.
        expert_tensor_parallel: ranks that divide the width of each routed expert.
        attention: fused, or as products with the scores in memory between them.
        dropout: whether a share of what embedding, blocks and unfused attention give is dropped.
        fused_linears: whether queries, keys and values come from one product, and biases are added by the product
            before them or the pass after them, as training frameworks do.
    """

    micro_batch: int
    sequence_length: int
    precision: Precision
    recompute: Sequence[Recompute] = ()
    expert_parallel: int = 1
    expert_load: float = 1.0
    redundant_experts: int = 0
    router_kernels: int = 1
    tensor_parallel: int = 1
    sequence_parallel: bool = False
    context_parallel: int = 1
    context_exchange: ContextExchange = "ring"
    expert_tensor_parallel: int = 1
    attention: AttentionKernels = "flash"
    dropout: bool = False
    fused_linears: bool = False

    @property
    def tokens(self) -> int:
        """Tokens per micro-batch on one rank, inside attention and feed-forward."""
        return self.micro_batch * self.sequence_length // self.context_parallel

    @property
    def tokens_between_blocks(self) -> int:
        """Tokens per micro-batch that one rank holds between blocks, hands to the next stage and sends to experts."""
        return self.tokens // (self.tensor_parallel if self.sequence_parallel else 1)

    @property
    def execution(self) -> Execution:
        """How the layers of `ffsim.model.layers` are told."""
        return Execution(
            tensor=self.tensor_parallel,
            sequence_parallel=self.sequence_parallel,
            context=self.context_parallel,
            context_exchange=self.context_exchange,
            expert_tensor=self.expert_tensor_parallel,
            attention=self.attention,
            dropout=DROPPED if self.dropout else 0.0,
            fused_linears=self.fused_linears,
        )


def layer_kind(spec: ModelSpec, layer: int) -> PieceKind:
    """Whether a layer (0-based) is dense or has experts."""
    return "moe" if spec.is_moe(layer) else "dense"


def piece_shapes(
    spec: ModelSpec | CnnSpec,
    kind: PieceKind,
    expert_parallel: int = 1,
    redundant_experts: int = 0,
    *,
    tensor_parallel: int = 1,
    expert_tensor_parallel: int = 1,
) -> Shapes:
    """Parameters that one rank holds for a piece; a tied head shares the embedding's table and has none of its own.

    A tensor group holds learned positions, norms and the projection of an MTP module whole on every rank; Megatron
    divides that projection and gathers what comes out, here each rank applies it to its own tokens.
    """
    if isinstance(spec, CnnSpec):
        return cnn.cnn_shapes(spec, cnn_piece(kind))
    extra = redundant_experts // expert_parallel
    degrees = {"tensor_parallel": tensor_parallel, "expert_tensor_parallel": expert_tensor_parallel}
    shapes = _piece_shapes(spec, kind, expert_parallel, degrees)
    return {
        name: (shape[0] + extra, *shape[1:]) if name.startswith("experts_") else shape for name, shape in shapes.items()
    }


def _piece_shapes(spec: ModelSpec, kind: PieceKind, expert_parallel: int, degrees: dict[str, int]) -> Shapes:
    if kind == "embedding":
        return embedding_shapes(rank_spec(spec, degrees["tensor_parallel"]))
    if kind == "head":
        return head_shapes(rank_spec(spec, degrees["tensor_parallel"]))
    if kind == "mtp":
        return {**mtp_shapes(spec), **layer_shapes(spec, spec.layers, expert_parallel=expert_parallel, **degrees)}
    layer = 0 if kind == "dense" else spec.layers - 1
    return layer_shapes(spec, layer, expert_parallel=expert_parallel, **degrees)


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
    """Record one rank's pass over a piece on shape-only arrays and lower it to kernels and messages.

    The MTP module does not include its output head, which is the model's own head run once more. ``recompute: layer``
    applies to layers, not to embedding and head. Of a convolutional model ``work.micro_batch`` counts images.

    Raises:
        ModelDomainError: the model has no such piece, the ranks cannot share it so (`check_split`), no kernels do what
            is asked, or a convolutional model is to be recomputed, divided or cut in sequences.
    """
    if isinstance(spec, CnnSpec):
        return _lower_cnn(spec, cnn_piece(kind), work)
    _check(spec, work)
    shapes = piece_shapes(
        spec,
        kind,
        work.expert_parallel,
        work.redundant_experts,
        tensor_parallel=work.tensor_parallel,
        expert_tensor_parallel=work.expert_tensor_parallel,
    )
    length = work.sequence_length // work.context_parallel
    own = length // (work.tensor_parallel if work.sequence_parallel else 1)
    x, tokens = Shape(work.micro_batch, own, spec.hidden), Shape(work.micro_batch, length)
    with executing(work.execution), recording() as tape:
        y = _run(rank_spec(spec, work.tensor_parallel), kind, shape_arrays(shapes), x, tokens)
        tape.backward([(y, Shape(*y.shape))])
    return _lowered(tape, work, whole="layer" in work.recompute and kind not in {"embedding", "head"})


def _check(spec: ModelSpec, work: Workpiece) -> None:
    problems = [
        Problem(what=what, fix=fix)
        for _, what, fix in check_split(
            spec,
            tensor_parallel=work.tensor_parallel,
            context_parallel=work.context_parallel,
            expert_tensor_parallel=work.expert_tensor_parallel,
            sequence_parallel=work.sequence_parallel,
            sequence_length=work.sequence_length,
            context_exchange=work.context_exchange,
        )
    ]
    if work.attention == "unfused":
        if work.context_parallel > 1 and work.context_exchange == "ring":
            problems.append(Problem(what="unfused attention cannot go round a ring", fix="use flash or all-to-all"))
        if isinstance(spec.attention, Mla) and spec.attention.indexer is not None:
            problems.append(Problem(what="unfused attention over selected keys", fix="use flash"))
    if problems:
        raise ModelDomainError(problems)


def _lower_cnn(spec: CnnSpec, kind: cnn.CnnPiece, work: Workpiece) -> Lowered:
    if work.sequence_length != 1 or work.recompute:
        what = f"{spec.title} takes images, not sequences of {work.sequence_length} with recompute {work.recompute!r}"
        raise ModelDomainError(Problem(what=what, fix="use sequence_length: 1 and recompute: none"))
    ranks = work.tensor_parallel * work.context_parallel * work.expert_tensor_parallel
    if ranks > 1:
        what = f"{spec.title} has neither heads nor sequences nor experts to divide over {ranks} ranks"
        raise ModelDomainError(Problem(what=what, fix="use tp, cp and etp 1"))
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

    Raises:
        ModelDomainError: several ranks are to share the layer, or its attention is not fused.
    """
    if replace(work.execution, random=_ALONE.random) != _ALONE:
        what = "a decoding step is costed on one rank with fused attention, separate linear maps and no dropout"
        raise ModelDomainError(Problem(what=what, fix="leave tensor, context and expert tensor parallelism at 1"))
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


def _lowered(tape: Tape, work: Workpiece, *, whole: bool = False) -> Lowered:
    load = work.expert_load if work.expert_parallel > 1 else 1.0  # all experts on one rank: nothing is uneven
    recompute = [name for name in work.recompute if whole or name != "layer"]
    lowered = lower(tape, work.precision, recompute, expert_load=load, fused_biases=work.fused_linears)
    return replace(lowered, operators=_with_router(lowered.operators, work.router_kernels))


def _run(spec: ModelSpec, kind: PieceKind, p: Arrays, x: Shape, tokens: Shape, cache: Cache | None = None) -> Any:
    if kind == "embedding":
        return layers.embedding(p, tokens)
    if kind == "head":
        table = {"embed": Shape(spec.vocab, spec.hidden)} if spec.tied else {}
        return layers.cross_entropy(layers.logits(spec, {**p, **table}, x), tokens)
    tables = layers.rope_tables(spec, layers.Rope(), Shape(tokens.shape[1]))
    if kind != "mtp":
        return layers.layer(spec, p, x, tables, cache=cache)
    inner = layers.mtp_input(p, x, layers.embedding({"embed": Shape(spec.vocab, spec.hidden)}, tokens))
    return normed(p, "mtp_norm", layers.layer(spec, p, inner, tables, cache=cache))


def _with_router(operators: Operators, kernels: int) -> Operators:
    """Choosing experts is one operator of the model but a row of small kernels on a GPU."""
    chooses = np.char.endswith(operators.name, "choose_experts")
    return replace(operators, kernels=np.where(chooses, kernels, operators.kernels))
