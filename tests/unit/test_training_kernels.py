"""What training without flash attention, in TF32 or of convolutional models runs, against what was measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ffsim.compute import Conditions, find_kernel, host_issue_s, load_profile, time_operators
from ffsim.compute.calibrate import calibrate
from ffsim.compute.measured import measured
from ffsim.compute.timing import machine, model_s, operator_name
from ffsim.compute.training_kernels import ampere_kernels
from ffsim.compute.work import operator, product
from ffsim.errors import ModelDomainError
from ffsim.hardware import Gpu, load_part
from ffsim.model.operators import Operators
from ffsim.model.pieces import Workpiece, lower_piece
from ffsim.model.precision import load_precision
from ffsim.model.spec import load_any_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "device" / "h200"
H200, H200_PROFILE = load_part(Gpu, "h200-sxm"), load_profile("h200-sxm")
PCIE, SXM = load_part(Gpu, "a100-pcie-40gb"), load_part(Gpu, "a100-sxm-80gb")
SQUARES = (2048, 4096, 8192, 16384)


def seconds(gpu, *rows):
    return time_operators(Operators.of(rows), gpu, load_profile(gpu.profile), Conditions()).seconds


def rates(gpu, dtype):
    rows = [product(side, side, side, dtype) for side in SQUARES]
    return Operators.of(rows).flop / seconds(gpu, *rows) / 1e12


# --- batches of products ----------------------------------------------------------------------------------------------


def test_a_batch_shares_its_waves():
    one, many, grouped = (
        Operators.of([product(256, 64, 256, "bf16", **counts)]) for counts in ({}, {"batch": 64}, {"groups": 64})
    )
    where, profile = machine(SXM, "bf16", Conditions()), load_profile(SXM.profile)
    kernel = find_kernel(profile, "gemm", "bf16")
    single, batch, groups = (model_s(kernel, each, where, profile, False)[0] for each in (one, many, grouped))
    assert batch == groups
    assert single < batch < 10 * single  # 64 products of two tiles are two waves over 108 SMs, not 64 launches
    assert many.flop == 64 * one.flop
    assert many.total_bytes == 64 * one.total_bytes


def test_batches_that_were_measured_are_timed_by_kernels_of_their_own():
    kernel = find_kernel(H200_PROFILE, "gemm", "bf16", batched=True)
    assert kernel.library == "torch, batched"
    assert find_kernel(H200_PROFILE, "gemm", "bf16").library == "torch"
    assert kernel.fit.held_out_median < 0.05
    assert find_kernel(load_profile("a100-sxm"), "gemm", "bf16", batched=True).library == "torch_flow"


def test_single_products_tell_the_time_of_batches_where_none_were_measured():
    """As on the A100: the H200's model of single products, which has seen no batch, on its measured batches."""
    rows = measured("h200-sxm").select(family="gemm", dtype="bf16", batched=True)
    kernel = find_kernel(H200_PROFILE, "gemm", "bf16")
    modelled = model_s(kernel, rows.operators, machine(H200, "bf16", Conditions()), H200_PROFILE, False)
    errors = np.abs(modelled / rows.seconds - 1)
    assert len(rows) == 141
    assert np.median(errors) < 0.08
    assert np.quantile(errors, 0.9) < 0.25


# --- TF32, and what the power limit allows ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "dtype", "published"), [(PCIE, "bf16", 220), (SXM, "bf16", 263), (PCIE, "tf32", 107), (SXM, "tf32", 131)]
)
def test_large_products_run_at_the_rate_that_fire_flyer_measured(gpu, dtype, published):
    found = rates(gpu, dtype)
    assert found.max() == pytest.approx(published, rel=0.01)  # arXiv 2408.14158 Table II
    assert 0.9 * published < found.mean() < published  # it does not say of which size


def test_the_power_limit_bounds_products_and_nothing_else():
    free = replace(SXM, sustained={})
    copy = operator("elementwise", read_bytes=1e9, write_bytes=1e9)
    large, small = product(16384, 16384, 16384, "bf16"), product(512, 512, 512, "bf16")
    limited, unlimited = seconds(SXM, large, small, copy), seconds(free, large, small, copy)
    assert limited[0] == pytest.approx(2 * 16384**3 / 263e12)
    assert limited[0] > unlimited[0]
    assert limited[1:].tolist() == unlimited[1:].tolist()
    with pytest.raises(ValueError, match="fp8 has no peak above it"):
        replace(SXM, sustained={"fp8": SXM.peak["bf16"]})


def test_tf32_products_follow_from_those_in_bf16():
    """The derivation for the A100, tried on the H200, where TF32 was measured: operands along the inner dimension."""
    rows = measured("h200-sxm").select(family="gemm", dtype="tf32", library="torch")
    derived = ampere_kernels(replace(H200_PROFILE, gpu="a100-sxm"), H200_PROFILE).kernels
    kernel = next(k for k in reversed(derived) if (k.family, k.dtype, k.library) == ("gemm", "tf32", "torch"))
    modelled = model_s(kernel, rows.operators, machine(H200, "tf32", Conditions()), H200_PROFILE, False)
    errors = np.abs(modelled / rows.seconds - 1)
    assert np.median(errors) < 0.12
    assert abs(np.median(modelled / rows.seconds) - 1) < 0.12


# --- convolutions -----------------------------------------------------------------------------------------------------


def test_a_step_of_vgg16_is_predicted_from_its_kernels():
    """36.64 ms measured on one H200 with 50 images in TF32, a step that nothing was fitted to; 2 us between kernels."""
    work = Workpiece(micro_batch=50, sequence_length=1, precision=load_precision("tf32"))
    pieces = [lower_piece(load_any_model("vgg16"), kind, work).operators for kind in ("convolutions", "classifier")]
    operators = Operators.concatenate(pieces)
    times = time_operators(operators, replace(H200, sustained={}), H200_PROFILE, Conditions())
    assert times.seconds.sum() + 2e-6 * len(operators) == pytest.approx(36.64e-3, rel=0.05)


def test_images_that_are_not_channels_last_are_turned():
    spec = load_any_model("vgg16")
    work = Workpiece(micro_batch=1, sequence_length=1, precision=load_precision("tf32"))
    turned, straight = (
        lower_piece(replace(spec, layout=layout), "convolutions", work).operators for layout in ("nchw", "nhwc")
    )
    passes = np.array(["turn layout" in name for name in turned.name])
    assert passes.sum() == 2 * (
        13 + 12 + 13
    )  # what each convolution and each of its gradients reads and writes in images
    assert len(turned) - len(straight) == passes.sum()
    assert turned.flop.sum() == straight.flop.sum()


# --- passes -----------------------------------------------------------------------------------------------------------


def test_passes_that_the_memory_does_not_bound_have_times_of_their_own():
    plain, softmax, dropout, norm = (
        replace(operator("elementwise", read_bytes=1e9, write_bytes=1e9), name=name, phase=phase)
        for name, phase in (
            ("feed_forward/gelu", "F"),
            ("attention/core/causal_softmax", "F"),
            ("attention/core/dropout", "F"),
            ("attention/attn_norm/layer_norm", "B"),
        )
    )
    gelu_s, softmax_s, dropout_s, norm_s = seconds(SXM, plain, softmax, dropout, norm)
    assert gelu_s < softmax_s < dropout_s < norm_s
    assert norm_s == pytest.approx(2.2 * gelu_s, rel=0.05)  # two kernels that each read both operands


def test_an_operator_computed_again_is_its_forward_pass():
    assert operator_name("attention/attn_norm/layer_norm", "B") == "layer_norm/B"
    assert operator_name("attention/attn_norm/layer_norm (recomputed)", "B") == "layer_norm/F"
    assert operator_name("attention/attn_norm/layer_norm", "R") == "layer_norm/F"
    assert operator_name("conv0_0/convolve/turn layout", "W") == "turn/F"


def test_what_a_program_does_not_fuse_takes_more_passes():
    row, product_row = operator("elementwise", read_bytes=1e9), product(4096, 4096, 4096, "bf16")
    operators, profile = Operators.of([row, product_row]), load_profile(SXM.profile)
    fused, eager = (
        time_operators(operators, SXM, profile, Conditions(elementwise_passes=passes)).seconds for passes in (1.0, 2.5)
    )
    assert (eager / fused).tolist() == [2.5, 1.0]


def test_small_passes_cost_their_launch():
    tiny = operator("elementwise", read_bytes=8.0, write_bytes=8.0)
    assert seconds(SXM, tiny)[0] == pytest.approx(3e-6, rel=1e-3)


# --- the host ---------------------------------------------------------------------------------------------------------


def test_the_host_issues_one_kernel_after_another():
    rows = [replace(operator("elementwise"), kernels=kernels) for kernels in (1, 4)]
    assert host_issue_s(Operators.of(rows), 10e-6).tolist() == pytest.approx([10e-6, 40e-6])
    with pytest.raises(ModelDomainError, match="host time per kernel"):
        host_issue_s(Operators.of(rows), float("nan"))


# --- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "medians"),
    [
        ("batched_gemm", {"batched_gemm_bf16": 0.06, "batched_gemm_tf32": 0.12}),
        ("convolutions", {"convolution_nhwc": 0.08, "convolution_nchw": 0.15}),
        ("tf32_gemm", {"gemm_bf16": 0.08, "gemm_tf32": 0.06}),
    ],
)
def test_measured_files_can_be_compared(name, medians):
    found = {each.name: each.errors.median for each in calibrate(BENCHMARKS / f"{name}.csv", "h200").families()}
    assert found.keys() - {"kernel_launch"} == medians.keys()
    assert all(found[family] < limit for family, limit in medians.items()), found
