"""Deriving costs is fast enough for every candidate of a search; `benchmarks/test_reference_model.py` tracks it."""

from time import perf_counter

import pytest

from ffsim.model.pieces import Workpiece, lower_piece
from ffsim.model.precision import load_precision
from ffsim.model.spec import load_model

pytestmark = pytest.mark.slow


def seconds(spec, work):
    start = perf_counter()
    lower_piece(spec, "moe", work)
    return perf_counter() - start


def test_a_v3_layer_is_costed_in_twenty_milliseconds():
    """The best of many, as other work shares the machine."""
    spec = load_model("deepseek-v3")
    work = Workpiece(micro_batch=1, sequence_length=4096, precision=load_precision("fp8"), expert_parallel=64)
    assert min(seconds(spec, work) for _ in range(30)) < 0.020
