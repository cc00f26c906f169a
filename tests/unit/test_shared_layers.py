"""Ranks that share a layer, as threads that really exchange arrays, compute what one rank computes, both ways."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from threading import Barrier

import numpy as np
import pytest

from ffsim.config import Source
from ffsim.errors import ModelDomainError
from ffsim.model import layers
from ffsim.model.execution import Execution, executing, held_positions, zigzag
from ffsim.model.parameters import random_arrays as initial
from ffsim.model.parameters import rank_spec
from ffsim.model.pieces import piece_shapes
from ffsim.model.spec import Gqa, Mla, ModelSpec, Moe
from ffsim.model.tape import recording

GROUPED = Gqa(kind="gqa", heads=4, kv_heads=2, head_dim=4)
LATENT = Mla(kind="mla", heads=4, q_lora_rank=6, kv_lora_rank=5, qk_nope_dim=4, qk_rope_dim=2, v_head_dim=3)
EXPERTS = Moe(first_dense=0, routed=4, shared=1, top_k=2, width=8, scoring="sigmoid", normalise=True)
LENGTH, HIDDEN, VOCABULARY = 8, 8, 512
GROUPS = ("tensor", "context", "expert_tensor")


def model(attention, **more):
    return ModelSpec(
        kind="model",
        title="tiny",
        source=Source(ref="test", kind="assumed"),
        layers=1,
        hidden=HIDDEN,
        vocab=VOCABULARY,
        max_context=LENGTH,
        attention=attention,
        feed_forward=16,
        **more,
    )


GPT = model(GROUPED, activation="gelu", norm="layernorm", biases=True, learned_positions=LENGTH, tied=True)
LLAMA = model(GROUPED)


class Board:
    """Where the threads of a group put their arrays for each other."""

    def __init__(self, sizes):
        self.sizes = sizes
        self.barriers = defaultdict(lambda: None)
        self.arrays = defaultdict(dict)
        for ranks in product(*map(range, sizes)):
            for group in range(len(sizes)):
                key = (group, *ranks[:group], *ranks[group + 1 :])
                self.barriers[key] = self.barriers[key] or Barrier(sizes[group], timeout=60)

    def exchange(self, ranks):
        def everyone(group, x):
            axis = GROUPS.index(group)
            key = (axis, *ranks[:axis], *ranks[axis + 1 :])
            self.arrays[key][ranks[axis]] = x
            self.barriers[key].wait()
            found = [self.arrays[key][rank] for rank in range(self.sizes[axis])]
            self.barriers[key].wait()
            return found

        return everyone


def run_ranks(program, *, tensor=1, context=1, expert_tensor=1, **more):
    """Run ``program`` on every rank at once; results by (tensor, context, expert tensor) rank."""
    sizes = (tensor, context, expert_tensor)
    board = Board(sizes)

    def one(ranks):
        rank = dict(zip(GROUPS, ranks, strict=True))
        how = Execution(
            tensor=tensor,
            context=context,
            expert_tensor=expert_tensor,
            rank=rank,
            everyone=board.exchange(ranks),
            **more,
        )
        with executing(how):
            return program()

    everyone = list(product(*map(range, sizes)))
    with ThreadPoolExecutor(len(everyone)) as pool:
        return dict(zip(everyone, pool.map(one, everyone), strict=True))


def own(array, axis, rank, ranks):
    return np.split(array, ranks, axis=axis)[rank]


def part(name, array, spec, rank, tp, etp=1, etp_rank=0):
    """A rank's share of a parameter, as `piece_shapes` gives its shape."""
    gated = 2 if spec.activation == "swiglu" else 1
    ranks = tp
    if name.startswith("experts_"):
        rank, ranks, gated = etp_rank, etp, 2
    stem = name.removesuffix("_bias")
    if stem in {"wk", "wv"} and tp > spec.attention.kv_heads:
        ranks = spec.attention.kv_heads
        rank = rank * ranks // tp
    if stem in {"up", "shared_up", "experts_up"}:
        axis = 1 if stem == "experts_up" else 0
        halves = np.split(array, gated, axis=axis)
        return np.concatenate([own(half, axis, rank, ranks) for half in halves], axis=axis)
    if stem in {"wq", "wk", "wv", "wq_b", "wkv_b", "embed", "head"}:
        return own(array, 0, rank, ranks)
    if name in {"wo", "down", "shared_down"}:
        return own(array, 1, rank, ranks)
    if name == "experts_down":
        return own(array, 2, rank, ranks)
    return array


def parameters(spec, kind, seed=3):
    rng = np.random.default_rng(seed)
    p = initial(piece_shapes(spec, kind), rng)
    return {name: a + 0.1 * rng.standard_normal(a.shape) for name, a in p.items()}


def tables(spec, positions):
    return layers.rope_tables(spec, layers.Rope(), positions)


def whole_layer(spec, p, x, dy):
    with recording() as tape:
        y = layers.layer(spec, p, x, tables(spec, np.arange(LENGTH)))
    gradients = tape.backward([(y, dy)])
    return y, gradients[x], {name: gradients.get(a) for name, a in p.items()}


def shared_layer(spec, p, x, dy, *, tensor=1, context=1, expert_tensor=1, sequence_parallel=False, **more):
    """One layer over all ranks: its output, the gradient of its input, and gradients of parameters by rank."""
    mine = rank_spec(spec, tensor)

    def program():
        e = layers.execution()
        held = held_positions(LENGTH, between_blocks=True)
        ours = {name: part(name, a, spec, e.at("tensor"), tensor) for name, a in p.items()}
        mine_x = x[:, held]
        with recording() as tape:
            y = layers.layer(mine, ours, mine_x, tables(mine, held_positions(LENGTH, between_blocks=False)))
            gradients = tape.backward([(y, dy[:, held])])
        return held, y, gradients[mine_x], {name: gradients.get(a) for name, a in ours.items()}

    found = run_ranks(
        program,
        tensor=tensor,
        context=context,
        expert_tensor=expert_tensor,
        sequence_parallel=sequence_parallel,
        **more,
    )
    y, dx = np.full_like(x, np.nan), np.full_like(x, np.nan)
    for held, own_y, own_dx, _ in found.values():
        y[:, held], dx[:, held] = own_y, own_dx
    return y, dx, {rank: gradients for rank, (_, _, _, gradients) in found.items()}


def inputs(seed=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, LENGTH, HIDDEN)), rng.standard_normal((2, LENGTH, HIDDEN))


TENSOR = {"tensor": 2}
SEQUENCE = {"tensor": 2, "sequence_parallel": True}
RING = {"context": 2}
ULYSSES = {"context": 2, "context_exchange": "all-to-all"}
FUSED = {"tensor": 2, "fused_linears": True}
DENSE = [
    FUSED,
    TENSOR,
    SEQUENCE,
    RING,
    ULYSSES,
    {"context": 4},
    {**SEQUENCE, **RING},
    {"tensor": 2, "attention": "unfused"},
]


@pytest.mark.parametrize("how", DENSE, ids=str)
@pytest.mark.parametrize(
    "spec",
    [LLAMA, GPT, model(LATENT), model(replace(LATENT, q_lora_rank=None))],
    ids=["llama", "gpt", "latent", "full-rank"],
)
def test_a_dense_layer_is_the_same_however_it_is_shared(spec, how):
    (x, dy), p = inputs(), parameters(spec, "dense")
    y, dx, whole = whole_layer(spec, p, x, dy)
    shared_y, shared_dx, gradients = shared_layer(spec, p, x, dy, **how)
    np.testing.assert_allclose(shared_y, y, atol=1e-12)
    np.testing.assert_allclose(shared_dx, dx, atol=1e-12)
    tp = how.get("tensor", 1)
    for name, gradient in whole.items():
        for rank in range(tp):
            same = [g[name] for (at, *_), g in gradients.items() if at == rank]
            if part(name, gradient, spec, 0, tp).shape == gradient.shape and how.get("sequence_parallel"):
                same = [g[name] for g in gradients.values()]  # replicated, on different tokens
            np.testing.assert_allclose(sum(same), part(name, gradient, spec, rank, tp), atol=1e-11, err_msg=name)


def test_key_value_heads_fewer_than_ranks_are_held_by_several():
    (x, dy), p = inputs(), parameters(LLAMA, "dense")
    y, dx, whole = whole_layer(LLAMA, p, x, dy)
    shared_y, shared_dx, gradients = shared_layer(LLAMA, p, x, dy, tensor=4, sequence_parallel=True)
    np.testing.assert_allclose(shared_y, y, atol=1e-12)
    np.testing.assert_allclose(shared_dx, dx, atol=1e-12)
    by_rank = [gradients[rank, 0, 0]["wk"] for rank in range(4)]
    together = np.concatenate([by_rank[0] + by_rank[1], by_rank[2] + by_rank[3]])
    np.testing.assert_allclose(together, whole["wk"], atol=1e-11)


@pytest.mark.parametrize("how", [SEQUENCE, RING, {**SEQUENCE, **RING}], ids=str)
def test_a_layer_with_routed_and_shared_experts_is_the_same_however_it_is_shared(how):
    spec = model(LATENT, moe=EXPERTS)
    (x, dy), p = inputs(), parameters(spec, "moe")
    y, dx, whole = whole_layer(spec, p, x, dy)
    shared_y, shared_dx, gradients = shared_layer(spec, p, x, dy, **how)
    np.testing.assert_allclose(shared_y, y, atol=1e-12)
    np.testing.assert_allclose(shared_dx, dx, atol=1e-12)
    experts = sum(g["experts_up"] for g in gradients.values())  # each rank's tokens through all experts
    np.testing.assert_allclose(experts, whole["experts_up"], atol=1e-11)


def test_experts_divided_over_ranks_see_the_rows_of_all():
    """Two ranks with different tokens and half of every expert each: as if each had the whole experts."""
    spec, etp = model(LATENT, moe=EXPERTS), 2
    p = parameters(spec, "moe")
    pairs = [inputs(seed) for seed in (7, 8)]

    def program():
        rank = layers.execution().at("expert_tensor")
        ours = {name: part(name, a, spec, 0, 1, etp, rank) for name, a in p.items()}
        x, dy = pairs[rank]
        return whole_layer(spec, ours, x, dy)

    found = run_ranks(program, expert_tensor=etp)
    gradients = []
    for rank, (x, dy) in enumerate(pairs):
        y, dx, whole = whole_layer(spec, p, x, dy)
        np.testing.assert_allclose(found[0, 0, rank][0], y, atol=1e-12)
        np.testing.assert_allclose(found[0, 0, rank][1], dx, atol=1e-12)
        gradients.append(whole["experts_down"])
    shares = [found[0, 0, rank][2]["experts_down"] for rank in range(etp)]
    np.testing.assert_allclose(np.concatenate(shares, axis=2), sum(gradients), atol=1e-11)


@pytest.mark.parametrize("how", [TENSOR, SEQUENCE], ids=str)
def test_a_divided_vocabulary_embeds_and_loses_as_a_whole_one(how):
    """GPT's tied table on two ranks: the loss, and the table's gradient from both of its uses."""
    table = np.random.default_rng(9).standard_normal((VOCABULARY, HIDDEN))
    p = {**parameters(GPT, "head"), "positions": parameters(GPT, "embedding")["positions"], "embed": table}
    tokens = np.random.default_rng(10).integers(0, VOCABULARY, (2, LENGTH))
    targets = np.roll(tokens, -1, axis=1)

    def program():
        rank = layers.execution().at("tensor")
        ours = {name: part(name, a, GPT, rank, layers.execution().tensor) for name, a in p.items()}
        with recording() as tape:
            x = layers.embedding(ours, tokens)
            loss = layers.cross_entropy(layers.logits(GPT, ours, x), targets)
            gradients = tape.backward([(loss, np.array(1.0))])
        return loss, gradients[ours["embed"]], gradients[x]

    loss, gradient, dx = program()
    found = run_ranks(program, **how)
    for (rank, *_), (own_loss, own_gradient, own_dx) in found.items():
        assert own_loss == pytest.approx(loss, rel=1e-14)
        np.testing.assert_allclose(own_gradient, own(gradient, 0, rank, 2), atol=1e-12)
        whole = own(dx, 1, rank, 2) if how.get("sequence_parallel") else dx
        np.testing.assert_allclose(own_dx, whole, atol=1e-12)


def test_the_chunks_of_a_ring_see_as_much_past_each():
    pairs = [int((zigzag(rank, 4, 64) + 1).sum()) for rank in range(4)]
    assert pairs == [64 * 65 // 2 // 4] * 4
    assert sorted(np.concatenate([zigzag(rank, 4, 64) for rank in range(4)])) == list(range(64))


def test_dropout_drops_and_scales():
    x = np.ones((1, 100, 100))
    with executing(Execution(dropout=0.25, random=np.random.default_rng(1))):
        y = layers.residual_sum(np.zeros_like(x), x)
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.02)


def test_more_positions_than_were_learned_are_refused_on_every_rank():
    p = parameters(GPT, "embedding")
    with executing(Execution(context=2)), pytest.raises(ModelDomainError, match="16 positions, 8 were learned"):
        layers.embedding(p, np.zeros((1, LENGTH), dtype=int))
