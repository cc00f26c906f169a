"""DeepSeek-V3.2's sparse attention: what it selects, what it then computes, what it costs."""

from dataclasses import replace

import numpy as np
import pytest

from ffsim.errors import ModelDomainError
from ffsim.model import attention, layers
from ffsim.model.parameters import random_arrays
from ffsim.model.pieces import Workpiece, lower_decoding, lower_piece, piece_shapes
from ffsim.model.precision import load_precision
from ffsim.model.spec import Indexer, load_model
from ffsim.model.tape import recording

V32 = load_model("deepseek-v3.2-exp")
TINY = replace(
    V32.attention,
    heads=3,
    q_lora_rank=6,
    kv_lora_rank=5,
    qk_nope_dim=4,
    qk_rope_dim=2,
    v_head_dim=3,
    indexer=Indexer(heads=3, head_dim=4, top_k=4),
)
RNG = np.random.default_rng(11)
P = random_arrays(piece_shapes(replace(V32, attention=TINY, hidden=8, moe=None, feed_forward=12), "dense"), RNG)
X = RNG.standard_normal((2, 9, 8))
TABLES = layers.Rope().tables(np.arange(9), 2)


def work(length, batch=1, precision="bf16"):
    return Workpiece(micro_batch=batch, sequence_length=length, precision=load_precision(precision), expert_parallel=64)


def row(lowered, ending, phase="F"):
    """The one kernel whose name ends so."""
    o = lowered.operators
    (index,) = [i for i, name in enumerate(o.name) if name.endswith(ending) and o.phase[i] == phase]
    columns = ("family", "groups", "m", "n", "k", "flop", "read_bytes", "write_bytes")
    return {column: getattr(o, column)[index] for column in columns}


def test_more_keys_than_there_are_is_dense_attention_exactly():
    plenty = replace(TINY, indexer=replace(TINY.indexer, top_k=9))
    dense = replace(TINY, indexer=None)
    for form in (layers.mla, layers.absorbed_mla):
        np.testing.assert_array_equal(form(plenty, P, X, TABLES), form(dense, P, X, TABLES))


def test_the_keys_of_best_score_are_chosen_as_the_formula_says():
    """score(t, s) = sum_h w_h relu(q_h . k_s) / sqrt(heads * width), position by position."""
    compressed = layers.mla_queries(TINY, P, X, TABLES)[2]
    chosen = layers.selected_keys(TINY, P, X, compressed, TABLES, None)
    q = (compressed @ P["index_q"].T).reshape(2, 9, 3, 4)
    k = X @ P["index_k"].T
    k = (k - k.mean(-1, keepdims=True)) / np.sqrt(k.var(-1, keepdims=True) + 1e-6)
    weights = X @ P["index_weights"].T
    for t in range(9):
        turned_q = [turn(q[1, t, head], t) for head in range(3)]
        scores = [
            sum(weights[1, t, h] * max(turned_q[h] @ turn(k[1, s], s), 0) for h in range(3)) / np.sqrt(12)
            for s in range(t + 1)
        ]
        best = sorted(range(t + 1), key=lambda s, scores=scores: (-scores[s], s))[:4]
        assert set(chosen[1, t][: t + 1].tolist()) == set(best)


def turn(vector, position):
    """The first pair (elements 0 and 1, halves of the rotated part) by one radian a position."""
    c, s = np.cos(position), np.sin(position)
    return np.array([vector[0] * c - vector[1] * s, vector[0] * s + vector[1] * c, *vector[2:]])


def test_attention_sees_the_chosen_keys_only():
    q, k, v = RNG.standard_normal((3, 1, 5, 1, 2))
    chosen = np.array([[[0, 1], [0, 1], [2, 0], [3, 1], [4, 0]]])
    y = attention.causal_attention(q, k, v, 0.5, chosen)
    for query, keys in enumerate([[0], [0, 1], [0, 2], [1, 3], [0, 4]]):
        weights = np.exp(0.5 * k[0, keys, 0] @ q[0, query, 0])
        np.testing.assert_allclose(y[0, query, 0], weights @ v[0, keys, 0] / weights.sum())


def test_the_indexer_gets_no_gradient_and_the_attention_does():
    with recording() as tape:
        y = layers.mla(TINY, P, X, TABLES)
    gradients = tape.backward([(y, np.ones_like(y))])
    reached = {name for name, array in P.items() if gradients.get(array) is not None}
    assert reached == {"wq_a", "q_norm", "wq_b", "wkv_a", "kv_norm", "wkv_b", "wo"}


def test_the_absorbed_form_refuses_to_be_trained():
    with recording() as tape:
        y = layers.absorbed_mla(TINY, P, X, TABLES)
    with pytest.raises(ModelDomainError, match="has no gradient"):
        tape.backward([(y, np.ones_like(y))])


def test_a_training_pass_costs_the_indexer_and_the_chosen_pairs():
    s, top_k = 8192, 2048
    chosen_pairs = top_k * (top_k + 1) / 2 + (s - top_k) * top_k
    all_pairs = s * (s + 1) / 2
    lowered = lower_piece(V32, "moe", work(s))
    assert row(lowered, "causal_attention")["flop"] == pytest.approx(2 * 128 * (192 + 128) * chosen_pairs)
    backward = row(lowered, "causal_attention", "B")
    assert backward["flop"] == pytest.approx(2 * 128 * (3 * 192 + 2 * 128) * chosen_pairs)
    assert row(lowered, "index_scores")["flop"] == pytest.approx(2 * 64 * 128 * all_pairs)
    assert row(lowered, "index_q/linear")["flop"] == 2 * s * 1536 * 64 * 128
    assert row(lowered, "index_k/linear")["flop"] == 2 * s * 7168 * 128
    assert row(lowered, "index_weights/linear")["flop"] == 2 * s * 7168 * 64
    trained = [
        name for name, phase in zip(lowered.operators.name, lowered.operators.phase, strict=True) if phase == "W"
    ]
    assert not [name for name in trained if "index" in name]


def test_sparse_training_overtakes_dense_only_where_sequences_are_long():
    dense = load_model("deepseek-v3")
    ratios = [
        lower_piece(V32, "dense", work(s)).operators.flop.sum()
        / lower_piece(dense, "dense", work(s)).operators.flop.sum()
        for s in (2048, 131072)
    ]
    assert ratios[0] > 1
    assert ratios[1] < 0.5


def test_a_decoding_step_reads_the_chosen_latents_and_all_index_keys():
    cached = 65_535
    lowered = lower_decoding(V32, "dense", work(1, batch=4, precision="fp8"), cached)
    attended = row(lowered, "latent_attention")
    assert attended["family"] == "attention_decode"
    assert (attended["groups"], attended["m"], attended["n"], attended["k"]) == (4, 128, 2048, 576 + 512)
    assert attended["flop"] == 2 * 4 * 128 * 2048 * (576 + 512)
    assert attended["read_bytes"] == 2 * 4 * (2048 * 576 + 128 * 576 + 2048)
    scored = row(lowered, "index_scores")
    assert scored["flop"] == 2 * 4 * 64 * 128 * (cached + 1)
    assert scored["read_bytes"] > 4 * 128 * cached
