"""FLOP of a training pass over whole models, as recorded, against closed forms written by hand."""

import pytest

from ffsim.model import layers
from ffsim.model.arrays import Shape
from ffsim.model.lowering import lower
from ffsim.model.parameters import all_shapes, shape_arrays
from ffsim.model.precision import load_precision
from ffsim.model.spec import load_model
from ffsim.model.tape import recording


def recorded_flop(name, length):
    """Forward and backward of every layer and the head, one sequence, causal attention counted exactly."""
    spec = load_model(name)
    parameters = {part: shape_arrays(shapes) for part, shapes in all_shapes(spec)}
    with recording() as tape:
        logits = layers.forward(spec, parameters, Shape(1, length))
    tape.backward([(logits, Shape(*logits.shape))])
    return lower(tape, load_precision("bf16")).operators.flop.sum()


def test_llama_2_7b():
    s, h, n_layers, ffn, vocab = 2048, 4096, 32, 11008, 32000
    matrices = n_layers * (4 * h * h + 3 * h * ffn) + h * vocab
    pairs = n_layers * s * (s + 1) / 2
    scores = 2 * pairs * 2 * h  # q k^T and p v
    again = 2 * pairs * 5 * h  # backward: q k^T once more, dv, dp, dq, dk
    assert recorded_flop("llama-2-7b", s) == pytest.approx(6 * s * matrices + scores + again, rel=1e-9)


def test_llama_2_70b_with_grouped_queries():
    s, h, n_layers, ffn, vocab = 4096, 8192, 80, 28672, 32000
    matrices = n_layers * (2 * h * h + 2 * h * (8 * 128) + 3 * h * ffn) + h * vocab
    pairs = n_layers * s * (s + 1) / 2
    assert recorded_flop("llama-2-70b", s) == pytest.approx(6 * s * matrices + 2 * pairs * 7 * h, rel=1e-9)


def test_gpt2_medium():
    s, h, n_layers, vocab = 1024, 1024, 24, 50257
    matrices = n_layers * 12 * h * h + h * vocab  # the head is the embedding, the embedding itself only looks up
    pairs = n_layers * s * (s + 1) / 2
    assert recorded_flop("gpt2-medium", s) == pytest.approx(6 * s * matrices + 2 * pairs * 7 * h, rel=1e-9)


def test_deepseek_v2():
    s, h, heads = 4000, 5120, 128  # 4,000 tokens x 6 spread evenly over 160 experts
    attention = h * 1536 + 1536 * heads * 192 + h * (512 + 64) + 512 * heads * 256 + heads * 128 * h
    experts = (6 + 2) * 3 * h * 1536 + h * 160
    matrices = 60 * attention + 1 * 3 * h * 12288 + 59 * experts + h * 102400
    pairs = 60 * s * (s + 1) / 2
    scores = 2 * pairs * heads * (192 + 128)
    again = 2 * pairs * heads * (3 * 192 + 2 * 128)
    assert recorded_flop("deepseek-v2", s) == pytest.approx(6 * s * matrices + scores + again, rel=1e-9)


def test_deepseek_v3():
    s, h, heads = 4096, 7168, 128
    attention = h * 1536 + 1536 * heads * 192 + h * (512 + 64) + 512 * heads * 256 + heads * 128 * h
    experts = (8 + 1) * 3 * h * 2048 + h * 256  # routed and shared, gate
    matrices = 61 * attention + 3 * 3 * h * 18432 + 58 * experts + h * 129280
    pairs = 61 * s * (s + 1) / 2
    scores = 2 * pairs * heads * (192 + 128)  # q k^T and p v
    again = 2 * pairs * heads * (3 * 192 + 2 * 128)  # q k^T once more, dq, dk; dv, dp
    assert recorded_flop("deepseek-v3", s) == pytest.approx(6 * s * matrices + scores + again, rel=1e-9)
