"""Embedding and loss of a rank that holds a part of the vocabulary (Megatron's vocabulary parallelism)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffsim.model.arrays import Array, Dims
from ffsim.model.tape import operator


@operator("elementwise", gathers=True)
def embed_part(tokens: Array, table: Array, first: int) -> Any:
    """`functions.embed` with only the words from ``first`` on: zero for all others."""
    row, inside = _rows_of(tokens, table.shape[0], first)
    return table[row] * inside[..., None]


@embed_part.grad("table", phase="W")
def _(dy: Array, tokens: Array, table_shape: Dims, first: int) -> Any:
    row, inside = _rows_of(tokens, table_shape[0], first)
    gradient = np.zeros_like(dy, shape=table_shape)
    np.add.at(gradient, row, dy * inside[..., None])
    return gradient


def _rows_of(tokens: Array, rows: int, first: int) -> tuple[Any, Any]:
    """Row of each token in a part of the table (0 for words of other parts), and whether it is in it."""
    inside = (tokens >= first) & (tokens < first + rows)
    return np.where(inside, tokens - first, 0), inside


@operator("elementwise")
def row_maximum(logits: Array) -> Any:
    """The largest logit of each token: ``[T, vocab] -> [T]``. No gradient: it cancels out of the loss."""
    return np.max(logits, axis=-1)


@operator("elementwise")
def partial_softmax(logits: Array, largest: Array, targets: Array, first: int) -> Any:
    """A part of the vocabulary in the cross entropy: ``[T, part], [T], [T] -> [2, T]``.

    The target's logit (zero if another part holds it) and the sum of exponentials, both relative to ``largest``.
    """
    row, inside = _rows_of(targets, logits.shape[-1], first)
    shifted = logits - largest[..., None]
    chosen = np.take_along_axis(shifted, row[..., None], axis=-1)[..., 0] * inside
    return np.concatenate([chosen[None], np.sum(np.exp(shifted), axis=-1)[None]])


@partial_softmax.grad("logits")
def _(dy: Array, logits: Array, largest: Array, targets: Array, first: int) -> Any:
    row, inside = _rows_of(targets, logits.shape[-1], first)
    gradient = np.exp(logits - largest[..., None]) * dy[1][..., None]
    chosen = np.take_along_axis(gradient, row[..., None], axis=-1)
    np.put_along_axis(gradient, row[..., None], chosen + (dy[0] * inside)[..., None], axis=-1)
    return gradient


@operator("elementwise")
def summed_cross_entropy(sums: Array) -> Any:
    """Mean negative log likelihood from what `partial_softmax` sums up to over all parts: ``[2, T] -> []``."""
    return np.mean(np.log(sums[1]) - sums[0])


@summed_cross_entropy.grad("sums")
def _(dy: Array, sums: Array) -> Any:
    per_token = dy / sums[0].size
    return np.concatenate([np.broadcast_to(-per_token, sums[:1].shape), per_token / sums[1:]])
