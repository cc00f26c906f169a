"""Measured work as operator rows: products, attention and memory traffic by their dimensions."""

from __future__ import annotations

from dataclasses import dataclass

from ffsim.model.operators import Family, Row
from ffsim.model.precision import Dtype

BF16_BYTES = 2
OPERAND_BYTES: dict[Dtype, tuple[int, int]] = {"bf16": (2, 2), "tf32": (4, 4)}
"""Bytes of an element of the operands and of the result; FP8 operands are one byte, their results BF16."""


def operator(family: Family, dtype: Dtype = "bf16", **values: float) -> Row:
    """A row of measured work: which family, what shape, how much traffic."""
    return Row(name="", phase="F", segment=0, family=family, dtype=dtype, **values)  # type: ignore[arg-type]


def product(m: int, n: int, k: int, dtype: Dtype, groups: int = 1, family: Family = "gemm", batch: int = 1) -> Row:
    """A (grouped or batched) product with both operands and the result through the memory once."""
    operand, result = OPERAND_BYTES.get(dtype, (1, BF16_BYTES))
    products = groups * batch
    accumulated = products * m * n * 4.0 if dtype == "fp8_block_wgrad" else 0.0  # FP32, read and written
    return operator(
        family,
        dtype,
        groups=groups,
        batch=batch,
        m=m,
        n=n,
        k=k,
        flop=2.0 * products * m * n * k,
        read_bytes=products * (m + n) * k * operand + accumulated,
        write_bytes=accumulated or products * m * n * float(result),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Sequences and heads of an attention: how many there are of each and how wide heads are."""

    batch: int
    heads: int
    kv_heads: int
    qk: int
    v: int


def attention(h: Heads, length: int, dtype: Dtype, *, causal: bool = True, backward: bool = False) -> Row:
    """Fused attention over whole sequences; tensors are BF16 in memory whatever the products are."""
    share = (length + 1) / (2 * length) if causal else 1.0
    widths = 3 * h.qk + 2 * h.v if backward else h.qk + h.v
    passes = 2 if backward else 1
    return operator(
        "attention_backward" if backward else "attention_forward",
        dtype,
        groups=h.batch * h.heads,
        m=length,
        n=length,
        k=h.qk + h.v,
        flop=2.0 * h.batch * h.heads * length * length * widths * share,
        read_bytes=passes * BF16_BYTES * h.batch * length * (h.heads * h.qk + h.kv_heads * (h.qk + h.v)),
        write_bytes=passes * BF16_BYTES * h.batch * length * h.heads * h.v,
    )


def decode(h: Heads, cached: int, cache_bytes: float, dtype: Dtype) -> Row:
    """Attention of one new token per sequence over a cache of so many bytes per token."""
    return operator(
        "attention_decode",
        dtype,
        groups=h.batch * h.kv_heads,
        m=h.heads // h.kv_heads,
        n=cached,
        k=h.qk + h.v,
        flop=2.0 * h.batch * h.heads * cached * (h.qk + h.v),
        read_bytes=h.batch * (cached * cache_bytes + h.heads * h.qk * float(BF16_BYTES)),
        write_bytes=h.batch * h.heads * h.v * float(BF16_BYTES),
    )
