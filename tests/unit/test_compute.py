"""Operator times: laws of the models, honesty of the profiles, and DeepSeek's own trace."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim.compute import BASES, Conditions, load_profile, time_operators
from ffsim.compute.calibration import Errors, build_profiles, gemm_rows_s, machine_of
from ffsim.compute.measured import measured, select
from ffsim.compute.models import Machine, gemm_s
from ffsim.compute.profile import SHELF
from ffsim.errors import ModelDomainError
from ffsim.hardware import Gpu, load_part
from ffsim.model.operators import Operators, Row
from ffsim.model.pieces import Workpiece, lower_piece
from ffsim.model.precision import load_precision
from ffsim.model.spec import load_model

H800, PROFILE = load_part(Gpu, "h800-sxm"), load_profile("h800-sxm")
MACHINE = Machine(peak_flop_per_s=1e15, memory_bytes_per_s=3e12, sms=132, sms_used=132)
SIZES = st.integers(64, 16384)


def one_gemm_s(m, n, k, machine=MACHINE):
    arrays = [np.array([float(x)]) for x in (1, m, n, k)]
    total = np.array([2.0 * (m * k + n * k + m * n)])
    return gemm_s(PROFILE.gemm["bf16"], machine, *arrays, total)[0]


@given(m=SIZES, n=SIZES, k=SIZES)
def test_a_product_is_never_faster_than_the_roofline(m, n, k):
    assert one_gemm_s(m, n, k) > max(2 * m * n * k / MACHINE.peak_flop_per_s, 2 * (m * k + n * k + m * n) / 3e12)


@given(m=SIZES, n=SIZES, k=SIZES)
def test_more_work_takes_no_less_time(m, n, k):
    base = one_gemm_s(m, n, k)
    assert one_gemm_s(m, n, 2 * k) >= base
    assert one_gemm_s(2 * m, n, k) >= base * 0.999


@given(m=SIZES, n=SIZES, k=SIZES, sms=st.integers(1, 131))
def test_fewer_sms_are_no_faster(m, n, k, sms):
    fewer = Machine(peak_flop_per_s=1e15, memory_bytes_per_s=3e12, sms=132, sms_used=sms)
    assert one_gemm_s(m, n, k, fewer) >= one_gemm_s(m, n, k) * 0.999


@pytest.mark.parametrize("name", SHELF.names())
def test_every_profile_states_how_well_it_fits(name):
    profile = load_profile(name)
    fits = [gemm.fit for gemm in profile.gemm.values()]
    fits += [profile.attention_forward.fit, profile.attention_backward.fit, profile.elementwise.fit]
    assert all(fit.rows > 0 and fit.source.ref for fit in fits)
    assert max(fit.median_error for fit in fits) < 0.12


@pytest.mark.parametrize(
    ("profile", "gpu", "dtype", "median", "p90"),
    [
        ("h100-sxm", "h100-sxm", "bf16", 0.06, 0.25),
        ("h200-sxm", "h200-sxm", "bf16", 0.08, 0.25),
        ("h200-sxm", "h200-sxm", "fp8_block", 0.1, 0.35),
        ("a100-sxm", "a100-sxm-80gb", "bf16", 0.08, 0.45),
        ("h800-sxm", "h800-sxm", "fp8_block", 0.1, 0.25),
        ("h800-sxm", "h800-sxm", "fp8", 0.05, 0.15),
    ],
)
def test_products_are_met_within_the_stated_errors(profile, gpu, dtype, median, p90):
    """First cut; small products, where libraries choose among many kernels, make up the tail."""
    rows = select(measured("gemm"), gpu=profile, dtype=dtype, beside=0)
    where = machine_of(load_part(Gpu, gpu), dtype, rows)
    errors = Errors.of(gemm_rows_s(load_profile(profile).gemm[dtype], where, rows, dtype), rows["s"])
    assert errors.rows > 50
    assert errors.median <= median
    assert errors.p90 <= p90


@pytest.mark.slow
def test_the_shipped_profiles_are_what_the_calibration_writes():
    for name, fresh in build_profiles().items():
        shipped = load_profile(name)
        for dtype, parameters in fresh["gemm"].items():
            assert shipped.gemm[dtype].efficiency == pytest.approx(parameters["efficiency"], rel=0.02)
            assert shipped.gemm[dtype].fit.median_error == pytest.approx(parameters["fit"]["median_error"], abs=0.01)


def table(*rows):
    return Operators.of(rows)


def test_each_time_says_what_it_rests_on():
    known = Row(name="q", phase="F", segment=0, family="gemm", dtype="fp8_block", m=4096, n=24576, k=1536, flop=1.0)
    near = Row(name="r", phase="F", segment=0, family="gemm", dtype="fp8_block", m=5000, n=5000, k=5000, flop=1.0)
    far = Row(name="s", phase="F", segment=0, family="gemm", dtype="fp8_block", m=9, n=9, k=900_000, flop=1.0)
    beside = Conditions(sms_for_communication=20, beside_communication=True)
    times = time_operators(table(known, near, far), H800, PROFILE, beside)
    assert [BASES[code] for code in times.basis] == ["measured", "interpolated", "extrapolated"]
    rows = select(measured("gemm"), gpu="h800-sxm", dtype="fp8_block", beside=1, m=4096, n=24576, k=1536)
    assert times.seconds[0] == pytest.approx(rows["s"].mean())
    alone = time_operators(table(known), H800, PROFILE, Conditions())
    assert BASES[alone.basis[0]] == "interpolated"
    assert alone.seconds[0] < times.seconds[0]


def test_a_format_the_gpu_lacks_is_refused():
    a100 = load_part(Gpu, "a100-sxm-40gb")
    row = Row(name="q", phase="F", segment=0, family="gemm", dtype="fp8_block", m=1, n=1, k=1)
    with pytest.raises(ModelDomainError, match="A100 SXM4 40 GB has no fp8_block rate; use a precision within bf16"):
        time_operators(table(row), a100, load_profile("a100-sxm"), Conditions())


def test_communication_cannot_take_every_sm():
    row = Row(name="q", phase="F", segment=0, family="elementwise")
    with pytest.raises(ModelDomainError, match="132 SMs for communication leave none of 132"):
        time_operators(table(row), H800, PROFILE, Conditions(sms_for_communication=132))


# DeepSeek's published training trace, mean of four MoE layers, H800, 112 SMs beside 20 communicating, milliseconds.
# Source: deepseek-ai/profile-data train.json; per phase and category as summed in its public analysis.
TRACE = {"F": 8.97, "B": 14.65, "W": 7.45}
TRACE_SHARES = {"products": 0.57, "attention": 0.17, "elementwise": 0.26}


@pytest.fixture(scope="module")
def v3_layer():
    work = Workpiece(
        micro_batch=1,
        sequence_length=4096,
        precision=load_precision("fp8"),
        recompute=("norm", "mla_up", "swiglu"),
        expert_parallel=64,
    )
    operators = lower_piece(load_model("deepseek-v3"), "moe", work).operators
    times = time_operators(operators, H800, PROFILE, Conditions(sms_for_communication=20, beside_communication=True))
    return operators, times.seconds * 1e3


@pytest.mark.parametrize("phase", TRACE)
def test_a_v3_layer_takes_what_deepseek_measured(v3_layer, phase):
    operators, milliseconds = v3_layer
    assert milliseconds[operators.phase == phase].sum() == pytest.approx(TRACE[phase], rel=0.1)


def test_a_v3_layer_spends_its_time_as_deepseek_measured(v3_layer):
    operators, milliseconds = v3_layer
    families = {
        "products": np.isin(operators.family, ["gemm", "grouped_gemm"]),
        "attention": np.isin(operators.family, ["attention_forward", "attention_backward"]),
        "elementwise": operators.family == "elementwise",
    }
    for name, rows in families.items():
        assert milliseconds[rows].sum() / milliseconds.sum() == pytest.approx(TRACE_SHARES[name], abs=0.05)
