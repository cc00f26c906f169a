"""Costs from the reference model: how long deriving them takes. Operator counts are exact.

The targets are 20 ms for a layer of V3 and 3 s for the whole catalogue; ``make bench`` holds the best round to them.
"""

import numpy as np
import pytest

from ffsim.model import layers
from ffsim.model.cache import Cache
from ffsim.model.parameters import random_arrays
from ffsim.model.pieces import Workpiece, lower_decoding, lower_piece, piece_shapes
from ffsim.model.precision import load_precision
from ffsim.model.spec import SHELF, ModelSpec, load_any_model, load_model

pytestmark = pytest.mark.slow

FP8 = load_precision("fp8")
V3 = Workpiece(
    micro_batch=1, sequence_length=4096, precision=FP8, recompute=("norm", "mla_up", "swiglu"), expert_parallel=64
)
N_PIECES = 231
N_KERNELS_OF_A_V3_LAYER = 126


def kinds(spec):
    """Every piece kind that a model has."""
    dense = spec.moe is None or spec.moe.first_dense > 0
    has = {"embedding": True, "head": True, "dense": dense, "moe": spec.moe is not None, "mtp": spec.mtp_layers > 0}
    return [kind for kind, there in has.items() if there]


def cost_everything(models):
    return [
        lower_piece(spec, kind, Workpiece(micro_batch=1, sequence_length=min(4096, spec.max_context), precision=FP8))
        for spec in models
        for kind in kinds(spec)
    ]


def within(benchmark, seconds):
    assert not benchmark.stats or benchmark.stats.stats.min < seconds


def test_cost_a_v3_layer(benchmark):
    lowered = benchmark(lower_piece, load_model("deepseek-v3"), "moe", V3)
    assert len(lowered.operators) == N_KERNELS_OF_A_V3_LAYER
    within(benchmark, 0.020)


def test_cost_every_piece_of_every_model(benchmark):
    models = [model for model in map(load_any_model, SHELF.names()) if isinstance(model, ModelSpec)]
    assert len(benchmark.pedantic(cost_everything, (models,), rounds=3)) == N_PIECES
    within(benchmark, 3.0)


def test_cost_a_decoding_step_of_v3(benchmark):
    work = Workpiece(micro_batch=128, sequence_length=1, precision=FP8, expert_parallel=64)
    lowered = benchmark(lower_decoding, load_model("deepseek-v3"), "moe", work, 4096)
    assert set(lowered.operators.phase) == {"F"}


@pytest.mark.parametrize("kind", ["key_value", "latent"])
def test_decode_a_token_in_numpy(benchmark, kind):
    """Real numbers: the attention of V2-Lite behind 512 cached tokens, expanded and absorbed."""
    spec, rng = load_model("deepseek-v2-lite"), np.random.default_rng(1)
    a, p = spec.attention, random_arrays(piece_shapes(spec, "dense"), rng)
    form, cache = (layers.mla, Cache("key_value")) if kind == "key_value" else (layers.absorbed_mla, Cache("latent"))
    x = rng.standard_normal((1, 513, 2048))
    cos, sin = layers.Rope().tables(np.arange(513), a.qk_rope_dim)
    form(a, p, x[:, :512], (cos[:512], sin[:512]), 1.0, cache)
    past = dict(cache.held)

    def step():
        return form(a, p, x[:, 512:], (cos[512:], sin[512:]), 1.0, Cache(cache.kind, dict(past)))

    assert benchmark(step).shape == (1, 1, 2048)
