"""The reference model, top to bottom: read it in one sitting.

``p`` is a dict of parameter arrays named as in `ffsim.model.parameters`; ``x`` is ``[batch, sequence, hidden]``. Every
function works on real arrays (numbers) and on `Shape` arrays (costs) alike. Where several ranks share a layer
(`ffsim.model.execution`), ``p``, ``x`` and the heads of the attention are one rank's; exchanges are operators too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ffsim.errors import ModelDomainError, Problem
from ffsim.model import attention, vocabulary
from ffsim.model import functions as f
from ffsim.model.arrays import Array
from ffsim.model.cache import Cache, remembered
from ffsim.model.dropout import dropout, residual_sum
from ffsim.model.exchanges import (
    all_reduce,
    all_to_all,
    circulate,
    entered,
    gathered,
    maximum,
    summed,
)
from ffsim.model.execution import execution, held_positions
from ffsim.model.feed_forward import feed_forward, mixture
from ffsim.model.maps import finished, normed, projected, projected_together
from ffsim.model.parameters import Arrays, Parameters
from ffsim.model.spec import Gqa, Mla, ModelSpec, Moe
from ffsim.model.tape import scope

Tables = tuple[Array, Array]
INDEX_EPS = 1e-6
QKV = ("wq", "wk", "wv")
CORE = "core"  # scope of unfused attention proper


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary position embedding, stretched by YaRN if ``factor`` > 1.

    Attributes:
        base: wavelength base.
        factor: context extension factor.
        original_length: context the model was trained on before the extension.
        beta_fast, beta_slow: rotations over the original context between which YaRN blends.
        mscale: how strongly YaRN sharpens the softmax.
    """

    base: float = 10_000.0
    factor: float = 1.0
    original_length: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0

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

    def softmax_factor(self) -> float:
        """YaRN's correction of the softmax scale."""
        return (0.1 * self.mscale * math.log(self.factor) + 1.0) ** 2 if self.factor > 1 else 1.0


def attended(q: Array, k: Array, v: Array, scale: float, chosen: Array | None = None) -> Any:
    """Attention over the past, on whichever kernels and over however many ranks of a context group.

    Args:
        q: ``[B, S, H, D]`` of the tokens of this rank.
        k: ``[B, S, H_kv, D]`` likewise.
        v: ``[B, S, H_kv, D_v]`` likewise.
        scale: factor on the scores.
        chosen: keys that each query may see; None for the whole past.

    Returns:
        ``[B, S, H, D_v]`` of the same tokens.
    """
    e = execution()
    if e.rings:
        k, v = circulate(k, v, "context")
        return attention.causal_attention(q, k, v, scale, chosen, (e.at("context"), e.context))
    if e.context == 1:
        return core_attention(q, k, v, scale, chosen)
    q, k, v = (all_to_all(part, 2, 1, "context") for part in (q, k, v))
    return all_to_all(core_attention(q, k, v, scale, chosen), 1, 2, "context")


def core_attention(q: Array, k: Array, v: Array, scale: float, chosen: Array | None) -> Any:
    """Attention on one rank: one kernel, or products with the scores in memory between them."""
    e = execution()
    if e.attention == "flash":
        return attention.causal_attention(q, k, v, scale, chosen)
    with scope(CORE):
        shares = attention.causal_softmax(attention.score_products(q, k), scale)
        if e.dropout:
            shares = dropout(shares, e.mask(shares), e.dropout)
        return attention.weigh_values(shares, v)


def gqa(a: Gqa, p: Arrays, x: Array, tables: Tables | None, cache: Cache | None = None) -> Any:
    """Grouped-query attention; without tables the positions were learned and added to the input."""
    x = entered(x)
    batch, length, _ = x.shape
    q, k, v = projected_together(p, QKV, x) if execution().fused_linears else (projected(p, name, x) for name in QKV)
    q = f.reshape(q, (batch, length, a.heads, a.head_dim))
    k, v = (f.reshape(each, (batch, length, a.kv_heads, a.head_dim)) for each in (k, v))
    if tables is not None:
        with scope("rope"):
            q, k = attention.rotate(q, *tables), attention.rotate(k, *tables)
    k, v = remembered(cache, "k", k), remembered(cache, "v", v)
    y = attended(q, k, v, a.head_dim**-0.5)
    return finished(p, "wo", f.reshape(y, (batch, length, a.heads * a.head_dim)))


def mla_queries(a: Mla, p: Arrays, x: Array, tables: Tables) -> tuple[Any, Any, Any]:
    """Queries of latent attention, unrotated and rotated part ``[B, S, H, ...]``, and what they were made from.

    A tensor group holds the compression whole on every rank and enters with what comes out of it, which is narrower.
    """
    compressed = entered(x if a.q_lora_rank is None else normed(p, "q_norm", projected(p, "wq_a", x)))
    q = projected(p, "wq" if a.q_lora_rank is None else "wq_b", compressed)
    q = f.reshape(q, (*q.shape[:2], a.heads, a.qk_nope_dim + a.qk_rope_dim))
    q_nope, q_rope = f.split(q, a.qk_nope_dim)
    with scope("rope"):
        return q_nope, attention.rotate(q_rope, *tables), compressed


def mla_latents(a: Mla, p: Arrays, x: Array, tables: Tables) -> tuple[Any, Any]:
    """What latent attention knows of a token: normalised latent ``[B, S, C]``, rotated shared key ``[B, S, R]``."""
    latent, key = f.split(projected(p, "wkv_a", x), a.kv_lora_rank)
    latent, key = entered(normed(p, "kv_norm", latent)), entered(key)
    tokens = key.shape[:2]
    with scope("rope"):
        key = attention.rotate(f.reshape(key, (*tokens, 1, a.qk_rope_dim)), *tables)
    return latent, f.reshape(key, (*tokens, a.qk_rope_dim))


def mla(a: Mla, p: Arrays, x: Array, tables: Tables, softmax_factor: float = 1.0, cache: Cache | None = None) -> Any:
    """Multi-head latent attention in its expanded form, as training and prefill run it.

    Source: arXiv 2405.04434 s2.1; deepseek-ai/DeepSeek-V3 inference/model.py.
    """
    q_nope, q_rope, compressed = mla_queries(a, p, x, tables)
    latent, key = mla_latents(a, p, x, tables)
    batch, length, _ = latent.shape
    chosen = selected_keys(a, p, x, compressed, tables, cache)
    kv = f.reshape(projected(p, "wkv_b", latent), (batch, length, a.heads, a.qk_nope_dim + a.v_head_dim))
    k_nope, v = f.split(kv, a.qk_nope_dim)
    with scope("rope"):
        q = f.join(q_nope, q_rope)
        k = attention.join_shared_key(k_nope, f.reshape(key, (batch, length, 1, a.qk_rope_dim)))
    k, v = remembered(cache, "k", k), remembered(cache, "v", v)
    y = attended(q, k, v, mla_scale(a, softmax_factor), chosen)
    return finished(p, "wo", f.reshape(y, (batch, length, a.heads * a.v_head_dim)))


def absorbed_mla(
    a: Mla, p: Arrays, x: Array, tables: Tables, softmax_factor: float = 1.0, cache: Cache | None = None
) -> Any:
    """Latent attention in its absorbed form, as decoding runs it: the same numbers without expanding the past.

    ``q . (W_k c) = (W_k^T q) . c``: the up-projection of the keys moves to the queries and that of the values behind
    the attention, which becomes multi-query attention over the cached latents. It costs more products and far fewer
    bytes.
    """
    batch, length, _ = x.shape
    up = p["wkv_b"].reshape(a.heads, a.qk_nope_dim + a.v_head_dim, a.kv_lora_rank)
    up_k, up_v = up[:, : a.qk_nope_dim], up[:, a.qk_nope_dim :]
    q_nope, q_rope, compressed = mla_queries(a, p, x, tables)
    latent, key = mla_latents(a, p, x, tables)
    chosen = selected_keys(a, p, x, compressed, tables, cache)
    latent, key = remembered(cache, "latent", latent), remembered(cache, "rope_key", key)
    with scope("absorbed"):
        q = f.join(attention.per_head_linear(q_nope, np.swapaxes(up_k, 1, 2)), q_rope)
    y = attention.latent_attention(q, latent, key, mla_scale(a, softmax_factor), chosen)
    with scope("absorbed"):
        y = attention.per_head_linear(y, up_v)
    return projected(p, "wo", f.reshape(y, (batch, length, a.heads * a.v_head_dim)))


def mla_scale(a: Mla, softmax_factor: float) -> float:
    """Factor on the scores of latent attention."""
    return float((a.qk_nope_dim + a.qk_rope_dim) ** -0.5 * softmax_factor)


def selected_keys(a: Mla, p: Arrays, x: Array, compressed: Array, tables: Tables, cache: Cache | None) -> Any:
    """V3.2's lightning indexer: the keys each query may see, ``[B, S, min(top_k, T)]``; None for dense attention.

    The selection has no gradient, and the indexer's own training (a KL loss towards the attention it replaces) is not
    part of this model: its parameters get no gradients. The published code also turns queries and keys by a Hadamard
    matrix before it quantises them, which leaves their products as they are.

    Args:
        a: the attention.
        p: ``index_q``, ``index_k``, ``index_k_norm``, ``index_k_norm_bias``, ``index_weights``.
        x: ``[B, S, hidden]``; with sequence parallelism this rank's tokens of it. Every rank holds the whole indexer.
        compressed: ``[B, S, q_lora_rank]``, what the queries are made from.
        tables: rotation of the new tokens.
        cache: holds the index keys of the past.

    Source: deepseek-ai/DeepSeek-V3.2-Exp inference/model.py class Indexer (rotation of halves since 2025-11-17).
    """
    if a.indexer is None:
        return None
    batch, length, _ = compressed.shape
    heads, width = a.indexer.heads, a.indexer.head_dim
    with scope("indexer"):
        q = f.reshape(projected(p, "index_q", compressed), (batch, length, heads, width))
        k = f.layer_norm(projected(p, "index_k", x), p["index_k_norm"], p["index_k_norm_bias"], INDEX_EPS)
        k = f.reshape(gathered(k), (batch, length, 1, width))
        q, k = attention.rotate_halves(q, *tables), attention.rotate_halves(k, *tables)
        k = remembered(cache, "index_key", f.reshape(k, (batch, length, width)))
        weights = gathered(projected(p, "index_weights", x))
        scores = attention.index_scores(q, k, weights, (heads * width) ** -0.5)
        return attention.choose_keys(scores, a.indexer.top_k)


def attend(
    spec: ModelSpec, p: Arrays, x: Array, tables: Tables | None, softmax_factor: float = 1.0, cache: Cache | None = None
) -> Any:
    """The attention of a model; a cache of latents asks for the absorbed form."""
    a = spec.attention
    if isinstance(a, Gqa):
        return gqa(a, p, x, tables, cache)
    assert tables is not None
    form = absorbed_mla if cache is not None and cache.kind == "latent" else mla
    return form(a, p, x, tables, softmax_factor, cache)


def layer(
    spec: ModelSpec, p: Arrays, x: Array, tables: Tables | None, softmax_factor: float = 1.0, cache: Cache | None = None
) -> Any:
    """One pre-norm transformer layer; it has experts if its parameters have a gate."""
    with scope("attention"):
        x = residual_sum(x, attend(spec, p, normed(p, "attn_norm", x), tables, softmax_factor, cache))
    with scope("feed_forward"):
        h = normed(p, "ffn_norm", x)
        h = mixture(cast("Moe", spec.moe), p, h) if "gate" in p else feed_forward(p, h)
        return residual_sum(x, h)


def embedding(p: Arrays, tokens: Array, start: int = 0) -> Any:
    """Token table and, for GPT, learned positions: ``[batch, sequence] -> [batch, sequence, hidden]``.

    Args:
        p: ``embed``, a part of it on each rank of a tensor group, and ``positions``.
        tokens: of this rank; sequence parallelism divides what comes out, not the tokens.
        start: position of the first token.
    """
    e = execution()
    with scope("embedding"):
        if e.tensor == 1:
            x = f.embed(tokens, p["embed"])
        else:
            x = summed(vocabulary.embed_part(tokens, p["embed"], e.at("tensor") * p["embed"].shape[0]))
        if "positions" in p:
            x = f.add_bias(x, learned_positions(p["positions"], start, tokens.shape[1]))
        return dropout(x, e.mask(x), e.dropout) if e.dropout else x


def learned_positions(table: Array, start: int, length: int) -> Any:
    """Rows of the table for the tokens of this rank, of which a context group holds so many on each."""
    e = execution()
    stop, known = start + length * e.context, table.shape[0]
    if stop > known:
        raise ModelDomainError(Problem(what=f"{stop} positions, {known} were learned", fix="shorten the sequence"))
    if e.context * e.token_shards == 1:
        return f.crop(table, start, stop, axis=0)
    return f.pick(table, start + held_positions(stop - start, between_blocks=True))


def logits(spec: ModelSpec, p: Arrays, x: Array, norm: str = "norm") -> Any:
    """Final norm and output head: ``[..., hidden] -> [..., vocab]``, or this rank's part of the vocabulary."""
    with scope("head"):
        return f.linear(entered(normed(p, norm, x)), p["embed"] if spec.tied else p["head"])


def cross_entropy(x: Array, targets: Array) -> Any:
    """Mean loss of logits ``[B, S, vocab]``; a tensor group agrees on maxima and sums, each rank having its words.

    Megatron sends the two sums one after the other; here they share a message.
    """
    e = execution()
    if e.tensor == 1:
        return f.cross_entropy(x, targets)
    first = e.at("tensor") * x.shape[-1]
    with scope("cross_entropy"):
        largest = maximum(vocabulary.row_maximum(x), "tensor")
        sums = vocabulary.partial_softmax(x, largest, targets, first)
        return vocabulary.summed_cross_entropy(all_reduce(sums, "tensor", fp32=True))


def mtp_input(p: Arrays, x: Array, next_embedded: Array) -> Any:
    """What an MTP module feeds its layer: hidden state and embedding of the next token, each normed, projected.

    Source: arXiv 2412.19437 s2.2.
    """
    with scope("mtp"):
        both = f.join(normed(p, "mtp_norm_hidden", x), normed(p, "mtp_norm_embed", next_embedded))
        return projected(p, "mtp_proj", both)


def rope_tables(spec: ModelSpec, rope: Rope, positions: Array) -> Tables | None:
    """Rotation tables of a model's attention, none if its positions are learned."""
    if spec.learned_positions:
        return None
    a = spec.attention
    return rope.tables(positions, a.head_dim if isinstance(a, Gqa) else a.qk_rope_dim)


def hidden_states(
    spec: ModelSpec, parameters: Parameters, tokens: Array, rope: Rope, caches: Sequence[Cache] = ()
) -> Any:
    """All layers of the main model: tokens ``[batch, sequence]`` to ``[batch, sequence, hidden]``."""
    start = caches[0].length if caches else 0
    tables = rope_tables(spec, rope, np.arange(start, start + tokens.shape[1], like=tokens))
    x = embedding(parameters["embedding"], tokens, start)
    for index in range(spec.layers):
        with scope(f"layer{index}"):
            cache = caches[index] if caches else None
            x = layer(spec, parameters[f"layer{index}"], x, tables, rope.softmax_factor(), cache)
    return x


def forward(
    spec: ModelSpec,
    parameters: Parameters,
    tokens: Array,
    rope: Rope | None = None,
    caches: Sequence[Cache] = (),
) -> Any:
    """The whole model: tokens ``[batch, sequence]`` to logits ``[batch, sequence, vocab]``.

    Args:
        spec: the model.
        parameters: ``embedding``, ``layer0`` ... and ``head``, as `parameters.all_shapes` names them.
        tokens: token ids; with caches those that follow the cached ones.
        rope: rotary embedding; DeepSeek's base without extension by default.
        caches: one per layer, empty before the prefill; the tokens are added to them.
    """
    x = hidden_states(spec, parameters, tokens, rope or Rope(), caches)
    return logits(spec, {**parameters["embedding"], **parameters["head"]}, x)


def losses(spec: ModelSpec, parameters: Parameters, tokens: Array, rope: Rope | None = None) -> tuple[Any, ...]:
    """Mean cross entropy of the next token and, from each MTP module, of one token further on.

    Module k reads the hidden state of position i and the embedding of token i + k, and predicts token i + k + 1 through
    the main model's output head. Training minimises the first loss plus lambda / modules times the others.

    Args:
        spec: the model.
        parameters: as for `forward`, and ``mtp0`` ... (`pieces.piece_shapes` of kind ``mtp``).
        tokens: ``[batch, sequence]``, longer than the number of modules plus one.
        rope: rotary embedding.

    Returns:
        ``1 + spec.mtp_layers`` numbers.

    Source: arXiv 2412.19437 s2.2, equations 21 to 25.
    """
    rope, length = rope or Rope(), tokens.shape[1]
    shared = {**parameters["embedding"], **parameters["head"]}
    x = hidden_states(spec, parameters, tokens, rope)
    found = [next_token_loss(spec, shared, x, tokens[:, 1:])]
    for module in range(spec.mtp_layers):
        p, further = {**shared, **parameters[f"mtp{module}"]}, tokens[:, module + 1 :]
        tables = rope_tables(spec, rope, np.arange(0, length - module - 1, like=tokens))
        with scope(f"mtp{module}"):
            x = mtp_input(p, f.crop(x, 0, length - module - 1, axis=1), embedding(parameters["embedding"], further))
            x = layer(spec, p, x, tables, rope.softmax_factor())
            found.append(next_token_loss(spec, p, x, further[:, 1:], "mtp_norm"))
    return tuple(found)


def next_token_loss(spec: ModelSpec, p: Arrays, x: Array, targets: Array, norm: str = "norm") -> Any:
    """Mean cross entropy of the targets ``[batch, n]``, each given the hidden state of the position before it."""
    return cross_entropy(logits(spec, p, f.crop(x, 0, targets.shape[1], axis=1), norm), targets)
