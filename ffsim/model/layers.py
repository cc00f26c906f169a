"""The reference model, top to bottom: read it in one sitting.

``p`` is a dict of parameter arrays named as in `ffsim.model.parameters`; ``x`` is ``[batch, sequence, hidden]``. Every
function works on real arrays (numbers) and on `Shape` arrays (costs) alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ffsim.errors import ModelDomainError
from ffsim.model import functions as f
from ffsim.model.arrays import Array
from ffsim.model.parameters import Arrays
from ffsim.model.spec import Gqa, Mla, ModelSpec, Moe
from ffsim.model.tape import scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary position embedding, stretched by YaRN if ``factor`` > 1.

    Attributes:
        base: wavelength base.
        factor: context extension factor.
        original_length: context the model was trained on before the extension.
        beta_fast, beta_slow: rotations over the original context between which YaRN blends.
    """

    base: float = 10_000.0
    factor: float = 1.0
    original_length: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def frequencies(self, dim: int) -> np.ndarray[Any, Any]:
        """Angle per position of each pair: ``[dim / 2]``."""
        frequencies = 1.0 / self.base ** (np.arange(0, dim, 2) / dim)
        if self.factor <= 1:
            return frequencies
        low, high = (self._pair_turning(beta, dim) for beta in (self.beta_fast, self.beta_slow))
        low, high = max(math.floor(low), 0), min(math.ceil(high), dim - 1)
        ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 1e-3), 0, 1)
        return frequencies / self.factor * ramp + frequencies * (1 - ramp)

    def _pair_turning(self, rotations: float, dim: int) -> float:
        return dim * math.log(self.original_length / (rotations * 2 * math.pi)) / (2 * math.log(self.base))

    def tables(self, positions: Array, dim: int) -> tuple[Any, Any]:
        """Cosines and sines: ``[n_positions, dim / 2]`` each."""
        angles = positions[:, None] * self.frequencies(dim)
        return np.cos(angles), np.sin(angles)

    def softmax_factor(self, mscale: float = 1.0) -> float:
        """YaRN's correction of the softmax scale."""
        return (0.1 * mscale * math.log(self.factor) + 1.0) ** 2 if self.factor > 1 else 1.0


def normed(p: Arrays, name: str, x: Array) -> Any:
    """The norm of that name: LayerNorm where it has a bias, else RMSNorm."""
    with scope(name):
        bias = p.get(name + "_bias")
        return f.rms_norm(x, p[name]) if bias is None else f.layer_norm(x, p[name], bias)


def projected(p: Arrays, name: str, x: Array) -> Any:
    """The linear map of that name, with its bias if it has one."""
    with scope(name):
        y = f.linear(x, p[name])
        bias = p.get(name + "_bias")
        return y if bias is None else f.add_bias(y, bias)


def gqa(a: Gqa, p: Arrays, x: Array, tables: tuple[Array, Array] | None) -> Any:
    """Grouped-query attention; without tables the positions were learned and added to the input."""
    batch, length, _ = x.shape
    q = f.reshape(projected(p, "wq", x), (batch, length, a.heads, a.head_dim))
    k = f.reshape(projected(p, "wk", x), (batch, length, a.kv_heads, a.head_dim))
    v = f.reshape(projected(p, "wv", x), (batch, length, a.kv_heads, a.head_dim))
    if tables is not None:
        with scope("rope"):
            q, k = f.rotate(q, *tables), f.rotate(k, *tables)
    y = f.causal_attention(q, k, v, a.head_dim**-0.5)
    return projected(p, "wo", f.reshape(y, (batch, length, a.heads * a.head_dim)))


def mla(a: Mla, p: Arrays, x: Array, tables: tuple[Array, Array], softmax_factor: float = 1.0) -> Any:
    """Multi-head latent attention in its expanded form, as training and prefill run it.

    Source: arXiv 2405.04434 s2.1; deepseek-ai/DeepSeek-V3 inference/model.py.
    """
    if a.indexer is not None:
        raise ModelDomainError("the sparse attention of DeepSeek-V3.2 is described but not yet computed or costed")
    batch, length, _ = x.shape
    if a.q_lora_rank is None:
        q = projected(p, "wq", x)
    else:
        q = projected(p, "wq_b", normed(p, "q_norm", projected(p, "wq_a", x)))
    q_nope, q_rope = f.split(f.reshape(q, (batch, length, a.heads, a.qk_nope_dim + a.qk_rope_dim)), a.qk_nope_dim)

    latent, k_rope = f.split(projected(p, "wkv_a", x), a.kv_lora_rank)
    kv = projected(p, "wkv_b", normed(p, "kv_norm", latent))
    k_nope, v = f.split(f.reshape(kv, (batch, length, a.heads, a.qk_nope_dim + a.v_head_dim)), a.qk_nope_dim)

    with scope("rope"):
        q = f.join(q_nope, f.rotate(q_rope, *tables))
        shared = f.rotate(f.reshape(k_rope, (batch, length, 1, a.qk_rope_dim)), *tables)
        k = f.join_shared_key(k_nope, shared)
    scale = (a.qk_nope_dim + a.qk_rope_dim) ** -0.5 * softmax_factor
    y = f.causal_attention(q, k, v, scale)
    return projected(p, "wo", f.reshape(y, (batch, length, a.heads * a.v_head_dim)))


def feed_forward(p: Arrays, x: Array, prefix: str = "") -> Any:
    """Dense feed-forward: SwiGLU where the first matrix is twice as wide as the second, else GELU."""
    inner = projected(p, prefix + "up", x)
    gated = p[prefix + "up"].shape[0] == 2 * p[prefix + "down"].shape[1]
    return projected(p, prefix + "down", f.swiglu(inner) if gated else f.gelu(inner))


def route(moe: Moe, p: Arrays, x: Array) -> tuple[Any, Any]:
    """Gate: which experts each token goes to, and with what weights.

    Args:
        moe: the experts.
        p: ``gate`` and, for V3, ``gate_bias``.
        x: ``[n_tokens, hidden]``.

    Returns:
        ``[n_tokens, top_k]`` indices (best first) and weights.
    """
    with scope("gate"):
        scores = f.gate_scores(f.linear(x, p["gate"]), moe.scoring)
        indices = f.choose_experts(scores, p.get("gate_bias"), moe.top_k, moe.groups, moe.top_groups)
        return indices, f.routing_weights(scores, indices, moe.normalise, moe.scale)


def mixture(moe: Moe, p: Arrays, x: Array) -> Any:
    """Routed and shared experts. Source: arXiv 2401.06066, 2412.19437 s2.1.2."""
    flat = f.reshape(x, (-1, x.shape[-1]))
    indices, weights = route(moe, p, flat)
    order = np.argsort(indices.reshape(-1), kind="stable")
    counts = np.bincount(indices.reshape(-1), minlength=p["experts_up"].shape[0])
    rows = f.dispatch(flat, order, moe.top_k)
    with scope("experts"):
        inner = f.grouped_linear(rows, p["experts_up"], counts)
        outer = f.grouped_linear(f.weighted_swiglu(inner, f.take_rows(weights, order)), p["experts_down"], counts)
    if moe.shared:
        with scope("shared"):
            shared = feed_forward(p, flat, "shared_")
    y = f.combine(outer, order, moe.top_k)
    return f.reshape(f.add(y, shared) if moe.shared else y, x.shape)


def layer(spec: ModelSpec, p: Arrays, x: Array, tables: tuple[Array, Array] | None, softmax_factor: float = 1.0) -> Any:
    """One pre-norm transformer layer; it has experts if its parameters have a gate."""
    with scope("attention"):
        h = normed(p, "attn_norm", x)
        a = spec.attention
        if isinstance(a, Gqa):
            h = gqa(a, p, h, tables)
        else:
            assert tables is not None
            h = mla(a, p, h, tables, softmax_factor)
        x = f.add(x, h)
    with scope("feed_forward"):
        h = normed(p, "ffn_norm", x)
        h = mixture(cast("Moe", spec.moe), p, h) if "gate" in p else feed_forward(p, h)
        return f.add(x, h)


def embedding(p: Arrays, tokens: Array) -> Any:
    """Token table and, for GPT, learned positions: ``[batch, sequence] -> [batch, sequence, hidden]``."""
    with scope("embedding"):
        x = f.embed(tokens, p["embed"])
        if "positions" in p:
            x = f.add_bias(x, p["positions"][: tokens.shape[1]])
        return x


def logits(spec: ModelSpec, p: Arrays, x: Array) -> Any:
    """Final norm and output head: ``[..., hidden] -> [..., vocab]``."""
    with scope("head"):
        return f.linear(normed(p, "norm", x), p["embed"] if spec.tied else p["head"])


def mtp_input(p: Arrays, x: Array, next_embedded: Array) -> Any:
    """What an MTP module feeds its layer: hidden state and embedding of the next token, each normed, projected.

    Source: arXiv 2412.19437 s2.2.
    """
    with scope("mtp"):
        both = f.join(normed(p, "mtp_norm_hidden", x), normed(p, "mtp_norm_embed", next_embedded))
        return projected(p, "mtp_proj", both)


def rope_tables(spec: ModelSpec, rope: Rope, positions: Array) -> tuple[Any, Any] | None:
    """Rotation tables of a model's attention, none if its positions are learned."""
    if spec.learned_positions:
        return None
    a = spec.attention
    return rope.tables(positions, a.head_dim if isinstance(a, Gqa) else a.qk_rope_dim)


def forward(spec: ModelSpec, parameters: dict[str, Arrays], tokens: Array, rope: Rope | None = None) -> Any:
    """The whole model: tokens ``[batch, sequence]`` to logits ``[batch, sequence, vocab]``.

    Args:
        spec: the model.
        parameters: ``embedding``, ``layer0`` ... and ``head``, as `parameters.all_shapes` names them.
        tokens: token ids.
        rope: rotary embedding; DeepSeek's base without extension by default.
    """
    rope = rope or Rope()
    tables = rope_tables(spec, rope, np.arange(tokens.shape[1]))
    x = embedding(parameters["embedding"], tokens)
    for index in range(spec.layers):
        with scope(f"layer{index}"):
            x = layer(spec, parameters[f"layer{index}"], x, tables, rope.softmax_factor())
    return logits(spec, {**parameters["embedding"], **parameters["head"]}, x)
