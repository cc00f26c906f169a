"""One reader an operator: the cells of a row to a family of errors and the work it names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ffsim.compute.cells import FALSE, Cells, Skip, dtype_of
from ffsim.compute.work import BF16_BYTES, OPERAND_BYTES, Heads, attention, decode, operator, product
from ffsim.model.operators import Row
from ffsim.model.precision import Dtype

MLA_LATENT, MLA_ROPE, MLA_NOPE, MLA_VALUE = 512, 64, 128, 128  # of DeepSeek-V2 and V3, where a table does not say


Read = tuple[str, tuple[Row, ...]]


def _gemm(cells: Cells) -> Read:
    dtype = dtype_of(cells)
    return f"gemm_{dtype}", (product(cells.count("m"), cells.count("n"), cells.count("k"), dtype),)


def _batched(cells: Cells) -> Read:
    dtype, batch = dtype_of(cells), cells.count("batch")
    row = product(cells.count("m"), cells.count("n"), cells.count("k"), dtype, batch=batch)
    return f"batched_gemm_{dtype}", (row,)


def _convolution(cells: Cells) -> Read:
    """A 3x3 convolution that keeps the size, or one of its gradients; images that are not channels-last are turned."""
    dtype, images, side = dtype_of(cells), cells.count("images"), cells.count("side")
    out, into, op = cells.count("out"), cells.count("in"), cells.text("op")
    layout = cells.text("layout", "nhwc")
    if layout not in {"nhwc", "nchw"}:
        cells.fail("layout", f"{layout!r} is neither nhwc nor nchw", "say how images lie in memory")
    pixels, size = images * side**2, OPERAND_BYTES.get(dtype, (1, 1))[0]
    m, n, k = {
        "conv_fwd": (pixels, out, 9 * into),
        "conv_dgrad": (pixels, into, 9 * out),
        "conv_wgrad": (out, 9 * into, pixels),
    }[op]
    moved = {"conv_fwd": pixels * out, "conv_dgrad": pixels * into, "conv_wgrad": 9 * into * out}[op]
    total = size * (pixels * (into + out) + 9.0 * into * out)
    row = operator(
        "convolution",
        dtype,
        m=m,
        n=n,
        k=k,
        flop=2.0 * m * n * k,
        read_bytes=total - size * moved,
        write_bytes=float(size * moved),
    )
    turned = [
        operator("elementwise", dtype, read_bytes=size * pixels * c, write_bytes=size * pixels * c) for c in (into, out)
    ]
    return f"convolution_{layout}", (row, *turned) if layout == "nchw" else (row,)


def _grouped(cells: Cells) -> Read:
    groups, m = cells.count("experts", "groups"), cells.count("tokens_per_expert", "m")
    return "grouped_gemm", (product(m, cells.count("n"), cells.count("k"), dtype_of(cells), groups, "grouped_gemm"),)


def _expert_product(cells: Cells) -> Read:
    """InferSim's grouped products: ``num_tokens`` tokens on this GPU, each copied to ``topk`` experts of the group."""
    ep, experts, copies = cells.count("ep"), cells.count("num_experts"), cells.count("topk")
    local = max(experts // ep, 1)
    m = max(math.ceil(cells.count("num_tokens") * copies / local), 1)
    hidden, inner = cells.count("hidden"), cells.count("inter")
    n, k = (2 * inner, hidden) if cells.text("op").endswith("up") else (hidden, inner)
    return "grouped_gemm", (product(m, n, k, dtype_of(cells), local, "grouped_gemm"),)


def _experts(cells: Cells) -> Read:
    """Both products of a rank's experts and the activation between, for ``num_tokens`` tokens of the whole group."""
    if cells.text("distribution") not in {"balanced", "uniform"}:
        raise Skip("expert layers with a skew that is not stated as the busiest rank's load")
    ep, experts, copies, tp = (cells.count("ep"), cells.count("num_experts"), cells.count("topk"), cells.count("tp"))
    rows = max(math.ceil(cells.count("num_tokens") * copies / ep), 1)
    local = min(max(experts // ep, 1), rows)  # few rows touch few experts
    m = math.ceil(rows / local)
    hidden, inner, dtype = cells.count("hidden"), max(cells.count("inter") // tp, 1), dtype_of(cells)
    size = float(local * m)
    swiglu = operator("elementwise", read_bytes=size * 2 * inner * BF16_BYTES, write_bytes=size * inner * BF16_BYTES)
    up = product(m, 2 * inner, hidden, dtype, local, "grouped_gemm")
    return "moe_experts", (up, swiglu, product(m, hidden, inner, dtype, local, "grouped_gemm"))


def _heads(cells: Cells) -> Heads:
    heads, width = cells.count("heads", "num_heads"), cells.count("head_dim")
    kv_heads = cells.count("kv_heads", "num_kv_heads", default=heads)
    if heads % kv_heads:
        cells.fail("kv_heads", f"{kv_heads} does not divide {heads} heads", "mend the row")
    return Heads(batch=cells.count("batch"), heads=heads, kv_heads=kv_heads, qk=width, v=width)


def _sequence_attention(cells: Cells) -> Read:
    backward = cells.text("op") == "sdpa_bwd"
    causal = cells.text("causal", "1") not in FALSE
    length = cells.count("seq", "seq_len")
    row = attention(_heads(cells), length, dtype_of(cells), causal=causal, backward=backward)
    return "attention_backward" if backward else "attention_prefill", (row,)


def _cached_attention(cells: Cells) -> Read:
    heads = _heads(cells)
    per_token = 2 * heads.kv_heads * heads.qk * _cache_bytes(cells)
    return "attention_decode", (decode(heads, cells.count("kv_len", "context"), per_token, dtype_of(cells)),)


def _cache_bytes(cells: Cells) -> int:
    return 1 if cells.text("kv_dtype") == "fp8" else BF16_BYTES


def _latent_heads(cells: Cells) -> Heads:
    heads = cells.count("num_heads", "heads")
    return Heads(batch=cells.count("batch"), heads=heads, kv_heads=heads, qk=MLA_NOPE + MLA_ROPE, v=MLA_VALUE)


def _mla_prefill(cells: Cells) -> Read:
    return "mla_prefill", (attention(_latent_heads(cells), cells.count("seq_len", "seq"), dtype_of(cells)),)


def _latent_decode(cells: Cells, dtype: Dtype) -> Row:
    """Absorbed MLA: every head reads the one latent, which is both key and value."""
    latent = MLA_LATENT + MLA_ROPE
    heads = replace(_latent_heads(cells), kv_heads=1, qk=latent, v=MLA_LATENT)
    return decode(heads, cells.count("kv_len", "context"), latent * _cache_bytes(cells), dtype)


def _mla_decode(cells: Cells) -> Read:
    label = "mla_decode_unfused" if cells.text("op") == "mla_decode_unfused" else "mla_decode"
    return label, (_latent_decode(cells, dtype_of(cells)),)


def _absorbed(cells: Cells) -> Read:
    """The products by which queries enter the latent space and results leave it, one per head."""
    n, k = (MLA_LATENT, MLA_NOPE) if cells.text("op") == "mla_gen_pre" else (MLA_VALUE, MLA_LATENT)
    heads = cells.count("num_heads")
    return "mla_absorb", (product(cells.count("num_tokens"), n, k, dtype_of(cells), heads, "grouped_gemm"),)


def _copy(cells: Cells) -> Read:
    size = cells.number("bytes")
    if cells.text("op") == "memcpy_d2d":
        return "copy_device", (operator("elementwise", read_bytes=size, write_bytes=size),)
    return "copy_host", (operator("host_copy", read_bytes=size),)


def _stream(cells: Cells) -> Read:
    """A memory-bound kernel: ``bytes`` of one operand, or what it reads and writes."""
    if cells.has("bytes"):
        read = write = cells.number("bytes")
    else:
        read, write = cells.number("read_bytes"), cells.number("write_bytes")
    op = cells.text("op")
    label = op if op in _SEVERAL_PASSES or op in PASSES else "elementwise"
    return label, (operator("elementwise", dtype_of(cells), read_bytes=read, write_bytes=write),)


TRANSPOSED = ", transposed"
"""Ends the library of TF32 products whose operands do not lie along the inner dimension."""
PASSES: dict[str, tuple[str, ...]] = {
    "softmax": ("softmax/F", "causal_softmax/F", "causal_softmax/B"),
    "softmax_bwd": ("softmax/B",),
    "dropout": ("dropout/F",),
    "layer_norm": ("layer_norm/F",),
    "layer_norm_bwd": ("layer_norm/B",),
    "column_sum": ("add_bias/B", "add_channel_bias/B"),
    "channel_bias": ("add_channel_bias/F",),
    "pool": ("max_pool/F",),
    "pool_bwd": ("max_pool/B",),
}
"""Passes that something besides one trip through the memory bounds, and the operators of models that they are.

A fused softmax gradient is as fast as its forward pass; PyTorch's own first multiplies in a pass of its own.
"""
_SEVERAL_PASSES = ("cross_entropy", "transpose_quantise")  # these cannot be done in one pass over their operands


V3_HIDDEN, V3_QUERY_LATENT = 7168, 1536  # the only model whose attention modules the tables time


def _mla_module(cells: Cells) -> Read:
    """DeepSeek-V3's attention with its projections, norms and rotation; the parts in each library's own kernels."""
    dtype, h = dtype_of(cells), _latent_heads(cells)
    prefill = cells.has("seq_len", "seq")
    length = cells.count("seq_len", "seq") if prefill else 1
    tokens = h.batch * length
    rows = [
        product(tokens, V3_QUERY_LATENT + MLA_LATENT + MLA_ROPE, V3_HIDDEN, dtype),
        product(tokens, h.heads * h.qk, V3_QUERY_LATENT, dtype),
        product(tokens, V3_HIDDEN, h.heads * h.v, dtype),
        _pass(tokens * (V3_QUERY_LATENT + MLA_LATENT)),
        _pass(tokens * h.heads * h.qk),
    ]
    if prefill:
        expand = product(tokens, h.heads * (MLA_NOPE + MLA_VALUE), MLA_LATENT, dtype)
        rows += [expand, _pass(tokens * h.heads * (h.qk + h.v)), attention(h, length, "bf16")]
    else:
        into = product(tokens, MLA_LATENT, MLA_NOPE, "bf16", h.heads, "grouped_gemm")
        out = product(tokens, MLA_VALUE, MLA_LATENT, "bf16", h.heads, "grouped_gemm")
        rows += [into, _latent_decode(cells, "bf16"), out]
    if dtype != "bf16":
        rows += [_pass(tokens * V3_HIDDEN), _pass(tokens * h.heads * h.v)]
    return "mla_module", tuple(rows)


def _pass(size: float) -> Row:
    """One element-wise kernel over a BF16 tensor."""
    return operator("elementwise", read_bytes=size * BF16_BYTES, write_bytes=size * BF16_BYTES)


_STREAMS = (
    "silu",
    "rms_norm",
    "add_norm",
    "swiglu",
    "swiglu_quantise",
    "quantise",
    "transpose_quantise",
    "permute",
    "embedding",
    "cross_entropy",
    "adamw",
    "add",
    "gelu",
    "gelu_bwd",
    "dropout_bwd",
    "relu",
)
READERS: dict[str, Callable[[Cells], Read]] = {
    "gemm": _gemm,
    "batched_gemm": _batched,
    "conv_fwd": _convolution,
    "conv_dgrad": _convolution,
    "conv_wgrad": _convolution,
    "grouped_gemm": _grouped,
    "moe_grouped_gemm_prefill_up": _expert_product,
    "moe_grouped_gemm_prefill_down": _expert_product,
    "moe_grouped_gemm_decode_up": _expert_product,
    "moe_grouped_gemm_decode_down": _expert_product,
    "moe_experts": _experts,
    "moe_experts_deepep_context": _experts,
    "moe_experts_deepep_generation": _experts,
    "sdpa_fwd": _sequence_attention,
    "sdpa_bwd": _sequence_attention,
    "attn_prefill": _sequence_attention,
    "attn_decode": _cached_attention,
    "mla_prefill_core": _mla_prefill,
    "mla_decode_core": _mla_decode,
    "mla_decode_unfused": _mla_decode,
    "mla_prefill_module": _mla_module,
    "mla_decode_module": _mla_module,
    "mla_decode_module_sglang": _mla_module,
    "mla_gen_pre": _absorbed,
    "mla_gen_post": _absorbed,
    "memcpy_d2d": _copy,
    "memcpy_h2d": _copy,
    "memcpy_d2h": _copy,
    **dict.fromkeys((*_STREAMS, *PASSES), _stream),
}
