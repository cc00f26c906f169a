"""Tiny models of every architecture on real arrays: gradients, MTP, float32, and decoding with caches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffsim.config import Source
from ffsim.model import layers
from ffsim.model.cache import Cache
from ffsim.model.parameters import all_shapes, random_arrays
from ffsim.model.pieces import piece_shapes
from ffsim.model.spec import Gqa, Indexer, Mla, ModelSpec, Moe
from ffsim.model.tape import recording

GROUPED = Gqa(kind="gqa", heads=4, kv_heads=2, head_dim=4)
LATENT = Mla(kind="mla", heads=2, q_lora_rank=6, kv_lora_rank=5, qk_nope_dim=4, qk_rope_dim=2, v_head_dim=3)
FULL_RANK = Mla(kind="mla", heads=2, kv_lora_rank=5, qk_nope_dim=4, qk_rope_dim=2, v_head_dim=3)
SPARSE = Mla(
    kind="mla",
    heads=2,
    q_lora_rank=6,
    kv_lora_rank=5,
    qk_nope_dim=4,
    qk_rope_dim=2,
    v_head_dim=3,
    indexer=Indexer(heads=3, head_dim=4, top_k=3),
)
V1_EXPERTS = Moe(first_dense=1, routed=6, shared=2, top_k=2, width=4)
V2_EXPERTS = Moe(first_dense=1, routed=6, shared=1, top_k=2, width=4, groups=3, top_groups=2, scale=16.0)
V3_EXPERTS = Moe(
    first_dense=1,
    routed=8,
    shared=1,
    top_k=3,
    width=4,
    groups=4,
    top_groups=2,
    scoring="sigmoid",
    bias=True,
    normalise=True,
    scale=2.5,
)


def tiny(attention, **more):
    return ModelSpec(
        kind="model",
        title="tiny",
        source=Source(ref="test", kind="assumed"),
        layers=2,
        hidden=8,
        vocab=11,
        max_context=16,
        attention=attention,
        feed_forward=12,
        **more,
    )


ARCHITECTURES = {
    "llama, multi-head": tiny(Gqa(kind="gqa", heads=2, kv_heads=2, head_dim=4)),
    "llama, grouped-query": tiny(GROUPED),
    "multi-query": tiny(Gqa(kind="gqa", heads=4, kv_heads=1, head_dim=4)),
    "qwen": tiny(Gqa(kind="gqa", heads=4, kv_heads=2, head_dim=4, qkv_bias=True), tied=True),
    "gpt": tiny(
        Gqa(kind="gqa", heads=2, kv_heads=2, head_dim=4),
        norm="layernorm",
        activation="gelu",
        biases=True,
        tied=True,
        learned_positions=16,
    ),
    "deepseek-moe": tiny(Gqa(kind="gqa", heads=2, kv_heads=2, head_dim=4), moe=V1_EXPERTS),
    "deepseek-v2": tiny(LATENT, moe=V2_EXPERTS),
    "deepseek-v2-lite": tiny(FULL_RANK, moe=V1_EXPERTS),
    "deepseek-v3": tiny(LATENT, moe=V3_EXPERTS, mtp_layers=2),
    "deepseek-v3.2": tiny(SPARSE, moe=V3_EXPERTS, mtp_layers=1),
}
YARN = layers.Rope(factor=4.0, original_length=8)
WITHOUT_GRADIENT = ("gate_bias", "index_")  # they steer what is chosen
CASES = pytest.mark.parametrize("spec", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def random_parameters(spec, dtype=float):
    """All parameters random, gains and biases too."""
    rng = np.random.default_rng(5)
    shapes = dict(all_shapes(spec)) | {f"mtp{module}": piece_shapes(spec, "mtp") for module in range(spec.mtp_layers)}
    arrays = {part: random_arrays(these, rng) for part, these in shapes.items()}
    return {
        part: {name: (x + 0.1 * rng.standard_normal(x.shape)).astype(dtype) for name, x in these.items()}
        for part, these in arrays.items()
    }


def random_tokens(batch=2, length=6):
    return np.random.default_rng(6).integers(0, 11, (batch, length))


def total_loss(spec, parameters, tokens):
    return sum(layers.losses(spec, parameters, tokens, YARN))


@CASES
def test_gradients_of_the_loss_equal_central_differences(spec):
    """Along a random direction of every parameter array."""
    parameters, tokens, rng = random_parameters(spec), random_tokens(), np.random.default_rng(7)
    with recording() as tape:
        found = layers.losses(spec, parameters, tokens, YARN)
    gradients = tape.backward([(loss, np.ones(())) for loss in found])
    trained = [
        (part, name) for part, arrays in parameters.items() for name in arrays if not name.startswith(WITHOUT_GRADIENT)
    ]
    for part, name in trained:
        x = parameters[part][name]
        direction = rng.standard_normal(x.shape)
        ahead, behind = (
            total_loss(spec, {**parameters, part: {**parameters[part], name: x + step * direction}}, tokens)
            for step in (1e-6, -1e-6)
        )
        assert np.sum(gradients[x] * direction) == pytest.approx((ahead - behind) / 2e-6, rel=1e-6, abs=1e-7), name


@CASES
def test_there_is_a_loss_for_the_next_token_and_one_for_every_mtp_module(spec):
    losses = layers.losses(spec, random_parameters(spec), random_tokens(), YARN)
    assert np.shape(losses) == (1 + spec.mtp_layers,)
    assert all(0.5 < loss < 25 for loss in losses)


def test_an_mtp_module_sees_the_hidden_state_and_the_next_token_only():
    """By hand, from the equations: M [norm(h_i); norm(emb(t_i+1))], a layer, token i + 2 from the shared head."""
    spec, tokens = ARCHITECTURES["deepseek-v3.2"], random_tokens()
    parameters = random_parameters(spec)
    p, shared = parameters["mtp0"], {**parameters["embedding"], **parameters["head"]}
    x = layers.hidden_states(spec, parameters, tokens, YARN)[:, :-1]
    x = layers.mtp_input(p, x, shared["embed"][tokens[:, 1:]])
    x = layers.layer(spec, p, x, YARN.tables(np.arange(5), 2), YARN.softmax_factor())
    scores = layers.logits(spec, {**shared, **p}, x, "mtp_norm")[:, :-1]
    chances = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    by_hand = -np.log(np.take_along_axis(chances, tokens[:, 2:, None], axis=-1)).mean()
    assert layers.losses(spec, parameters, tokens, YARN)[1] == pytest.approx(by_hand, rel=1e-12)


@CASES
def test_single_precision_stays_single(spec):
    """Outputs, and gradients of every parameter: no operator widens what it is given."""
    parameters, tokens = random_parameters(spec, np.float32), random_tokens()
    with recording() as tape:
        found = layers.losses(spec, parameters, tokens, YARN)
    assert {np.asarray(y).dtype.name for call in tape.calls for y in call.outputs} <= {"float32", "int64"}
    tape.backward([(loss, np.ones((), np.float32)) for loss in found])
    results = {np.asarray(x).dtype.name for call in tape.gradient_calls for x in call.results if x is not None}
    assert results == {"float32"}
    double = total_loss(spec, random_parameters(spec), tokens)
    assert sum(found) == pytest.approx(double, rel=1e-5)


@CASES
@pytest.mark.parametrize("kind", ["key_value", "latent"])
def test_decoding_token_by_token_equals_one_long_prefill(spec, kind):
    parameters, tokens = random_parameters(spec), random_tokens()
    whole = layers.forward(spec, parameters, tokens, YARN)
    caches = [Cache(kind) for _ in range(spec.layers)]
    steps = [layers.forward(spec, parameters, new, YARN, caches) for new in np.split(tokens, [3, 4, 5], axis=1)]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), whole, atol=1e-12)
    assert {cache.length for cache in caches} == {6}


@settings(max_examples=25)
@given(
    batch=st.integers(1, 3),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    heads=st.integers(1, 3),
    ranks=st.tuples(st.none() | st.integers(1, 5), st.integers(1, 5)),
    widths=st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 4)),
    top_k=st.none() | st.integers(1, 8),
)
def test_both_forms_of_latent_attention_agree_whatever_the_shape(batch, cuts, heads, ranks, widths, top_k):
    """Prefill in one go, expanded; and absorbed, in chunks, from a cache."""
    nope, half_rope, v = widths
    indexer = Indexer(heads=2, head_dim=2 * half_rope + 1, top_k=top_k) if top_k else None
    a = Mla(
        kind="mla",
        heads=heads,
        q_lora_rank=ranks[0],
        kv_lora_rank=ranks[1],
        qk_nope_dim=nope,
        qk_rope_dim=2 * half_rope,
        v_head_dim=v,
        indexer=indexer,
    )
    rng, length = np.random.default_rng(8), sum(cuts)
    p = random_arrays(piece_shapes(tiny(a), "dense"), rng)
    x = rng.standard_normal((batch, length, 8))
    expanded = layers.mla(a, p, x, YARN.tables(np.arange(length), 2 * half_rope), 1.2)
    cache, absorbed = Cache("latent"), []
    for new in np.split(x, np.cumsum(cuts)[:-1], axis=1):
        positions = np.arange(cache.length, cache.length + new.shape[1])
        absorbed.append(layers.absorbed_mla(a, p, new, YARN.tables(positions, 2 * half_rope), 1.2, cache))
    np.testing.assert_allclose(np.concatenate(absorbed, axis=1), expanded, atol=1e-11)
