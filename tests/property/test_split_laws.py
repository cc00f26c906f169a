"""Any way of sharing a layer either is refused with a way out, or adds up to the whole layer."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffsim.errors import ModelDomainError
from ffsim.model.pieces import Workpiece, lower_piece
from ffsim.model.precision import load_precision
from ffsim.model.spec import load_model
from ffsim.model.split import check_split

RECIPES = [load_precision("bf16"), load_precision("fp8")]
MODELS = [load_model(name) for name in ("llama-3.1-8b", "megatron-22b", "deepseek-v2", "deepseek-v3.2-exp")]
DEGREES = {
    "tensor_parallel": st.sampled_from([1, 2, 3, 4, 8, 10]),
    "context_parallel": st.sampled_from([1, 2, 4, 5]),
    "expert_tensor_parallel": st.sampled_from([1, 1, 1, 2, 5]),
    "sequence_parallel": st.booleans(),
    "context_exchange": st.sampled_from(["ring", "all-to-all"]),
    "sequence_length": st.sampled_from([192, 256, 1000]),
}
RUNS = st.fixed_dictionaries(
    {
        "precision": st.sampled_from(RECIPES),
        "recompute": st.lists(st.sampled_from(["norm", "mla_up", "swiglu", "attention", "layer"]), unique=True),
        "dropout": st.booleans(),
        "fused_linears": st.booleans(),
        "expert_load": st.sampled_from([1.0, 1.3]),
    }
)


def kinds(spec):
    layers = ["dense"] if spec.moe is None else ["dense", "moe"]
    return ["embedding", *layers, *(["mtp"] if spec.mtp_layers else []), "head"]


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.sampled_from(MODELS), st.fixed_dictionaries(DEGREES), RUNS)
def test_a_split_is_refused_or_gives_sound_costs(spec, split, run):
    work = Workpiece(micro_batch=1, expert_parallel=2, **split, **run)
    troubles = check_split(spec, **split)
    if troubles:
        with pytest.raises(ModelDomainError) as error:
            lower_piece(spec, "embedding", work)
        assert len(str(error.value).splitlines()) == len(troubles)
        return
    for kind in kinds(spec):
        lowered = lower_piece(spec, kind, work)
        o = lowered.operators
        columns = [o.flop, o.read_bytes, o.write_bytes, o.m, o.n, o.k, o.batch, o.kernels]
        assert all(np.isfinite(column).all() and (column >= 0).all() for column in columns)
        assert set(o.segment) <= set(range(len(lowered.cuts) + 1))
        sizes = [each.size_bytes for cut in lowered.cuts for each in cut.forward + cut.backward]
        assert np.isfinite(sizes).all()
        assert min(sizes, default=0) >= 0
        assert 0 <= lowered.saved_expert_bytes <= lowered.saved_bytes
        assert ("R" in o.phase) == (lowered.replayed_bytes > 0)
        assert lowered.replayed_bytes == 0 or lowered.saved_bytes <= lowered.replayed_bytes


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(MODELS), st.fixed_dictionaries(DEGREES))
def test_a_tensor_degree_that_is_advised_is_legal(spec, split):
    for key, _, fix in check_split(spec, **split):
        for advised in re.findall(r"tp (\d+)(?: or (\d+))?", fix) if key == "tp" else ():
            for degree in filter(None, advised):
                left = check_split(spec, **{**split, "tensor_parallel": int(degree)})
                assert "tp" not in {key for key, *_ in left}


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(MODELS), st.fixed_dictionaries({**DEGREES, "sequence_parallel": st.just(True)}))
def test_the_ranks_of_a_layer_compute_it_together(spec, split):
    """With sequence parallelism nothing is done twice; experts are left out, as their rows depend on the routing."""
    dense = replace(spec, moe=None)
    tp, cp = split["tensor_parallel"], split["context_parallel"]
    split = {**split, "expert_tensor_parallel": 1}
    if check_split(dense, **split) or getattr(spec.attention, "indexer", None):
        return
    shared = Workpiece(micro_batch=1, precision=RECIPES[0], **split)
    alone = Workpiece(micro_batch=1, precision=RECIPES[0], sequence_length=split["sequence_length"])
    rank, whole = (lower_piece(dense, "dense", work) for work in (shared, alone))
    repeated = flop_of(rank, ("wk/linear", "wv/linear")) if held_by_several(dense, tp) else 0.0
    once = repeated * dense.attention.kv_heads / tp if repeated else 0.0
    assert tp * cp * (rank.operators.flop.sum() - repeated + once) == pytest.approx(
        whole.operators.flop.sum(), rel=1e-12
    )


def held_by_several(spec, tp):
    return spec.attention.kind == "gqa" and tp > spec.attention.kv_heads


def flop_of(lowered, endings):
    o = lowered.operators
    return o.flop[np.array([name.endswith(endings) for name in o.name])].sum()
