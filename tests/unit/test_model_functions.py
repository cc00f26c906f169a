"""Every gradient against central differences."""

import numpy as np
import pytest

from ffsim.model import attention
from ffsim.model import functions as f
from ffsim.model.tape import recording

RNG = np.random.default_rng(7)


def numerical(function, arrays, position, seed):
    base = arrays[position]
    gradient = np.zeros_like(base)
    for index in np.ndindex(base.shape):
        for sign in (1, -1):
            moved = [a.copy() for a in arrays]
            moved[position][index] += sign * 1e-6
            gradient[index] += sign * np.sum(function(*moved) * seed) / 2e-6
    return gradient


def check(function, *arrays, wrt=None):
    with recording() as tape:
        y = function(*arrays)
    seed = RNG.standard_normal(np.shape(y))
    gradients = tape.backward([(y, seed)])
    for position in wrt if wrt is not None else range(len(arrays)):
        np.testing.assert_allclose(gradients[arrays[position]], numerical(function, arrays, position, seed), atol=2e-7)


def normal(*shape):
    return RNG.standard_normal(shape)


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (f.linear, (normal(2, 3, 4), normal(5, 4))),
        (f.add, (normal(2, 3), normal(2, 3))),
        (f.add_bias, (normal(2, 3), normal(3))),
        (f.add_bias, (normal(2, 4, 3), normal(4, 3))),
        (lambda x: f.crop(x, 1, 3, axis=0), (normal(4, 2),)),
        (lambda x: f.crop(x, 0, 2, axis=1), (normal(2, 4, 3),)),
        (f.rms_norm, (normal(2, 5), normal(5))),
        (f.layer_norm, (normal(2, 5), normal(5), normal(5))),
        (f.swiglu, (normal(3, 6),)),
        (f.weighted_swiglu, (normal(3, 6), normal(3))),
        (f.gelu, (normal(3, 4),)),
        (attention.join_shared_key, (normal(1, 2, 3, 4), normal(1, 2, 1, 2))),
        (f.join, (normal(2, 3), normal(2, 4))),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_gradients_equal_central_differences(function, arrays):
    check(function, *arrays)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_gradients_for_shared_heads(kv_heads):
    q, k, v = normal(1, 3, 4, 2), normal(1, 3, kv_heads, 2), normal(1, 3, kv_heads, 3)
    check(lambda *a: attention.causal_attention(*a, 0.7), q, k, v)


def test_rotation_gradient():
    cos, sin = np.cos(normal(3, 2)), np.sin(normal(3, 2))
    check(lambda x: attention.rotate(x, cos, sin), normal(1, 3, 2, 4))


def test_either_half_of_a_split_may_be_unused():
    x = normal(2, 5)
    for half in (0, 1):
        check(lambda x, half=half: f.split(x, 2)[half], x)


def test_cross_entropy_and_its_gradient():
    targets = np.array([[1, 0], [3, 2]])
    check(lambda logits: f.cross_entropy(logits, targets), normal(2, 2, 4))


def test_embedding_gradient_adds_up_repeated_tokens():
    tokens = np.array([[0, 2, 2]])
    check(lambda table: f.embed(tokens, table), normal(3, 4))


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
@pytest.mark.parametrize("normalise", [True, False])
def test_routing_weight_gradients(scoring, normalise):
    logits = normal(3, 6)
    indices = f.choose_experts(f.gate_scores(logits, scoring), None, 2, 1, 1)
    check(lambda x: f.routing_weights(f.gate_scores(x, scoring), indices, normalise, 2.5), logits)


def test_dispatch_and_combine_undo_each_other_up_to_the_sum():
    x, order = normal(4, 3), np.array([3, 0, 6, 1, 2, 5, 7, 4])
    check(lambda x: f.dispatch(x, order, 2), x)
    check(lambda rows: f.combine(rows, order, 2), normal(8, 3))
    np.testing.assert_allclose(f.combine(f.dispatch(x, order, 2), order, 2), 2 * x)


def test_ties_go_to_the_lower_expert():
    assert f.choose_experts(np.zeros((1, 6)), None, 3, 1, 1).tolist() == [[0, 1, 2]]


def test_a_limited_token_stays_within_its_groups():
    scores = RNG.random((200, 16))
    chosen = f.choose_experts(scores, np.zeros(16), 4, 8, 2)
    assert max(len(set((row // 2).tolist())) for row in chosen) <= 2
