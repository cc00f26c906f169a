"""Operator times: laws of the models, honesty of the profiles, and DeepSeek's own trace."""

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim.compute import BASES, Conditions, load_profile, time_operators
from ffsim.compute.fitting import Errors, held_out
from ffsim.compute.interpolation import Residuals
from ffsim.compute.measured import measured
from ffsim.compute.models import Machine, attention_s, decoding_s, gemm_s
from ffsim.compute.profile import SHELF
from ffsim.compute.shipped import PARTS, undisturbed, worth_fitting
from ffsim.compute.timing import machine, modelled_calls_s
from ffsim.compute.work import Heads, attention, decode, product
from ffsim.errors import ModelDomainError
from ffsim.hardware import Gpu, load_part
from ffsim.model.operators import Operators, Row
from ffsim.model.pieces import Workpiece, lower_piece
from ffsim.model.precision import load_precision
from ffsim.model.spec import load_model

H800, PROFILE = load_part(Gpu, "h800-sxm"), load_profile("h800-sxm")
H200_PROFILE = load_profile("h200-sxm")
MACHINE = Machine(peak_flop_per_s=1e15, memory_bytes_per_s=3e12, host_bytes_per_s=5e10, sms=132, sms_used=132)
SIZES = st.integers(64, 16384)


def table(*rows):
    return Operators.of(rows)


def one_gemm_s(m, n, k, machine=MACHINE):
    return gemm_s(PROFILE.kernel("gemm", "bf16").parameters, machine, table(product(m, n, k, "bf16")))[0]


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
    fewer = replace(MACHINE, sms_used=sms)
    assert one_gemm_s(m, n, k, fewer) >= one_gemm_s(m, n, k) * 0.999


HEADS = st.sampled_from([4, 16, 64, 128])
LENGTHS = st.sampled_from([256, 1024, 4096, 16384])


def one_attention_s(heads, length, **options):
    row = attention(Heads(batch=1, heads=heads, kv_heads=heads, qk=128, v=128), length, "bf16", **options)
    kernel = H200_PROFILE.kernel(row.family, "bf16")
    return attention_s(kernel.parameters, MACHINE, table(row), 5 if options.get("backward") else 2)[0], row.flop


@given(heads=HEADS, length=LENGTHS, backward=st.booleans())
def test_attention_keeps_its_laws(heads, length, backward):
    seconds, flop = one_attention_s(heads, length, backward=backward)
    assert seconds > flop / MACHINE.peak_flop_per_s
    assert one_attention_s(heads, length, backward=backward, causal=False)[0] >= seconds
    assert one_attention_s(2 * heads, length, backward=backward)[0] >= seconds
    assert one_attention_s(heads, 2 * length, backward=backward)[0] > seconds


@given(batch=st.integers(1, 256), cached=st.sampled_from([128, 1024, 16384]))
def test_decoding_reads_the_whole_cache_and_grows_with_it(batch, cached):
    def seconds(batch, cached):
        row = decode(Heads(batch=batch, heads=64, kv_heads=8, qk=128, v=128), cached, 4096.0, "bf16")
        kernel = H200_PROFILE.kernel("attention_decode", "bf16", "torch_flow")
        return decoding_s(kernel.parameters, MACHINE, table(row))[0]

    assert seconds(batch, cached) > batch * cached * 4096 / MACHINE.memory_bytes_per_s
    assert seconds(batch, 2 * cached) >= seconds(batch, cached)


@pytest.mark.parametrize("name", SHELF.names())
def test_every_profile_states_how_well_it_fits(name):
    profile = load_profile(name)
    assert all(kernel.fit.rows > 0 and kernel.fit.source.ref for kernel in profile.kernels)
    own = [kernel.fit for kernel in profile.kernels if kernel.fit.held_out_median is not None]
    assert own
    assert max(fit.held_out_median for fit in own) < 0.2


@pytest.mark.parametrize("name", PARTS)
def test_profiles_models_and_tables_belong_together(name):
    """The errors that a profile records are those of today's models on today's tables, or it was not written anew."""
    profile, gpu = load_profile(name), load_part(Gpu, PARTS[name])
    own = [kernel for kernel in profile.kernels if kernel.fit.source.ref.startswith(f"measured/{name}.csv")]
    assert len(own) > 5
    for kernel in own:
        rows = undisturbed(
            worth_fitting(measured(name).select(family=kernel.family, dtype=kernel.dtype, library=kernel.library))
        )
        where = machine(gpu, kernel.dtype, Conditions())
        errors = Errors.of(modelled_calls_s(rows, replace(profile, kernels=(kernel,)), where)[0], rows.seconds)
        assert (errors.rows, errors.median) == (kernel.fit.rows, pytest.approx(kernel.fit.median_error, abs=1e-3))


def test_measured_products_move_the_same_bytes_as_derived_ones(v3_layer):
    operators, _ = v3_layer
    rows = np.flatnonzero((operators.family == "gemm") & (operators.dtype != "bf16"))
    assert len(rows) > 15
    for i in rows:
        same = product(*(int(getattr(operators, axis)[i]) for axis in "mnk"), str(operators.dtype[i]))
        assert (same.flop, same.read_bytes + same.write_bytes) == (operators.flop[i], operators.total_bytes[i])


# Rows left out of both fit and interpolation, in five folds (`python -m ffsim.compute.shipped` writes them), pooled
# over GPUs and libraries: median and P90 that the project asks for.
TARGETS = {
    "gemm bf16": (0.06, 0.15),
    "gemm fp8": (0.08, 0.20),
    "attention": (0.08, 0.20),
    "grouped": (0.10, 0.25),
}


@pytest.mark.parametrize("family", TARGETS)
def test_shapes_left_out_are_met(family):
    name, _, dtype = family.partition(" ")
    fits = [
        kernel.fit
        for gpu in PARTS
        for kernel in load_profile(gpu).kernels
        if kernel.family.startswith(name) and kernel.dtype.startswith(dtype) and kernel.fit.source.kind == "measured"
    ]
    fits = [fit for fit in fits if fit.held_out_median is not None]
    rows = [fit.rows for fit in fits]
    assert sum(rows) > 80
    assert np.average([fit.held_out_median for fit in fits], weights=rows) <= TARGETS[family][0]
    assert np.average([fit.held_out_p90 for fit in fits], weights=rows) <= TARGETS[family][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpu", "dtype", "median", "p90"), [("h100-sxm", "bf16", 0.06, 0.15), ("h800-sxm", "fp8", 0.08, 0.2)]
)
def test_whole_families_of_shapes_left_out_are_met(gpu, dtype, median, p90):
    """Every weight matrix (n, k) is in one of four groups; each group is predicted from the other three."""
    rows = measured(gpu).select(family="gemm", dtype=dtype)
    kernels = [kernel for kernel in load_profile(gpu).kernels if (kernel.family, kernel.dtype) == ("gemm", dtype)]
    _, matrix = np.unique(np.stack([rows.operators.n, rows.operators.k]), axis=1, return_inverse=True)
    where = machine(load_part(Gpu, PARTS[gpu]), dtype, Conditions())
    errors = Errors.of(held_out(rows, kernels, load_profile(gpu), where, matrix.ravel() % 4), rows.seconds)
    assert errors.median <= median
    assert errors.p90 <= p90


@given(shift=st.floats(-0.5, 0.5), away=st.floats(40.0, 100.0))
def test_residuals_are_met_where_measured_and_fade_far_away(shift, away):
    shapes = np.stack(np.meshgrid([8.0, 10.0, 12.0], [8.0, 12.0]), axis=-1).reshape(-1, 2)
    known = Residuals.of(shapes, np.full(6, shift))
    near, distance = known.predict(shapes)
    assert near == pytest.approx(shift, rel=0.1, abs=1e-6)
    assert distance == pytest.approx(0.0, abs=1e-2)
    assert known.predict(shapes + away)[0] == pytest.approx(0.0, abs=0.01)


def test_a_hundred_thousand_operators_are_timed_at_once():
    """The stated bound of 0.2 s holds on a quiet machine (`make bench` measures it); here it may be a busy one."""
    operators = random_products(100_000)
    time_operators(operators.take(np.arange(10)), H800, PROFILE, Conditions())
    start = perf_counter()
    times = time_operators(operators, H800, PROFILE, Conditions())
    assert perf_counter() - start < 2.0
    assert np.isfinite(times.seconds).all()


def random_products(count):
    rng = np.random.default_rng(0)
    m, n, k = (2 ** rng.uniform(6, 14, count) // 1 for _ in range(3))
    columns = {
        name: np.repeat(getattr(one, name), count)
        for one in [table(product(1, 1, 1, "fp8_block"))]
        for name in one.__slots__
    }
    work = {"m": m, "n": n, "k": k, "flop": 2 * m * n * k, "read_bytes": (m + n) * k, "write_bytes": 2 * m * n}
    return Operators(**{**columns, **work})


def test_each_time_says_what_it_rests_on():
    known = Row(name="q", phase="F", segment=0, family="gemm", dtype="fp8_block", m=4096, n=24576, k=1536, flop=1.0)
    near = Row(name="r", phase="F", segment=0, family="gemm", dtype="fp8_block", m=5000, n=5000, k=5000, flop=1.0)
    far = Row(name="s", phase="F", segment=0, family="gemm", dtype="fp8_block", m=9, n=9, k=900_000, flop=1.0)
    beside = Conditions(sms_for_communication=20, beside_communication=True)
    times = time_operators(table(known, near, far), H800, PROFILE, beside)
    assert [BASES[code] for code in times.basis] == ["measured", "interpolated", "extrapolated"]
    rows = measured("h800-sxm").select(family="gemm", dtype="fp8_block", beside=True)
    same = (rows.operators.m == 4096) & (rows.operators.n == 24576) & (rows.operators.k == 1536)
    assert same.sum() > 1
    assert times.seconds[0] == pytest.approx(rows.seconds[same].mean(), rel=0.05)
    alone = time_operators(table(known), H800, PROFILE, Conditions())
    assert BASES[alone.basis[0]] in {"measured", "interpolated"}
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
