"""Costs derived from the reference model against formulas written by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from ffsim.errors import ScenarioError
from ffsim.model.parameters import (
    count_parameters,
    kv_elements_per_token,
    train_flop_per_token,
)
from ffsim.model.pieces import Workpiece, lower_decoding, lower_piece
from ffsim.model.precision import load_precision
from ffsim.model.spec import SHELF, ModelSpec, load_any_model, load_model

COMPUTED = json.loads((Path(__file__).parents[1] / "golden" / "models_computed.json").read_text())
BF16, FP8 = load_precision("bf16"), load_precision("fp8")


def work(sequence_length=4096, precision=BF16, recompute=(), **more):
    return Workpiece(micro_batch=1, sequence_length=sequence_length, precision=precision, recompute=recompute, **more)


def flop(lowered, phase, *, attention=True, but=()):
    o = lowered.operators
    rows = (o.phase == phase) & ~np.isin(o.family, but)
    return o.flop[rows].sum()


@pytest.mark.parametrize("name", SHELF.names())
def test_counts_equal_the_independent_ones(name):
    model, expected = load_any_model(name), COMPUTED[name]
    if not isinstance(model, ModelSpec):
        assert model.parameters == expected["total"]
        return
    counts = count_parameters(model)
    assert counts.total == expected["total"]
    assert counts.activated == expected["activated_incl_embed_head"]
    assert counts.activated_without_embedding == expected["activated_excl_input_embed"]
    assert kv_elements_per_token(model) == expected["kv_cache_elements_per_token"]
    if "mtp_unique" in expected:
        assert counts.mtp == expected["mtp_unique"]
    for key, value in expected.items():
        if key.startswith("train_gflop_per_token_seq"):
            length, kind = key.removeprefix("train_gflop_per_token_seq").split("_")
            ours = train_flop_per_token(model, int(length), causal=kind == "causal") / 1e9
            assert ours == pytest.approx(value, abs=6e-4)


def test_a_dense_llama_layer_costs_what_the_formula_says():
    spec, s = load_model("llama-2-7b"), 2048
    h, ffn = 4096, 11008
    lowered = lower_piece(spec, "dense", work(s))
    products = 2 * s * (4 * h * h + 3 * h * ffn)
    scores = 2 * h * s * (s + 1) / 2 * 2
    assert flop(lowered, "F") == pytest.approx(products + scores, rel=1e-12)
    assert flop(lowered, "W") == pytest.approx(products, rel=1e-12)
    assert flop(lowered, "B") == pytest.approx(products + 2.5 * scores, rel=1e-12)


def test_a_gpt_layer_costs_what_the_formula_says():
    spec, s = load_model("gpt3-175b"), 2048
    h = 12288
    lowered = lower_piece(spec, "dense", work(s))
    products = 2 * s * 12 * h * h
    scores = 2 * h * s * (s + 1) / 2 * 2
    assert flop(lowered, "F") == pytest.approx(products + scores, rel=1e-12)
    assert flop(lowered, "W") == pytest.approx(products, rel=1e-12)


def test_a_deepseek_v3_layer_costs_what_the_formula_says():
    spec, s = load_model("deepseek-v3"), 4096
    h, heads = 7168, 128
    attention = h * 1536 + 1536 * heads * 192 + h * 576 + 512 * heads * 256 + heads * 128 * h
    experts = (8 + 1) * 3 * h * 2048 + h * 256
    products = 2 * s * (attention + experts)
    scores = 2 * heads * (192 + 128) * s * (s + 1) / 2
    lowered = lower_piece(spec, "moe", work(s, FP8, expert_parallel=64))
    assert flop(lowered, "F") == pytest.approx(products + scores, rel=1e-12)
    assert flop(lowered, "W") == pytest.approx(products, rel=1e-12)
    assert lowered.has_experts


def test_the_whole_of_v3_reaches_its_published_flop_per_token():
    spec, s = load_model("deepseek-v3"), 4096
    kinds = {"dense": 3, "moe": 58, "head": 1}
    forward = sum(n * flop(lower_piece(spec, kind, work(s, FP8, expert_parallel=64)), "F") for kind, n in kinds.items())
    assert 3 * forward / s == pytest.approx(train_flop_per_token(spec, s), rel=1e-3)
    assert 3 * forward / s == pytest.approx(250e9, rel=0.01)


def test_recomputation_trades_memory_for_kernels():
    spec = load_model("deepseek-v3")
    kept = lower_piece(spec, "moe", work(precision=FP8, expert_parallel=64))
    again = lower_piece(spec, "moe", work(precision=FP8, expert_parallel=64, recompute=("norm", "mla_up", "swiglu")))
    assert again.saved_bytes < 0.6 * kept.saved_bytes
    replayed = [name for name in again.operators.name if "(recomputed)" in name]
    assert {"attention/wq_b/linear (recomputed)", "feed_forward/experts/weighted_swiglu (recomputed)"} <= set(replayed)
    assert flop(again, "B") > flop(kept, "B")
    assert flop(again, "W") == flop(kept, "W")


def test_what_a_layer_keeps_is_what_its_gradients_ask_for():
    """Tokens x width x bytes of every tensor kept, by hand, for V3's recipe."""
    t, h, rows = 4096, 7168, 4096 * 8
    by_hand = (
        2 * t * h  # the layer's input
        + 2 * t * h  # the stream between attention and experts
        + 1.5 * t * 128 * 128  # attention's output in E5M6
        + t * (rows // t) * h  # dispatched rows, FP8
        + rows * 4096  # SwiGLU's input, FP8
        + t * 4096  # the shared expert's
        + 2 * t * 1536  # compressed query before its norm
        + 2 * t * 512  # latent before its norm ...
    )
    lowered = lower_piece(
        load_model("deepseek-v3"),
        "moe",
        work(precision=FP8, expert_parallel=64, recompute=("norm", "mla_up", "swiglu")),
    )
    assert lowered.saved_bytes == pytest.approx(by_hand, rel=0.006)  # gate, indices and log-sums are the rest


def test_fp8_adds_casts_and_bf16_does_not():
    spec = load_model("deepseek-v3")
    casts = [n for n in lower_piece(spec, "moe", work(precision=FP8, expert_parallel=64)).operators.name if "cast" in n]
    assert len(casts) > 15
    plain = lower_piece(spec, "moe", work(expert_parallel=64)).operators
    assert not [name for name in plain.name if "cast" in name or "transpose" in name]
    assert set(plain.dtype.tolist()) == {"bf16"}


def test_gate_and_head_stay_in_bf16():
    spec = load_model("deepseek-v3")
    moe = lower_piece(spec, "moe", work(precision=FP8, expert_parallel=64)).operators
    gates = [dtype for name, dtype in zip(moe.name, moe.dtype, strict=True) if "gate/linear" in name]
    assert set(gates) == {"bf16"}
    head = lower_piece(spec, "head", work(precision=FP8)).operators
    assert set(head.dtype.tolist()) == {"bf16"}


def test_a_loaded_rank_has_more_expert_work_and_the_same_attention():
    spec = load_model("deepseek-v3")
    even = lower_piece(spec, "moe", work(precision=FP8, expert_parallel=64)).operators
    busy = lower_piece(spec, "moe", work(precision=FP8, expert_parallel=64, expert_load=1.25)).operators
    grouped = even.family == "grouped_gemm"
    np.testing.assert_allclose(busy.flop[grouped], 1.25 * even.flop[grouped])
    np.testing.assert_array_equal(busy.flop[~grouped], even.flop[~grouped])


def test_the_weights_of_a_loaded_rank_do_not_grow_with_its_rows():
    """4 experts of 2 x 7168 x 2048 elements here, 8,192 rows each on average, 10,240 where the load is 1.25."""
    spec, load = load_model("deepseek-v3"), 1.25
    o = lower_piece(spec, "moe", work(precision=FP8, expert_parallel=64, expert_load=load)).operators
    up = [i for i, name in enumerate(o.name) if name.endswith("experts/grouped_linear") and o.n[i] == 4096]
    forward = next(i for i in up if o.phase[i] == "F")
    assert (o.groups[forward], o.m[forward]) == (4, 10_240)
    assert o.read_bytes[forward] == 4 * (10_240 * 7168 + 4096 * 7168)
    assert o.write_bytes[forward] == 4 * 10_240 * 4096 * 2
    weight = o.family == "grouped_gemm"
    weight &= o.phase == "W"
    assert set(o.write_bytes[weight]) == {4 * 4096 * 7168 * 4, 4 * 7168 * 2048 * 4}
    transposed = [o.read_bytes[i] for i, name in enumerate(o.name) if name.endswith("linear/transpose weight")]
    assert {4 * 4096 * 7168, 4 * 7168 * 2048} <= set(transposed)


def test_parameters_and_rotation_tables_are_not_activations():
    """A dense Llama layer keeps what products and norms read, in BF16: nothing of one row only."""
    s, h, ffn = 128, 4096, 11008
    tensors = 2 * s * h  # the inputs of both norms
    tensors += 2 * s * h  # and their outputs, inputs of wq, wk, wv and up
    tensors += 4 * s * h  # q and k after rotation, v, attention's output (also wo's input)
    tensors += s * 2 * ffn + s * ffn  # SwiGLU's input and output
    assert lower_piece(load_model("llama-2-7b"), "dense", work(s)).saved_bytes == 2 * tensors


def test_a_decoding_step_of_v3_is_multi_query_attention_over_latents():
    """128 sequences of 4,095 cached tokens, one new token each, by hand."""
    spec, batch, t, heads = load_model("deepseek-v3"), 128, 4096, 128
    one = Workpiece(micro_batch=batch, sequence_length=1, precision=BF16, expert_parallel=64)
    o = lower_decoding(spec, "dense", one, t - 1).operators
    assert set(o.phase) == {"F"}
    (at,) = np.flatnonzero(o.family == "attention_decode")
    assert (o.groups[at], o.m[at], o.n[at], o.k[at]) == (batch, heads, t, 576 + 512)
    assert o.flop[at] == 2 * batch * heads * t * (576 + 512)
    assert o.read_bytes[at] == 2 * batch * (t * 576 + heads * 576)
    products = 7168 * 1536 + 1536 * heads * 192 + 7168 * 576 + heads * 128 * 7168 + 3 * 7168 * 18432
    absorbed = heads * 512 * (128 + 128)
    assert o.flop[o.family == "gemm"].sum() == 2 * batch * (products + absorbed)


def test_a_decoding_step_with_grouped_queries_reads_every_key_once():
    """Llama-2 70B: 8 query heads share a key/value head."""
    one = Workpiece(micro_batch=16, sequence_length=1, precision=BF16)
    o = lower_decoding(load_model("llama-2-70b"), "dense", one, 1023).operators
    (at,) = np.flatnonzero(o.family == "attention_decode")
    assert (o.groups[at], o.m[at], o.n[at], o.k[at]) == (16 * 8, 8, 1024, 256)
    assert o.read_bytes[at] == 2 * 16 * (2 * 1024 * 8 * 128 + 64 * 128)


def test_a_long_chunk_behind_a_cache_is_no_decoding_kernel():
    chunk = Workpiece(micro_batch=1, sequence_length=512, precision=BF16)
    o = lower_decoding(load_model("llama-2-7b"), "dense", chunk, 512).operators
    (at,) = np.flatnonzero(o.family == "attention_forward")
    assert o.flop[at] == 2 * 2 * 4096 * (512 * 512 + 512 * 513 / 2)


def test_a_cnn_is_no_transformer():
    with pytest.raises(ScenarioError, match="vgg16: is a cnn, not a transformer"):
        load_model("vgg16")
