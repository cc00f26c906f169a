"""Operator times in bulk: what a plan search and a calibration wait for."""

import numpy as np
import pytest

from ffsim.compute import Conditions, load_profile, time_operators
from ffsim.compute.calibrate import predict, resolve_gpu
from ffsim.compute.readers import read_measured
from ffsim.compute.work import product
from ffsim.model.operators import Operators

pytestmark = pytest.mark.slow

N_OPERATORS = 100_000


def random_products(dtype):
    """A hundred thousand different products, from 64 to 16,384 on each side."""
    m, n, k = 2 ** np.random.default_rng(0).uniform(6, 14, (3, N_OPERATORS)) // 1
    one = Operators.of([product(1, 1, 1, dtype)])
    columns = {name: np.repeat(getattr(one, name), N_OPERATORS) for name in one.__slots__}
    work = {"m": m, "n": n, "k": k, "flop": 2 * m * n * k, "read_bytes": (m + n) * k, "write_bytes": 2 * m * n}
    return Operators(**(columns | work))


@pytest.mark.parametrize(("gpu", "dtype"), [("h800", "fp8_block"), ("h100", "bf16")])
def test_time_a_hundred_thousand_operators(benchmark, gpu, dtype):
    part, _ = resolve_gpu(gpu)
    profile, operators = load_profile(part.profile), random_products(dtype)
    times = benchmark.pedantic(time_operators, (operators, part, profile, Conditions()), rounds=5, warmup_rounds=1)
    assert len(times.seconds) == N_OPERATORS


def test_calibrate_whole_layers(benchmark, pytestconfig):
    path = pytestconfig.rootpath / "benchmarks" / "device" / "h200" / "layer_step.csv"
    gpu, names = resolve_gpu("h200")
    cases = read_measured(path, names, gpu.sms.value).cases
    predictions = benchmark(predict, cases, gpu, load_profile(gpu.profile), path.name)
    assert len(predictions) == 72
