"""Whole measured layers: their dimensions read from a table, their operators derived from the reference model."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ffsim.compute.cells import Case, Cells
from ffsim.compute.measured import Call, Context
from ffsim.compute.work import operator
from ffsim.config import Figure, Source
from ffsim.model.operators import Row
from ffsim.model.pieces import Workpiece, lower_piece
from ffsim.model.precision import Precision, load_precision
from ffsim.model.spec import Gqa, Mla, ModelSpec, Moe

LAYER_TIMES = ("fwd_us", "fwdbwd_us")
UNFUSED_PASSES = Figure(
    value=2.5,
    low=2.0,
    high=6.0,
    source=Source(ref="bytes of uncompiled element-wise code over those of fused kernels", kind="assumed"),
)
VOCAB = 1  # a layer has none; the model's file form asks for one


def layer_cases(cells: Cells, line: int, sms: int) -> list[Case]:
    """Both times of a ``layer`` row: forward, and forward with backward."""
    mode = cells.text("mode", "compiled")
    if mode not in {"compiled", "eager"}:
        cells.fail("mode", f"{mode!r} is neither compiled nor eager", "say how the layer ran")
    present = [name for name in LAYER_TIMES if cells.has(name)]
    if not present:
        cells.fail(LAYER_TIMES[0], "is missing", f"fill in {' or '.join(LAYER_TIMES)}")
    seconds = {name: cells.number(name) * 1e-6 for name in present}
    batch, length = cells.count("batch"), cells.count("seq", "seq_len")
    described = _described(cells)
    if cells.problems or described is None:
        return []
    spec, ranks = described
    cases = []
    for name in present:
        rows = layer_rows(spec, ranks, batch, length, backward=name == "fwdbwd_us", fused=mode == "compiled")
        context = Context(cells.text("kernel", "torch"), beside=False)
        calls = tuple(Call(row=row, context=context, sms=sms, seconds=seconds[name]) for row in rows)
        what = f"{cells.text('layer', 'layer')} {name.removesuffix('_us')} batch={batch} seq={length}"
        cases.append(Case(line=line, label=f"layer_{mode}", what=what, calls=calls, seconds=seconds[name]))
    return cases


def _described(cells: Cells) -> tuple[ModelSpec, int] | None:
    """The layer as a one-layer model, and the ranks its experts are spread over."""
    kind = cells.text("attention")
    hidden, heads = cells.count("hidden"), cells.count("heads")
    attention: Gqa | Mla
    if kind == "gqa":
        width = cells.count("head_dim", default=max(hidden // heads, 1))
        kv_heads = cells.count("kv_heads", default=heads)
        if heads % kv_heads:
            cells.fail("kv_heads", f"{kv_heads} does not divide {heads} heads", "mend the row")
            return None
        attention = Gqa(kind="gqa", heads=heads, kv_heads=kv_heads, head_dim=width)
    elif kind == "mla":
        attention = Mla(
            kind="mla",
            heads=heads,
            q_lora_rank=None if _empty(cells, "q_lora_rank") else cells.count("q_lora_rank"),
            kv_lora_rank=cells.count("kv_lora_rank"),
            qk_nope_dim=cells.count("qk_nope_dim"),
            qk_rope_dim=cells.count("qk_rope_dim"),
            v_head_dim=cells.count("v_head_dim"),
        )
        if attention.v_head_dim > attention.qk_nope_dim + attention.qk_rope_dim:
            cells.fail("v_head_dim", "values are wider than keys", "such attention is not modelled; mend the row")
            return None
    else:
        cells.fail("attention", f"{kind!r} is neither gqa nor mla", "name the layer's attention")
        return None
    moe, ranks = (None, 1) if _empty(cells, "expert_ffn") else _experts(cells)
    if moe is None and _empty(cells, "dense_ffn"):
        cells.fail("dense_ffn", "is missing, and so is expert_ffn", "give the feed-forward's inner width")
        return None
    spec = ModelSpec(
        kind="model",
        title="measured layer",
        source=Source(ref="measured", kind="measured"),
        layers=1,
        hidden=hidden,
        vocab=VOCAB,
        max_context=cells.count("seq", "seq_len"),
        attention=attention,
        feed_forward=1 if moe else cells.count("dense_ffn"),
        moe=moe,
    )
    return spec, ranks


def _empty(cells: Cells, name: str) -> bool:
    return cells.text(name, "0") in {"0", "0.0"}


def _experts(cells: Cells) -> tuple[Moe | None, int]:
    routed, local = cells.count("n_experts"), cells.count("local_experts")
    width, copies = cells.count("expert_ffn"), cells.count("copies_per_token")
    if routed % local or copies > routed:
        cells.fail("local_experts", f"{local} of {routed} experts, {copies} copies a token", "mend the row")
        return None, 1
    shared = 0 if _empty(cells, "shared_ffn") else cells.count("shared_ffn")
    if shared % width:
        cells.fail("shared_ffn", f"{shared} is no multiple of expert_ffn {width}", "mend the row")
        return None, 1
    moe = Moe(first_dense=0, routed=routed, shared=shared // width, top_k=copies, width=width, scoring="sigmoid")
    return moe, routed // local


@lru_cache(maxsize=1)
def _precision() -> Precision:
    return load_precision("bf16")


def layer_rows(spec: ModelSpec, ranks: int, batch: int, length: int, *, backward: bool, fused: bool) -> tuple[Row, ...]:
    """The kernels of a layer as a PyTorch program in BF16 runs it.

    Args:
        spec: a one-layer model.
        ranks: that the experts are spread over; this one gets as many rows as there are copies of its tokens.
        batch: sequences.
        length: tokens per sequence.
        backward: whether the backward pass runs too.
        fused: whether a compiler fuses element-wise operations; if not each runs by itself.

    Domain: values narrower than keys are padded to the keys' width for the attention kernel, as PyTorch asks for.
    """
    work = Workpiece(
        micro_batch=batch,
        sequence_length=length,
        precision=replace(_precision(), gradient_bytes=2),
        expert_parallel=ranks,
    )
    lowered = lower_piece(spec, "moe" if spec.moe else "dense", work).operators
    rows = []
    for i in range(len(lowered)):
        if lowered.phase[i] != "F" and not backward:
            continue
        row = Row(**{name: getattr(lowered, name)[i].item() for name in lowered.__slots__})
        rows += _as_run(row, spec, fused=fused)
    return tuple(rows)


def _as_run(row: Row, spec: ModelSpec, *, fused: bool) -> list[Row]:
    a = spec.attention
    if row.family.startswith("attention") and isinstance(a, Mla):
        return _padded(row, a)
    if row.family == "elementwise" and not fused:
        passes = UNFUSED_PASSES.value
        return [replace(row, read_bytes=row.read_bytes * passes, write_bytes=row.write_bytes * passes)]
    return [row]


def _padded(row: Row, a: Mla) -> list[Row]:
    """Attention over values padded to the keys' width, and the copies that pad and cut them."""
    qk, v = a.qk_nope_dim + a.qk_rope_dim, a.v_head_dim
    forward = row.family == "attention_forward"
    grown = (qk + qk) / (qk + v) if forward else (3 * qk + 2 * qk) / (3 * qk + 2 * v)
    size = 2.0 * row.groups * row.m
    pad = operator("elementwise", read_bytes=size * v, write_bytes=size * qk)
    cut = operator("elementwise", read_bytes=size * v, write_bytes=size * v)
    return [pad, replace(row, k=2 * qk, flop=row.flop * grown, read_bytes=row.read_bytes * grown), cut]
