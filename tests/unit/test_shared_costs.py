"""What one rank of several computes, sends and keeps, against formulas written by hand."""

from dataclasses import replace

import numpy as np
import pytest

from ffsim.errors import ModelDomainError
from ffsim.model.lowering import Cut, Exchange
from ffsim.model.parameters import count
from ffsim.model.pieces import Workpiece, lower_decoding, lower_piece, piece_shapes
from ffsim.model.precision import load_precision
from ffsim.model.spec import load_any_model, load_model
from ffsim.model.split import check_split

BF16, FP8 = load_precision("bf16"), load_precision("fp8")
MEGATRON, LLAMA, V3 = load_model("megatron-22b"), load_model("llama-3.1-8b"), load_model("deepseek-v3")
S, B, H, HEADS = 2048, 4, 6144, 64  # Megatron 22B as arXiv 2205.05198 trains it


def work(sequence_length=S, micro_batch=B, precision=BF16, **more):
    return Workpiece(micro_batch=micro_batch, sequence_length=sequence_length, precision=precision, **more)


def gpt(**more):
    return lower_piece(MEGATRON, "dense", work(attention="unfused", dropout=True, **more))


def flop(lowered, phases="FRBW"):
    o = lowered.operators
    return o.flop[np.isin(o.phase, list(phases))].sum()


# --- what is kept: arXiv 2205.05198 Table 2 ---------------------------------------------------------------------------

SBH, SCORES = S * B * H, 5 * HEADS * S * S * B


@pytest.mark.parametrize(
    ("how", "by_hand"),
    [
        ({}, 34 * SBH + SCORES),
        ({"tensor_parallel": 8}, (10 + 24 / 8) * SBH + SCORES / 8),
        ({"tensor_parallel": 8, "sequence_parallel": True}, (34 * SBH + SCORES) / 8),
        ({"recompute": ("attention",)}, 34 * SBH),
        ({"tensor_parallel": 8, "recompute": ("attention",)}, (10 + 24 / 8) * SBH),
        ({"tensor_parallel": 8, "sequence_parallel": True, "recompute": ("attention",)}, 34 / 8 * SBH),
        ({"recompute": ("layer",)}, 2 * SBH),
        ({"tensor_parallel": 8, "recompute": ("layer",)}, 2 * SBH),
        ({"tensor_parallel": 8, "sequence_parallel": True, "recompute": ("layer",)}, 2 / 8 * SBH),
    ],
    ids=str,
)
def test_a_gpt_layer_keeps_what_korthikanti_counts(how, by_hand):
    assert gpt(**how).saved_bytes == by_hand


def test_a_replayed_layer_keeps_for_a_while_what_it_would_have_kept_all_along():
    again = gpt(tensor_parallel=8, sequence_parallel=True, recompute=("layer", "attention"))
    assert again.replayed_bytes == SBH * 34 / 8
    assert gpt().replayed_bytes == 0


def test_embedding_and_head_are_not_replayed():
    for kind in ("embedding", "head"):
        kept, again = (
            lower_piece(MEGATRON, kind, work(tensor_parallel=8, dropout=True, recompute=recompute))
            for recompute in ((), ("layer",))
        )
        assert again.saved_bytes == kept.saved_bytes
        assert "R" not in again.operators.phase


def test_weight_gradients_that_are_put_off_hold_inputs_and_output_gradients():
    """Per token of a GPT layer: inputs of qkv, wo, up, down h + h + h + 4h, output gradients 3h + h + 4h + h."""
    lowered = lower_piece(MEGATRON, "dense", work())
    assert lowered.weight_bytes == 2 * S * B * H * (7 + 9)


# --- what is computed -------------------------------------------------------------------------------------------------


def test_ranks_of_a_tensor_group_compute_a_gpt_layer_together():
    whole, rank = lower_piece(MEGATRON, "dense", work()), lower_piece(MEGATRON, "dense", work(tensor_parallel=8))
    for phase in "FBW":
        assert 8 * flop(rank, phase) == flop(whole, phase)


def test_ranks_of_a_ring_and_of_an_exchange_of_heads_compute_a_layer_together():
    whole = lower_piece(LLAMA, "dense", work(8192, 1))
    for how in ("ring", "all-to-all"):
        rank = lower_piece(LLAMA, "dense", work(8192, 1, context_parallel=8, context_exchange=how))
        for phase in "FBW":
            assert 8 * flop(rank, phase) == flop(whole, phase)


def test_latent_attention_repeats_nothing_under_sequence_parallelism_and_its_compressions_without():
    s, h, dense = 4096, 7168, replace(V3, moe=None)
    whole = lower_piece(dense, "dense", work(s, 1))
    sharded = lower_piece(dense, "dense", work(s, 1, tensor_parallel=4, sequence_parallel=True))
    assert 4 * flop(sharded) == flop(whole)
    repeated = lower_piece(dense, "dense", work(s, 1, tensor_parallel=4))
    assert 4 * flop(repeated) - flop(whole) == 3 * 3 * 2 * s * h * (1536 + 512 + 64)


def test_experts_are_divided_and_their_rows_put_together():
    """Half the width on twice the rows is as much work; the gate is on this rank's tokens only."""
    one = lower_piece(V3, "moe", work(4096, 1, expert_parallel=64))
    two = lower_piece(V3, "moe", work(4096, 1, expert_parallel=64, expert_tensor_parallel=2))
    assert flop(two) == flop(one)
    four = {"tensor_parallel": 4, "sequence_parallel": True, "expert_parallel": 64}
    assert 4 * flop(lower_piece(V3, "moe", work(4096, 1, **four))) == flop(one)


def test_unfused_attention_multiplies_every_score_and_reads_and_writes_them_all():
    o = gpt(tensor_parallel=8).operators
    core = {name.split("/")[-1]: i for i, name in enumerate(o.name) if "/core/" in name and o.phase[i] == "F"}
    scores, values = core["score_products"], core["weigh_values"]
    assert (o.batch[scores], o.groups[scores], o.m[scores], o.n[scores], o.k[scores]) == (B * 8, 1, S, S, 96)
    assert (o.batch[values], o.m[values], o.n[values], o.k[values]) == (B * 8, S, 96, S)
    assert o.flop[scores] == o.flop[values] == 2 * B * 8 * S * S * 96
    assert set(o.family[[scores, values]]) == {"gemm"}
    elements = B * 8 * S * S
    softmax, dropout = core["causal_softmax"], core["dropout"]
    assert (o.read_bytes[softmax], o.write_bytes[softmax]) == (2 * elements, 2 * elements)
    assert o.read_bytes[dropout] + o.write_bytes[dropout] == 5 * elements


def test_selective_recomputation_runs_core_attention_again_and_nothing_else():
    plain, again = gpt(), gpt(recompute=("attention",))
    replayed = [name.split("/")[-1] for name in again.operators.name if "(recomputed)" in name]
    core = ("score_products", "causal_softmax", "dropout", "weigh_values")
    assert replayed == [f"{name} (recomputed)" for name in core]
    assert flop(again) - flop(plain) == 2 * 2 * B * HEADS * S * S * 96
    fused = lower_piece(MEGATRON, "dense", work(recompute=("attention",))).operators
    assert [name for name in fused.name if "(recomputed)" in name] == ["attention/causal_attention (recomputed)"]


def test_full_recomputation_runs_the_whole_forward_pass_again():
    again = gpt(tensor_parallel=8, sequence_parallel=True, recompute=("layer",)).operators
    forward, replay = again.take(again.phase == "F"), again.take(again.phase == "R")
    for column in ("segment", "family", "batch", "m", "n", "k", "flop", "read_bytes", "write_bytes"):
        np.testing.assert_array_equal(getattr(forward, column), getattr(replay, column))


def test_fused_linear_maps_multiply_once_and_add_biases_in_passing():
    separate, fused = gpt(tensor_parallel=8), gpt(tensor_parallel=8, fused_linears=True)
    assert not [name for name in fused.operators.take(fused.operators.phase == "F").name if name.endswith("add_bias")]
    (at,) = (i for i, name in enumerate(fused.operators.name) if name == "attention/wq+wk+wv/linear" and i < 9)
    assert (fused.operators.m[at], fused.operators.n[at], fused.operators.k[at]) == (S * B, 3 * H // 8, H)
    assert not [name for name in fused.operators.name if "wk/linear/accumulate" in name]
    assert fused.operators.flop.sum() == separate.operators.flop.sum()
    assert (fused.saved_bytes, fused.cuts) == (separate.saved_bytes, separate.cuts)


# --- what is sent -----------------------------------------------------------------------------------------------------

FULL = 2.0 * SBH


def tensor(operation, **more):
    return Exchange(operation, "tensor", FULL, **more)


def test_a_layer_without_sequence_parallelism_sums_twice_each_way():
    assert gpt(tensor_parallel=8).cuts == (
        Cut(backward=(tensor("all-reduce"),)),
        Cut(forward=(tensor("all-reduce"),)),
        Cut(backward=(tensor("all-reduce"),)),
        Cut(forward=(tensor("all-reduce"),)),
    )


def test_with_sequence_parallelism_blocks_gather_and_scatter_and_gather_again_for_weights():
    enter = Cut(forward=(tensor("all-gather"),), backward=(tensor("reduce-scatter"),))
    leave = Cut(forward=(tensor("reduce-scatter"),), backward=(tensor("all-gather"), tensor("all-gather", beside=True)))
    assert gpt(tensor_parallel=8, sequence_parallel=True).cuts == (enter, leave, enter, leave)


def test_embedding_and_loss_of_a_divided_vocabulary():
    embedding = lower_piece(MEGATRON, "embedding", work(tensor_parallel=8, sequence_parallel=True))
    assert embedding.cuts == (Cut(forward=(tensor("reduce-scatter"),), backward=(tensor("all-gather"),)),)
    head = lower_piece(MEGATRON, "head", work(tensor_parallel=8)).cuts
    assert head == (
        Cut(backward=(tensor("all-reduce"),)),
        Cut(forward=(Exchange("all-reduce", "tensor", 4 * S * B),)),
        Cut(forward=(Exchange("all-reduce", "tensor", 2 * 4 * S * B),)),
    )


def test_keys_and_values_go_round_a_ring_while_attention_computes():
    """8 key/value heads of 128; 7 steps of a 1,024-token chunk, and back with their gradients."""
    lowered = lower_piece(LLAMA, "dense", work(8192, 1, context_parallel=8))
    sent = 7 * 2 * 1024 * 8 * 128 * 2
    assert lowered.cuts == (
        Cut(forward=(Exchange("ring", "context", sent, beside=True),)),
        Cut(backward=(Exchange("ring", "context", 2 * sent, beside=True),)),
    )
    o = lowered.operators
    alone = {name.split("/")[1] for name in o.name[o.segment == 1]}
    assert alone == {"causal_attention"}
    (at,) = np.flatnonzero(o.family == "attention_forward")
    assert (o.groups[at], o.m[at], o.n[at], o.kernels[at]) == (32, 1024, 8192, 8)


def test_a_ring_keeps_only_its_own_keys_and_turns_once_more_for_a_recomputed_attention():
    ring, whole = (lower_piece(LLAMA, "dense", work(8192, 1, context_parallel=cp)) for cp in (8, 1))
    assert 8 * ring.saved_bytes == whole.saved_bytes
    again = lower_piece(LLAMA, "dense", work(8192, 1, context_parallel=8, recompute=("attention",)))
    assert [each.size_bytes for each in again.cuts[1].backward] == [56 * 2**20, 28 * 2**20]


def test_tokens_are_exchanged_for_heads_and_back():
    lowered = lower_piece(LLAMA, "dense", work(8192, 1, context_parallel=8, context_exchange="all-to-all"))
    q, kv = (Exchange("all-to-all", "context", 2 * 1024 * heads * 128) for heads in (32, 8))
    assert lowered.cuts == (Cut((q, kv, kv), (q, kv, kv)), Cut((q,), (q,)))


def test_messages_of_experts_and_of_their_tensor_groups():
    """A rank of four sends 1,024 of 4,096 tokens to 8 experts each; two ranks put what they got together."""
    lowered = lower_piece(
        V3,
        "moe",
        work(4096, 1, FP8, tensor_parallel=4, sequence_parallel=True, expert_parallel=64, expert_tensor_parallel=2),
    )
    rows = 2 * 1024 * 8
    _, _, _, dispatch, join, part, combine = lowered.cuts
    assert [each.operation for each in dispatch.forward] == ["dispatch", "all-gather"]
    assert [each.operation for each in dispatch.backward] == ["combine", "reduce-scatter"]
    gathered, weights = join.forward
    assert (gathered.group, gathered.size_bytes) == ("expert_tensor", rows * 7168 * FP8.dispatch_bytes)
    assert weights.size_bytes == rows * FP8.dispatch_bytes
    assert part.forward == (Exchange("reduce-scatter", "expert_tensor", rows * 7168 * 2),)
    assert [each.operation for each in combine.forward] == ["combine", "reduce-scatter"]
    assert [(each.operation, each.beside) for each in combine.backward] == [
        ("dispatch", False),
        ("all-gather", False),
        ("all-gather", True),
    ]


def test_a_loaded_rank_sends_more_rows_and_as_many_tokens():
    how = {"tensor_parallel": 4, "sequence_parallel": True, "expert_parallel": 64, "expert_tensor_parallel": 2}
    even, busy = (lower_piece(V3, "moe", work(4096, 1, expert_load=load, **how)) for load in (1.0, 1.5))
    for ours, loaded in zip(even.cuts, busy.cuts, strict=True):
        for one, more in zip(ours.forward + ours.backward, loaded.forward + loaded.backward, strict=True):
            assert more.size_bytes == one.size_bytes * (1.5 if one.group == "expert_tensor" else 1.0)


def test_a_norm_that_is_recomputed_runs_before_its_result_is_gathered_again():
    again = gpt(tensor_parallel=8, sequence_parallel=True, recompute=("norm",))
    o = again.operators
    replayed = {name: segment for name, segment in zip(o.name, o.segment, strict=True) if "(recomputed)" in name}
    assert sorted(replayed.values()) == [2, 4]
    assert [each.beside for each in again.cuts[1].backward] == [False, True]
    assert again.saved_bytes == gpt(tensor_parallel=8, sequence_parallel=True).saved_bytes - 4 * SBH / 8


def test_pieces_on_one_rank_send_only_to_experts():
    to, back = Exchange("dispatch", "expert", 0.0), Exchange("combine", "expert", 0.0)
    assert lower_piece(V3, "moe", work(4096, 1, FP8, expert_parallel=64)).cuts == (
        Cut((to,), (back,)),
        Cut((back,), (to,)),
    )
    assert lower_piece(LLAMA, "dense", work()).cuts == ()


# --- who holds what, and what cannot be shared ------------------------------------------------------------------------


def test_parameters_of_a_tensor_group():
    """175B: 12 h^2 over 8 ranks, two norms and the biases of wo and down on each, the others' biases divided."""
    spec, h = load_model("gpt3-175b"), 12288
    layer = count(piece_shapes(spec, "dense", tensor_parallel=8))
    assert layer == 12 * h * h // 8 + (4 + 2) * h + (3 + 4) * h // 8
    assert piece_shapes(spec, "embedding", tensor_parallel=8)["embed"] == (51200 // 8, h)  # 50,257 padded
    assert piece_shapes(spec, "embedding")["embed"] == (50257, h)
    halves = piece_shapes(V3, "moe", 64, 0, tensor_parallel=4, expert_tensor_parallel=2)
    assert halves["experts_up"] == (4, 2048, 7168)
    assert halves["shared_up"] == (1024, 7168)
    assert halves["wq_a"] == (1536, 7168)
    assert halves["wq_b"] == (128 * 192 // 4, 1536)


def troubles(name, **how):
    spec = load_model(name)
    return [(key, fix) for key, _, fix in check_split(spec, **{"sequence_length": 4096, **how})]


def test_all_that_cannot_be_shared_is_said_at_once_with_the_nearest_that_can():
    assert troubles("gpt3-175b", tensor_parallel=10) == [("tp", "use tp 8 or 12")] * 2
    assert troubles("llama-3.1-8b", tensor_parallel=16, sequence_parallel=True) == []
    assert troubles("deepseek-v3", tensor_parallel=8) == [("sequence_parallel", "set sequence_parallel: true")]
    wrong = troubles(
        "deepseek-v3.2-exp",
        tensor_parallel=3,
        context_parallel=5,
        expert_tensor_parallel=3,
        sequence_parallel=False,
        context_exchange="all-to-all",
    )
    assert [key for key, _ in wrong] == ["tp", "tp", "sequence_parallel", "etp", "cp", "cp", "context_exchange"]
    assert troubles("llama-3.1-8b", context_parallel=3) == [("cp", "use cp 2 or 4")]
    assert troubles("llama-3.1-8b", expert_tensor_parallel=2) == [("etp", "leave etp out")]
    odd = troubles("llama-3.1-8b", tensor_parallel=8, sequence_parallel=True, sequence_length=4100)
    assert odd == [("sequence_parallel", "use tp 5 or 10 or sequence_parallel: false")]


def test_what_no_kernel_does_is_refused():
    with pytest.raises(ModelDomainError, match="unfused attention cannot go round a ring"):
        lower_piece(LLAMA, "dense", work(context_parallel=2, attention="unfused"))
    with pytest.raises(ModelDomainError, match="a decoding step is costed on one rank"):
        lower_decoding(LLAMA, "dense", work(1, tensor_parallel=2), 100)
    with pytest.raises(ModelDomainError) as error:
        lower_piece(MEGATRON, "dense", work(tensor_parallel=7))
    assert str(error.value).count("over 7 ranks") == 2


def test_images_are_not_divided_over_ranks_of_a_model():
    with pytest.raises(ModelDomainError, match="neither heads nor sequences nor experts to divide over 2 ranks"):
        lower_piece(load_any_model("vgg16"), "classifier", work(1, 50, tensor_parallel=2))
