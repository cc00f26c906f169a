"""The operators of attention: rotary embedding, softmax over the past, the latent form, the sparse selection.

Shapes: B sequences, S queries, T >= S keys (the queries are the last S of the T tokens), H heads, D their width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ffsim.model.arrays import Array, Dims
from ffsim.model.tape import operator

# --- rotary embedding -------------------------------------------------------------------------------------------------


@operator("elementwise", lasting=("cos", "sin"))
def rotate(x: Array, cos: Array, sin: Array) -> Any:
    """Rotary embedding of adjacent pairs: ``x [B, S, H, D]``, ``cos, sin [S, D/2]``; the result has x's precision."""
    return _rotate(x, cos, sin)


@rotate.grad("x")
def _(dy: Array, cos: Array, sin: Array) -> Any:
    return _rotate(dy, cos, -sin)


def _rotate(x: Array, cos: Array, sin: Array) -> Any:
    even, odd = x[..., 0::2], x[..., 1::2]
    c, s = cos[:, None], sin[:, None]
    turned = np.zeros_like(x)
    turned[..., 0::2] = even * c - odd * s
    turned[..., 1::2] = even * s + odd * c
    return turned


@operator("elementwise", lasting=("cos", "sin"))
def rotate_halves(x: Array, cos: Array, sin: Array) -> Any:
    """Rotary embedding that pairs element i with i + R/2 of the first R = 2 ``cos.shape[1]`` elements of ``x``.

    Only V3.2's indexer pairs elements so; its selection has no gradient, nor has this.
    """
    half = cos.shape[1]
    left, right = x[..., :half], x[..., half : 2 * half]
    c, s = cos[:, None], sin[:, None]
    turned = np.zeros_like(x)
    turned[..., :half] = left * c - right * s
    turned[..., half : 2 * half] = left * s + right * c
    turned[..., 2 * half :] = x[..., 2 * half :]
    return turned


@operator("elementwise")
def join_shared_key(k: Array, shared: Array) -> Any:
    """Append the one rotated key to every head: ``[B, S, H, D], [B, S, 1, R] -> [B, S, H, D + R]``."""
    return np.concatenate([k, np.broadcast_to(shared, (*k.shape[:3], shared.shape[3]))], axis=-1)


@join_shared_key.grad("k", "shared")
def _(dy: Array, k_shape: Dims) -> Any:
    return dy[..., : k_shape[3]], np.sum(dy[..., k_shape[3] :], axis=2, keepdims=True)


# --- softmax attention ------------------------------------------------------------------------------------------------


Zigzag = tuple[int, int]  # a rank and how many there are, each with an early and a late chunk of the sequence


def probabilities(q: Array, k: Array, scale: float, chosen: Array | None = None, zigzag: Zigzag | None = None) -> Any:
    """Softmax of ``scale q k^T`` over the keys each query may see: ``[B, H, S, T]``.

    Args:
        q: ``[B, S, H, D]``.
        k: ``[B, T, H, D]``.
        scale: factor on the scores.
        chosen: ``[B, S, K]`` indices of the keys a query may see, past ones only; None for the whole past.
        zigzag: whose chunks the queries are (`execution.zigzag`); None if they are the last S of the T tokens.
    """
    scores = np.swapaxes(q, 1, 2) @ np.swapaxes(np.swapaxes(k, 1, 2), 2, 3) * scale
    seen = _past(scores, zigzag)
    if chosen is not None:
        picked = np.zeros_like(scores[:, :1])
        np.put_along_axis(picked, chosen[:, None], 1, axis=-1)
        seen = seen & (picked > 0)
    return _softmax(np.where(seen, scores, -np.inf))


def _softmax(scores: Array) -> Any:
    exponentials = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    return exponentials / np.sum(exponentials, axis=-1, keepdims=True)


def _past(scores: Array, zigzag: Zigzag | None = None) -> Any:
    """Which keys are not in the future of which query: ``[S, T]`` of ``[..., S, T]``."""
    queries, keys = scores.shape[-2:]
    if zigzag is None:
        return np.tri(queries, keys, keys - queries, like=scores) > 0
    (rank, ranks), chunk = zigzag, queries // 2
    early, late = rank * chunk, (2 * ranks - 1 - rank) * chunk
    return np.concatenate([np.tri(chunk, keys, start, like=scores) for start in (early, late)]) > 0


def _share_heads(x: Array, n_heads: int) -> Any:
    """Repeat each key/value head for its group of query heads: ``[B, T, H_kv, D] -> [B, T, H, D]``."""
    batch, length, kv_heads, width = x.shape
    if kv_heads == n_heads:
        return x
    wide = np.broadcast_to(x[:, :, :, None], (batch, length, kv_heads, n_heads // kv_heads, width))
    return wide.reshape(batch, length, n_heads, width)


def _gather_heads(x: Array, kv_heads: int) -> Any:
    """The transpose of `_share_heads`."""
    batch, length, heads, width = x.shape
    if kv_heads == heads:
        return x
    return np.sum(x.reshape(batch, length, kv_heads, heads // kv_heads, width), axis=3)


def _attend(q: Array, k: Array, v: Array, scale: float, chosen: Array | None, zigzag: Zigzag | None = None) -> Any:
    heads = q.shape[2]
    p = probabilities(q, _share_heads(k, heads), scale, chosen, zigzag)
    return np.swapaxes(p @ np.swapaxes(_share_heads(v, heads), 1, 2), 1, 2)


@operator("attention")
def causal_attention(
    q: Array, k: Array, v: Array, scale: float, chosen: Array | None = None, zigzag: Zigzag | None = None
) -> Any:
    """Softmax attention over the past, or over the ``chosen [B, S, K]`` keys of it.

    ``q [B, S, H, D]``, ``k [B, T, H_kv, D]``, ``v [B, T, H_kv, D_v] -> [B, S, H, D_v]``. With ``zigzag`` the queries
    are the chunks of one rank of a ring and the keys all that come round it.
    """
    return _attend(q, k, v, scale, chosen, zigzag)


@causal_attention.grad("q", "k", "v")
def _(
    dy: Array, y: Array, q: Array, k: Array, v: Array, scale: float, chosen: Array | None, zigzag: Zigzag | None
) -> Any:
    heads, kv_heads = q.shape[2], k.shape[2]
    wide_k, wide_v = _share_heads(k, heads), _share_heads(v, heads)
    p = probabilities(q, wide_k, scale, chosen, zigzag)  # recomputed, as flash attention does
    d_out = np.swapaxes(dy, 1, 2)
    dv = np.swapaxes(p, 2, 3) @ d_out
    dp = d_out @ np.swapaxes(np.swapaxes(wide_v, 1, 2), 2, 3)
    row = np.swapaxes(np.sum(dy * y, axis=-1, keepdims=True), 1, 2)
    ds = p * (dp - row) * scale
    dq = ds @ np.swapaxes(wide_k, 1, 2)
    dk = np.swapaxes(ds, 2, 3) @ np.swapaxes(q, 1, 2)
    return (
        np.swapaxes(dq, 1, 2),
        _gather_heads(np.swapaxes(dk, 1, 2), kv_heads),
        _gather_heads(np.swapaxes(dv, 1, 2), kv_heads),
    )


# --- unfused attention: scores and probabilities pass through the memory ----------------------------------------------


@operator("batched")
def score_products(q: Array, k: Array) -> Any:
    """``q k^T`` of every head: ``[B, S, H, D], [B, T, H_kv, D] -> [B, H, S, T]``, future keys included."""
    return np.swapaxes(q, 1, 2) @ np.swapaxes(np.swapaxes(_share_heads(k, q.shape[2]), 1, 2), 2, 3)


@score_products.grad("q")
def _(dy: Array, k: Array) -> Any:
    return np.swapaxes(dy @ np.swapaxes(_share_heads(k, dy.shape[1]), 1, 2), 1, 2)


@score_products.grad("k")
def _(dy: Array, q: Array, k_shape: Dims) -> Any:
    return _gather_heads(np.swapaxes(np.swapaxes(dy, 2, 3) @ np.swapaxes(q, 1, 2), 1, 2), k_shape[2])


@operator("elementwise")
def causal_softmax(scores: Array, scale: float) -> Any:
    """Scale, mask and softmax in one pass over the scores, as training frameworks fuse them."""
    return _softmax(np.where(_past(scores), scores * scale, -np.inf))


@causal_softmax.grad("scores")
def _(dy: Array, y: Array, scale: float) -> Any:
    return y * (dy - np.sum(dy * y, axis=-1, keepdims=True)) * scale


@operator("batched")
def weigh_values(p: Array, v: Array) -> Any:
    """``p v`` of every head: ``[B, H, S, T], [B, T, H_kv, D_v] -> [B, S, H, D_v]``."""
    return np.swapaxes(p @ np.swapaxes(_share_heads(v, p.shape[1]), 1, 2), 1, 2)


@weigh_values.grad("p")
def _(dy: Array, v: Array) -> Any:
    heads = dy.shape[2]
    return np.swapaxes(dy, 1, 2) @ np.swapaxes(np.swapaxes(_share_heads(v, heads), 1, 2), 2, 3)


@weigh_values.grad("v")
def _(dy: Array, p: Array, v_shape: Dims) -> Any:
    return _gather_heads(np.swapaxes(np.swapaxes(p, 2, 3) @ np.swapaxes(dy, 1, 2), 1, 2), v_shape[2])


# --- the absorbed form: attention over latents ------------------------------------------------------------------------


@operator("gemm")
def per_head_linear(x: Array, w: Array) -> Any:
    """One linear map per head: ``[B, S, H, in] x [H, out, in] -> [B, S, H, out]``."""
    batch, length, heads, width = x.shape
    rows = np.swapaxes(x.reshape(batch * length, heads, width), 0, 1)
    return np.swapaxes(rows @ np.swapaxes(w, 1, 2), 0, 1).reshape(batch, length, heads, w.shape[1])


@operator("attention")
def latent_attention(q: Array, latent: Array, key: Array, scale: float, chosen: Array | None = None) -> Any:
    """Attention of every head over one shared key, latent and rotated part, whose latent is the value as well.

    ``q [B, S, H, C + R]``, ``latent [B, T, C]``, ``key [B, T, R] -> [B, S, H, C]``. It serves decoding: no gradient.
    """
    shared = np.concatenate([latent, key], axis=-1)
    return _attend(q, shared[:, :, None], latent[:, :, None], scale, chosen)


# --- the sparse selection of DeepSeek-V3.2 ----------------------------------------------------------------------------


@operator("index")
def index_scores(q: Array, k: Array, weights: Array, scale: float) -> Any:
    """How much each query wants each past key: ``scale sum_h w_h relu(q_h . k)``, minus infinity for future keys.

    ``q [B, S, H, D]``, ``k [B, T, D]``, ``weights [B, S, H] -> [B, S, T]``.
    """
    products = np.swapaxes(q, 1, 2) @ np.swapaxes(k, 1, 2)[:, None]
    scores = np.sum(np.swapaxes(weights, 1, 2)[..., None] * np.maximum(products, 0), axis=1) * scale
    return np.where(_past(scores), scores, -np.inf)


@operator("elementwise")
def choose_keys(scores: Array, top_k: int) -> Any:
    """The keys that score best for each query, all where there are fewer: ``[B, S, T] -> [B, S, min(top_k, T)]``."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :top_k]
