"""Parameters of a model: names and shapes, from which arrays, counts and costs are all made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ffsim.model.arrays import Array, Dims, Shape
from ffsim.model.spec import CnnSpec, Gqa, Mla, ModelSpec

VOCABULARY_MULTIPLE = 128  # of words on each rank that holds a part of the vocabulary, as Megatron pads it
Shapes = dict[str, Dims]
Arrays = dict[str, Array]
Parameters = dict[str, Arrays]  # of a whole model, by part


def embedding_shapes(spec: ModelSpec) -> Shapes:
    """Token table and, for GPT, the learned positions."""
    shapes: Shapes = {"embed": (spec.vocab, spec.hidden)}
    if spec.learned_positions:
        shapes["positions"] = (spec.learned_positions, spec.hidden)
    return shapes


def head_shapes(spec: ModelSpec) -> Shapes:
    """Final norm and output head; a tied head has no matrix of its own."""
    shapes = _norm(spec, "norm")
    if not spec.tied:
        shapes["head"] = (spec.vocab, spec.hidden)
    return shapes


def mtp_shapes(spec: ModelSpec) -> Shapes:
    """What a multi-token-prediction module has besides its transformer layer; embedding and head are shared."""
    return {
        **_norm(spec, "mtp_norm_hidden"),
        **_norm(spec, "mtp_norm_embed"),
        "mtp_proj": (spec.hidden, 2 * spec.hidden),
        **_norm(spec, "mtp_norm"),
    }


def rank_spec(spec: ModelSpec, tensor_parallel: int) -> ModelSpec:
    """The model as one rank of a tensor group sees it: its heads, its part of inner widths and of the vocabulary.

    Key/value heads fewer than ranks are held by several ranks each, as are the compressions and the indexer of latent
    attention. The vocabulary is padded to a multiple of 128 words on every rank; padded words are words like others.
    """
    if tensor_parallel == 1:
        return spec
    a, multiple = spec.attention, VOCABULARY_MULTIPLE * tensor_parallel
    heads = a.heads // tensor_parallel
    if isinstance(a, Gqa):
        part: Gqa | Mla = replace(a, heads=heads, kv_heads=max(a.kv_heads // tensor_parallel, 1))
    else:
        part = replace(a, heads=heads)
    return replace(
        spec,
        attention=part,
        feed_forward=spec.feed_forward // tensor_parallel,
        vocab=-(-spec.vocab // multiple) * VOCABULARY_MULTIPLE,
    )


def layer_shapes(
    spec: ModelSpec, layer: int, *, expert_parallel: int = 1, tensor_parallel: int = 1, expert_tensor_parallel: int = 1
) -> Shapes:
    """Parameters of one layer as one rank holds them.

    Args:
        spec: the model.
        layer: 0-based; MTP modules count on from ``spec.layers``.
        expert_parallel: ranks the routed experts are spread over.
        tensor_parallel: ranks that divide heads and inner widths, those of shared experts included; norms and gate are
            whole on each of them.
        expert_tensor_parallel: ranks that divide the width of each routed expert.
    """
    spec = rank_spec(spec, tensor_parallel)
    shapes = {**_norm(spec, "attn_norm"), **_attention(spec), **_norm(spec, "ffn_norm")}
    if not spec.is_moe(layer):
        return {**shapes, **_feed_forward(spec, "", spec.feed_forward)}
    moe = spec.moe
    assert moe is not None
    shapes["gate"] = (moe.routed, spec.hidden)
    if moe.bias:
        shapes["gate_bias"] = (moe.routed,)
    local, width = moe.routed // expert_parallel, moe.width // expert_tensor_parallel
    shapes["experts_up"] = (local, 2 * width, spec.hidden)
    shapes["experts_down"] = (local, spec.hidden, width)
    if moe.shared:
        shapes |= _feed_forward(spec, "shared_", moe.shared * moe.width // tensor_parallel)
    return shapes


def _norm(spec: ModelSpec, name: str) -> Shapes:
    shapes: Shapes = {name: (spec.hidden,)}
    if spec.norm == "layernorm":
        shapes[name + "_bias"] = (spec.hidden,)
    return shapes


def _linear(spec: ModelSpec, name: str, out: int, into: int, *, bias: bool = False) -> Shapes:
    shapes: Shapes = {name: (out, into)}
    if bias or spec.biases:
        shapes[name + "_bias"] = (out,)
    return shapes


def _feed_forward(spec: ModelSpec, prefix: str, width: int) -> Shapes:
    inner = 2 * width if spec.activation == "swiglu" else width
    return {**_linear(spec, prefix + "up", inner, spec.hidden), **_linear(spec, prefix + "down", spec.hidden, width)}


def _attention(spec: ModelSpec) -> Shapes:
    a = spec.attention
    if isinstance(a, Gqa):
        return {
            **_linear(spec, "wq", a.heads * a.head_dim, spec.hidden, bias=a.qkv_bias),
            **_linear(spec, "wk", a.kv_heads * a.head_dim, spec.hidden, bias=a.qkv_bias),
            **_linear(spec, "wv", a.kv_heads * a.head_dim, spec.hidden, bias=a.qkv_bias),
            **_linear(spec, "wo", spec.hidden, a.heads * a.head_dim),
        }
    query = a.heads * (a.qk_nope_dim + a.qk_rope_dim)
    if a.q_lora_rank is None:
        shapes: Shapes = {"wq": (query, spec.hidden)}
    else:
        shapes = {"wq_a": (a.q_lora_rank, spec.hidden), "q_norm": (a.q_lora_rank,), "wq_b": (query, a.q_lora_rank)}
    shapes |= {
        "wkv_a": (a.kv_lora_rank + a.qk_rope_dim, spec.hidden),
        "kv_norm": (a.kv_lora_rank,),
        "wkv_b": (a.heads * (a.qk_nope_dim + a.v_head_dim), a.kv_lora_rank),
        "wo": (spec.hidden, a.heads * a.v_head_dim),
    }
    return shapes | _indexer(spec, a)


def _indexer(spec: ModelSpec, a: Mla) -> Shapes:
    if a.indexer is None:
        return {}
    i = a.indexer
    return {
        "index_q": (i.heads * i.head_dim, a.q_lora_rank or spec.hidden),
        "index_k": (i.head_dim, spec.hidden),
        "index_k_norm": (i.head_dim,),
        "index_k_norm_bias": (i.head_dim,),
        "index_weights": (i.heads, spec.hidden),
    }


def all_shapes(spec: ModelSpec) -> Iterator[tuple[str, Shapes]]:
    """Every part of the main model (MTP modules not included), in order."""
    yield "embedding", embedding_shapes(spec)
    for layer in range(spec.layers):
        yield f"layer{layer}", layer_shapes(spec, layer)
    yield "head", head_shapes(spec)


def count(shapes: Shapes) -> int:
    """Number of parameters."""
    return sum(math.prod(shape) for shape in shapes.values())


def shape_arrays(shapes: Shapes) -> Arrays:
    """The parameters as shape-only arrays, for costing."""
    return {name: Shape(*shape) for name, shape in shapes.items()}


def random_arrays(shapes: Shapes, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """The parameters as small random numbers; gains start at one, biases at zero."""
    return {name: _initial(name, shape, rng) for name, shape in shapes.items()}


def _initial(name: str, shape: Dims, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if name.endswith("_bias"):
        return np.zeros(shape)
    if len(shape) == 1:
        return np.ones(shape)
    return rng.standard_normal(shape) / math.sqrt(shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCount:
    """Parameter counts of a model, MTP modules not included.

    Attributes:
        total: all of them.
        activated: those one token uses, embedding and head included.
        activated_without_embedding: the same without the input embedding, DeepSeek's convention since V2.
        mtp: what the MTP modules add.
    """

    total: int
    activated: int
    activated_without_embedding: int
    mtp: int


def count_parameters(spec: ModelSpec) -> ParameterCount:
    """Count the parameters of a model from the shapes that the forward pass uses."""
    total = sum(count(shapes) for _, shapes in all_shapes(spec))
    idle = 0
    if spec.moe is not None:
        expert = 3 * spec.moe.width * spec.hidden
        idle = (spec.layers - spec.moe.first_dense) * (spec.moe.routed - spec.moe.top_k) * expert
    table = spec.vocab * spec.hidden
    mtp = spec.mtp_layers * (count(mtp_shapes(spec)) + count(layer_shapes(spec, spec.layers)))
    activated = total - idle
    return ParameterCount(
        total=total,
        activated=activated,
        activated_without_embedding=activated - (0 if spec.tied else table),
        mtp=mtp,
    )


def kv_elements_per_token(spec: ModelSpec) -> int:
    """Elements of the key/value (or latent) cache of one token over all layers."""
    return spec.layers * spec.attention.kv_elements


def train_flop_per_token(spec: ModelSpec | CnnSpec, sequence_length: int, *, causal: bool = True) -> float:
    """Model FLOP of training on one token, by the convention of DeepSeek's papers.

    ``6 * activated parameters (without the input embedding) + 3 * attention``; causal counts half of the score matrix,
    MTP modules and recomputation are not counted. This is what MFU is defined on, not what the GPUs execute. Of an
    image three times the products of its forward pass.

    Source: arXiv 2505.09343 Table 2 and 4 (reproduces 155 GFLOP for V2 and 250 for V3 at 4,096 tokens).
    """
    if isinstance(spec, CnnSpec):
        return 3 * 2.0 * spec.multiply_adds
    pairs = sequence_length / (2 if causal else 1)
    attention = 3 * 2.0 * spec.layers * pairs * spec.attention.score_width
    return 6.0 * count_parameters(spec).activated_without_embedding + attention
