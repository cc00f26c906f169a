"""The operators of the reference model: plain NumPy, each with its gradient (those of attention: `attention`).

Shapes: ``T`` stands for any leading axes (batch and sequence), linear weights are ``[out, in]``.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ffsim.model.arrays import Array, Dims, grouped_matmul, grouped_outer
from ffsim.model.tape import operator

RMS_EPS = 1e-6
LAYER_EPS = 1e-5


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


# --- products ---------------------------------------------------------------------------------------------------------


@operator("gemm")
def linear(x: Array, w: Array) -> Any:
    """``y = x w^T``: ``[T, in] x [out, in] -> [T, out]``."""
    return x @ w.T


@linear.grad("x")
def _(dy: Array, w: Array) -> Any:
    return dy @ w


@linear.grad("w", phase="W")
def _(dy: Array, x: Array) -> Any:
    return _flat(dy).T @ _flat(x)


@operator("grouped_gemm")
def grouped_linear(x: Array, w: Array, counts: Array) -> Any:
    """One linear map per expert: ``[n_rows, in] x [n_experts, out, in] -> [n_rows, out]``, rows sorted by expert."""
    return grouped_matmul(x, w, counts)


@grouped_linear.grad("x")
def _(dy: Array, w: Array, counts: Array) -> Any:
    return grouped_matmul(dy, np.swapaxes(w, 1, 2), counts)


@grouped_linear.grad("w", phase="W")
def _(dy: Array, x: Array, counts: Array) -> Any:
    return grouped_outer(dy, x, counts)


# --- element-wise -----------------------------------------------------------------------------------------------------


@operator("elementwise")
def add(a: Array, b: Array) -> Any:
    """``a + b`` of equal shapes."""
    return a + b


@add.grad("a", "b")
def _(dy: Array) -> Any:
    return dy, dy


@operator("elementwise", lasting=("bias",))
def add_bias(x: Array, bias: Array) -> Any:
    """``x + bias`` for every leading index that the bias lacks."""
    return x + bias


@add_bias.grad("x", "bias")
def _(dy: Array, bias_shape: Dims) -> Any:
    return dy, np.sum(dy.reshape(-1, *bias_shape), axis=0)


@operator("elementwise", lasting=("gain",))
def rms_norm(x: Array, gain: Array) -> Any:
    """``x / sqrt(mean(x^2) + eps) * gain`` over the last axis."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + RMS_EPS) * gain


@rms_norm.grad("x", "gain")
def _(dy: Array, x: Array, gain: Array) -> Any:
    inverse = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + RMS_EPS)
    normed, d_normed = x * inverse, dy * gain
    dx = inverse * (d_normed - normed * np.mean(d_normed * normed, axis=-1, keepdims=True))
    return dx, np.sum(_flat(dy * normed), axis=0)


@operator("elementwise", lasting=("gain", "bias"))
def layer_norm(x: Array, gain: Array, bias: Array, eps: float = LAYER_EPS) -> Any:
    """``(x - mean) / sqrt(var + eps) * gain + bias`` over the last axis."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + eps) * gain + bias


@layer_norm.grad("x", "gain", "bias")
def _(dy: Array, x: Array, gain: Array, eps: float) -> Any:
    centred = x - np.mean(x, axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + eps)
    normed, d_normed = centred * inverse, dy * gain
    mean = np.mean(d_normed, axis=-1, keepdims=True)
    dx = inverse * (d_normed - mean - normed * np.mean(d_normed * normed, axis=-1, keepdims=True))
    return dx, np.sum(_flat(dy * normed), axis=0), np.sum(_flat(dy), axis=0)


def _sigmoid(x: Array) -> Any:
    return 1 / (1 + np.exp(-x))


@operator("elementwise", casts=True)
def swiglu(x: Array) -> Any:
    """``silu(gate) * up`` with gate and up side by side: ``[T, 2 width] -> [T, width]``."""
    gate, up = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return gate * _sigmoid(gate) * up


@swiglu.grad("x")
def _(dy: Array, x: Array) -> Any:
    return _swiglu_gradient(dy, x)


def _swiglu_gradient(dy: Array, x: Array) -> Any:
    gate, up = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    s = _sigmoid(gate)
    return np.concatenate([dy * up * s * (1 + gate * (1 - s)), dy * gate * s], axis=-1)


@operator("elementwise", casts=True)
def weighted_swiglu(x: Array, weights: Array) -> Any:
    """`swiglu` times a routing weight per row: ``[n_rows, 2 width], [n_rows] -> [n_rows, width]``.

    The weight goes in before the down projection, which is linear: the sum over experts is the same, and its gradient
    needs no expert outputs to be kept.
    """
    gate, up = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return gate * _sigmoid(gate) * up * weights[:, None]


@weighted_swiglu.grad("x", "weights")
def _(dy: Array, x: Array, weights: Array) -> Any:
    gate, up = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return _swiglu_gradient(dy * weights[:, None], x), np.sum(dy * gate * _sigmoid(gate) * up, axis=-1)


_GELU = math.sqrt(2 / math.pi)


@operator("elementwise")
def gelu(x: Array) -> Any:
    """GPT's tanh form: ``x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``."""
    return 0.5 * x * (1 + np.tanh(_GELU * (x + 0.044715 * x**3)))


@gelu.grad("x")
def _(dy: Array, x: Array) -> Any:
    t = np.tanh(_GELU * (x + 0.044715 * x**3))
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _GELU * (1 + 3 * 0.044715 * x * x))


# --- views: free on a GPU ---------------------------------------------------------------------------------------------


@operator("view")
def reshape(x: Array, shape: tuple[int, ...]) -> Any:
    """The same numbers under another shape."""
    return x.reshape(shape)


@reshape.grad("x")
def _(dy: Array, x_shape: Dims) -> Any:
    return dy.reshape(x_shape)


@operator("view")
def split(x: Array, at: int) -> Any:
    """Cut the last axis in two."""
    return x[..., :at], x[..., at:]


@split.grad("x")
def _(dy: tuple[Array | None, Array | None], x_shape: Dims, at: int) -> Any:
    left, right = dy
    leading = x_shape[:-1]
    if left is None:
        left = np.zeros_like(right, shape=(*leading, at))
    if right is None:
        right = np.zeros_like(left, shape=(*leading, x_shape[-1] - at))
    return np.concatenate([left, right], axis=-1)


@operator("view")
def join(left: Array, right: Array) -> Any:
    """Undo `split`; on a GPU the parts already lie side by side."""
    return np.concatenate([left, right], axis=-1)


@join.grad("left", "right")
def _(dy: Array, left_shape: Dims) -> Any:
    return dy[..., : left_shape[-1]], dy[..., left_shape[-1] :]


@operator("view")
def crop(x: Array, start: int, stop: int, axis: int) -> Any:
    """A run of rows along one of the leading two axes."""
    return x[start:stop] if axis == 0 else x[:, start:stop]


@crop.grad("x")
def _(dy: Array, x_shape: Dims, start: int, stop: int, axis: int) -> Any:
    gradient = np.zeros_like(dy, shape=x_shape)
    if axis == 0:
        gradient[start:stop] = dy
    else:
        gradient[:, start:stop] = dy
    return gradient


@operator("view")
def pick(x: Array, rows: Array) -> Any:
    """Rows of a table by number, none twice."""
    return x[rows]


@pick.grad("x")
def _(dy: Array, x_shape: Dims, rows: Array) -> Any:
    gradient = np.zeros_like(dy, shape=x_shape)
    gradient[rows] = dy
    return gradient


# --- embedding and loss -----------------------------------------------------------------------------------------------


@operator("elementwise", gathers=True)
def embed(tokens: Array, table: Array) -> Any:
    """Look tokens up: ``[B, S], [vocab, hidden] -> [B, S, hidden]``."""
    return table[tokens]


@embed.grad("table", phase="W")
def _(dy: Array, tokens: Array, table_shape: Dims) -> Any:
    gradient = np.zeros_like(dy, shape=table_shape)
    np.add.at(gradient, tokens, dy)
    return gradient


@operator("elementwise")
def cross_entropy(logits: Array, targets: Array) -> Any:
    """Mean negative log likelihood: ``[T, vocab], [T] -> []``."""
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    log_sum = np.log(np.sum(np.exp(shifted), axis=-1))
    chosen = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    return np.mean(log_sum - chosen)


@cross_entropy.grad("logits")
def _(dy: Array, logits: Array, targets: Array) -> Any:
    exponentials = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    gradient = exponentials / np.sum(exponentials, axis=-1, keepdims=True)
    chosen = np.take_along_axis(gradient, targets[..., None], axis=-1)
    np.put_along_axis(gradient, targets[..., None], chosen - 1, axis=-1)
    return gradient * (dy / targets.size)


# --- routing ----------------------------------------------------------------------------------------------------------

Scoring = Literal["sigmoid", "softmax"]


@operator("elementwise")
def gate_scores(logits: Array, scoring: Scoring) -> Any:
    """Affinity of each token to each expert: ``[T, n_experts]``."""
    if scoring == "sigmoid":
        return _sigmoid(logits)
    exponentials = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return exponentials / np.sum(exponentials, axis=-1, keepdims=True)


@gate_scores.grad("logits")
def _(dy: Array, y: Array, scoring: Scoring) -> Any:
    if scoring == "sigmoid":
        return dy * y * (1 - y)
    return y * (dy - np.sum(dy * y, axis=-1, keepdims=True))


def group_scores(choice: Array, *, biased: bool) -> Any:
    """What a group of experts is worth to a token: ``[n_tokens, groups, experts of a group] -> [n_tokens, groups]``.

    The sum of its two best biased scores where there is a bias (V3), else its best score (V2).
    """
    return np.sum(np.sort(choice, axis=-1)[..., -2:], axis=-1) if biased else np.max(choice, axis=-1)


@operator("elementwise")
def choose_experts(scores: Array, bias: Array | None, top_k: int, groups: int, top_groups: int) -> Any:
    """Pick ``top_k`` experts per token from the best ``top_groups`` of ``groups`` expert groups.

    A bias (DeepSeek-V3's load balancing) steers the choice but not the weights.

    Args:
        scores: ``[n_tokens, n_experts]``.
        bias: ``[n_experts]`` or None.
        top_k: experts per token.
        groups: expert groups (nodes); 1 means no limit.
        top_groups: groups a token may use.

    Returns:
        ``[n_tokens, top_k]`` expert ids, best first; ties go to the lower id.
    """
    n_tokens, n_experts = scores.shape
    choice = scores if bias is None else scores + bias
    if groups > 1:
        grouped = choice.reshape(n_tokens, groups, n_experts // groups)
        order = np.argsort(-group_scores(grouped, biased=bias is not None), axis=-1, kind="stable")
        place = np.argsort(order, axis=-1, kind="stable")
        choice = np.where((place < top_groups)[..., None], grouped, -np.inf).reshape(n_tokens, n_experts)
    return np.argsort(-choice, axis=-1, kind="stable")[:, :top_k]


@operator("elementwise")
def routing_weights(scores: Array, indices: Array, normalise: bool, scale: float) -> Any:
    """Weights of the chosen experts: their scores, normalised over the chosen if asked, times ``scale``."""
    chosen = np.take_along_axis(scores, indices, axis=-1)
    if normalise:
        chosen = chosen / np.sum(chosen, axis=-1, keepdims=True)
    return chosen * scale


@routing_weights.grad("scores")
def _(dy: Array, y: Array, scores: Array, indices: Array, normalise: bool, scale: float) -> Any:
    d_chosen = dy * scale
    if normalise:
        total = np.sum(np.take_along_axis(scores, indices, axis=-1), axis=-1, keepdims=True)
        d_chosen = (d_chosen - np.sum(dy * y, axis=-1, keepdims=True)) / total
    gradient = np.zeros_like(scores)
    np.put_along_axis(gradient, indices, d_chosen, axis=-1)
    return gradient


@operator("dispatch")
def dispatch(x: Array, order: Array, top_k: int) -> Any:
    """Send every token to its experts: ``[n_tokens, hidden] -> [n_tokens * top_k, hidden]``, rows sorted by expert."""
    return x[order // top_k]


@dispatch.grad("x")
def _(dy: Array, x_shape: Dims, order: Array, top_k: int) -> Any:
    gradient = np.zeros_like(dy, shape=x_shape)
    np.add.at(gradient, order // top_k, dy)
    return gradient


@operator("combine")
def combine(rows: Array, order: Array, top_k: int) -> Any:
    """Bring expert outputs home and add them up: ``[n_tokens * top_k, hidden] -> [n_tokens, hidden]``."""
    total = np.zeros_like(rows, shape=(rows.shape[0] // top_k, rows.shape[1]))
    np.add.at(total, order // top_k, rows)
    return total


@combine.grad("rows")
def _(dy: Array, order: Array, top_k: int) -> Any:
    return dy[order // top_k]


@operator("elementwise")
def sort_rows(rows: Array, order: Array) -> Any:
    """Rows in another order: those of several ranks by expert."""
    return rows[order]


@sort_rows.grad("rows")
def _(dy: Array, order: Array) -> Any:
    gradient = np.zeros_like(dy)
    gradient[order] = dy
    return gradient


@operator("view")
def take_rows(x: Array, order: Array) -> Any:
    """Routing weights in the order of the rows: ``[n_tokens, top_k] -> [n_tokens * top_k]``."""
    return x.reshape(-1)[order]


@take_rows.grad("x")
def _(dy: Array, x_shape: Dims, order: Array) -> Any:
    gradient = np.zeros_like(dy, shape=x_shape).reshape(-1)
    np.add.at(gradient, order, dy)
    return gradient.reshape(x_shape)
