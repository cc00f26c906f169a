"""Kernels as table rows: the shape, the FLOP and the bytes of a product, an attention or an element-wise pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from ffsim.model.arrays import Array, Product
from ffsim.model.operators import Family, Row
from ffsim.model.precision import Dtype, Precision
from ffsim.model.tape import Call, Phase

BF16_BYTES = 2
FP32_BYTES = 4
_CACHED = {"k", "v", "latent", "key"}  # inputs of attention of which a selection reads only some


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kernel stands in the table; its methods make the rows.

    Attributes:
        name, phase, segment: as `Row` has them.
        precision: number formats.
        load: rows of the busiest rank's experts over those on the tape, 1 for all other kernels.
    """

    name: str
    phase: Phase
    segment: int
    precision: Precision
    load: float

    @property
    def even(self) -> Place:
        """The same place, for what does not grow with the rows."""
        return replace(self, load=1.0)

    def elementwise(self, read_bytes: float, write_bytes: float, *, what: str = "") -> Row:
        """A pass over memory that reads and writes so many bytes."""
        return Row(
            name=f"{self.name}/{what}" if what else self.name,
            phase=self.phase,
            segment=self.segment,
            family="elementwise",
            dtype=self.precision.product,
            read_bytes=self.load * read_bytes,
            write_bytes=self.load * write_bytes,
        )

    def cast(self, size: float, *, read: float = BF16_BYTES, what: str = "cast") -> Row:
        """A quantising cast of ``size`` elements that are read in ``read`` bytes each."""
        return self.elementwise(size * read, size * self.precision.quantised_bytes, what=what)

    def product(self, family: Family, product: Product, dtype: Dtype) -> Row:
        """A product whose rows (summed over in a weight gradient) grow with the load; its weights do not."""
        operand = self.precision.activation_bytes if dtype == self.precision.product else 1
        groups, m, n, k = product.groups, product.m, product.n, product.k
        if self.phase == "W":
            k = ceil(self.load * k)
        else:
            m = ceil(self.load * m)
        accumulated = groups * m * n * self.precision.gradient_bytes if self.phase == "W" else 0.0
        return Row(
            name=self.name,
            phase=self.phase,
            segment=self.segment,
            family=family,
            dtype=dtype,
            groups=groups,
            m=m,
            n=n,
            k=k,
            flop=replace(product, m=m, k=k).flop,
            read_bytes=groups * (m + n) * k * operand + accumulated,
            write_bytes=accumulated or groups * m * n * self.precision.activation_bytes,
        )

    def batched(self, product: Product) -> Row:
        """Equal products of activations, computed by one batched call."""
        one = self.product("gemm", product, self.precision.product)
        return replace(one, groups=1, batch=product.groups)

    def convolution(self, product: Product, read: Sequence[Array], written: Array) -> Row:
        """A convolution: the product that it amounts to, its real operands once through the memory."""
        accumulated = written.size * self.precision.gradient_bytes if self.phase == "W" else 0.0
        return Row(
            name=self.name,
            phase=self.phase,
            segment=self.segment,
            family="convolution",
            dtype=self.precision.product,
            m=product.m,
            n=product.n,
            k=product.k,
            flop=product.flop,
            read_bytes=elements(read) * self.precision.activation_bytes + accumulated,
            write_bytes=accumulated or written.size * self.precision.activation_bytes,
        )

    def attention(self, family: Family, call: Call, products: Sequence[Product], passes: int) -> Row:
        """Attention as one kernel: the visible share of ``products``, every array ``passes`` times through memory."""
        scores, values = call.products
        chosen = call.inputs.get("chosen")
        keys = scores.n if chosen is None else chosen.shape[2]
        pairs: float = visible_pairs(scores.m, scores.n, keys)
        zigzag = call.arguments.get("zigzag")
        if zigzag is not None:  # an early and a late chunk together see as much of the past as any other two
            pairs = visible_pairs(scores.n, scores.n, keys) / zigzag[1]
        shared = 1
        if family == "attention_decode":  # the queries that share a key are the rows of one product
            shared = call.inputs["q"].shape[2] // (call.inputs["k"].shape[2] if "k" in call.inputs else 1)
        touched = min(scores.m * keys / scores.n, 1.0)  # of what is cached
        read = sum(x.size * (touched if name in _CACHED else 1.0) for name, x in call.inputs.items())
        return Row(
            name=self.name,
            phase=self.phase,
            segment=self.segment,
            family=family,
            dtype=self.precision.product,
            groups=scores.groups // shared,
            m=scores.m * shared,
            n=keys,
            k=scores.k + values.n,
            flop=pairs / (scores.m * scores.n) * sum(product.flop for product in products),
            read_bytes=passes * self.precision.activation_bytes * read,
            write_bytes=passes * self.precision.activation_bytes * elements(call.outputs),
            kernels=1 if zigzag is None else zigzag[1],
        )

    def index(self, call: Call) -> Row:
        """The indexer's scores: one product of all its heads, of which only the sum over heads reaches memory."""
        q, k, weights = (call.inputs[name] for name in ("q", "k", "weights"))
        (batch, queries, heads, width), keys = q.shape, k.shape[1]
        seen = visible_pairs(queries, keys, keys)
        kept = self.precision.activation_bytes
        operand = self.precision.quantised_bytes if self.precision.quantised else kept
        return Row(
            name=self.name,
            phase=self.phase,
            segment=self.segment,
            family="gemm",
            dtype=self.precision.gemm,
            groups=batch,
            m=queries * heads,
            n=ceil(seen / queries),
            k=width,
            flop=2.0 * batch * heads * seen * width,
            read_bytes=(q.size + k.size) * operand + weights.size * kept,
            write_bytes=batch * seen * FP32_BYTES,
        )


def visible_pairs(queries: int, keys: int, most: int) -> int:
    """Query-key pairs where each query, the last of all tokens, sees at most so many of the keys up to its own."""
    return int(np.minimum(np.arange(keys - queries, keys) + 1, most).sum())


def elements(arrays: Iterable[Array]) -> float:
    """Elements of several arrays together."""
    return float(sum(array.size for array in arrays))
