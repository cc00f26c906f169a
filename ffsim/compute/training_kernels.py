"""Profiles extended by what training without flash attention, in TF32 or of convolutional models runs.

Fitted on the H200 where it was measured; derived from it, and from the GPU's own products, on the A100.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ffsim.compute.fitting import Errors, Options, fit_kernel, held_out
from ffsim.compute.measured import Measured, measured
from ffsim.compute.models import Machine
from ffsim.compute.operator_rows import PASSES, TRANSPOSED
from ffsim.compute.profile import BATCHED, Fit, Kernel, OperatorProfile, Products, Streaming
from ffsim.compute.timing import Conditions, find_kernel, machine, modelled_calls_s
from ffsim.config import Figure, Source
from ffsim.hardware import Gpu
from ffsim.model.precision import Dtype

CONVOLUTIONS = "cudnn"
WEIGHT_GRADIENTS = {"gemm": ("linear/W",), "convolution": ("convolve/W", "convolve_image/W")}
"""In TF32 Hopper's tensor cores want operands that lie along the inner dimension; those of weight gradients do not."""
LARGE_BYTES = 1e8  # smaller passes stay in the L2 cache or are over before they are under way
BOUND = 0.95  # of the rate in the wider format: below it arithmetic bounds a pass, not the memory
FORMATS: tuple[Dtype, ...] = ("bf16", "tf32")
AMPERE_CLOCK = Figure(
    value=1410 / 1980,
    low=1.0 * 1410 / 1980 * 0.9,
    high=1410 / 1830,
    source=Source(ref="boost clocks of the A100's and the H200's data sheets", kind="datasheet", status="recalled"),
)
TF32_SHARE = {"a100-sxm": (131 / 263, "131 of 263"), "a100-pcie": (107 / 220, "107 of 220")}
"""TF32 over FP16 rate of the same products: arXiv 2408.14158 Table II."""


def ordinary(rows: Measured) -> Measured:
    """The measured kernels that this module leaves alone."""
    o = rows.operators
    libraries = np.array([_op(context.library) in PASSES for context in rows.contexts], dtype=bool)[rows.context]
    return rows.take(~((o.batch > 1) | (o.family == "convolution") | (o.dtype == "tf32") | libraries))


def _op(library: str) -> str:
    return library.rpartition(", ")[2]


# --- measured ---------------------------------------------------------------------------------------------------------


def with_training_kernels(profile: OperatorProfile, gpu: Gpu) -> OperatorProfile:
    """The profile with the kernels that were measured on its GPU.

    Raises:
        ModelDomainError: the GPU has no rate for a format of the shipped rows.
    """
    rows = measured(profile.gpu)
    dense = find_kernel(profile, "gemm", "bf16")
    single, many = Options(start=dense.parameters), Options(start=replace(_products(dense), split_k=False))
    fresh: list[Kernel] = []
    for family, dtype, library, options in (
        ("gemm", "bf16", f"{dense.library}{BATCHED}", many),
        ("gemm", "tf32", dense.library, single),
        ("gemm", "tf32", f"{dense.library}{TRANSPOSED}", single),
        ("convolution", "bf16", CONVOLUTIONS, single),
        ("convolution", "tf32", CONVOLUTIONS, single),
        ("convolution", "tf32", f"{CONVOLUTIONS}{TRANSPOSED}", single),
    ):
        part = rows.select(family=family, dtype=dtype, library=library)
        kernel = _fitted(part, options, profile, machine(gpu, dtype, Conditions()))
        named = WEIGHT_GRADIENTS[family] if library.endswith(TRANSPOSED) else ()
        fresh.append(replace(kernel, operators=named))
    fresh += _passes(rows, profile, machine(gpu, "bf16", Conditions()))
    return replace(profile, kernels=(*profile.kernels, *fresh))


def _fitted(rows: Measured, options: Options, profile: OperatorProfile, where: Machine) -> Kernel:
    source = Source(ref=_named(rows, profile), kind="measured", status="derived")
    kernel = fit_kernel(rows, options, profile, where, source)
    errors = Errors.of(held_out(rows, (kernel,), profile, where), rows.seconds)
    fit = replace(kernel.fit, held_out_median=round(errors.median, 4), held_out_p90=round(errors.p90, 4))
    return replace(kernel, fit=fit)


def _named(rows: Measured, profile: OperatorProfile) -> str:
    return f"measured/{profile.gpu}.csv ({', '.join(sorted(set(rows.source.tolist())))})"


def _passes(rows: Measured, profile: OperatorProfile, where: Machine) -> Iterator[Kernel]:
    """Ordinary passes in TF32's wider format, then those that are slower than the memory, in both formats."""
    default = find_kernel(profile, "elementwise", "bf16")
    assert isinstance(default.parameters, Streaming)
    wide = rows.select(family="elementwise", dtype="tf32", library=default.library)
    share = round(_rate(wide) / where.memory_bytes_per_s, 4)
    yield _streamed(wide, "tf32", default.library, replace(default.parameters, share=share), profile, where)
    for op in PASSES:
        library = f"{default.library}, {op}"
        known = {dtype: rows.select(family="elementwise", dtype=dtype, library=library) for dtype in FORMATS}
        rates = {dtype: _rate(part) for dtype, part in known.items() if len(part)}
        most = min(max(rates.values()), default.parameters.share * where.memory_bytes_per_s)
        parameters = replace(default.parameters, share=round(most / where.memory_bytes_per_s, 4))
        for dtype in FORMATS:
            rate = rates.get(dtype, most)
            bound = float(f"{rate / where.sms:.4g}") if rate < BOUND * most else None
            seen = known[dtype] if dtype in rates else known["tf32"]
            yield _streamed(seen, dtype, library, replace(parameters, sm_rate=bound), profile, where, PASSES[op])


def _rate(rows: Measured) -> float:
    """Bytes per second of large passes, in the median."""
    large = rows.take(rows.operators.total_bytes > LARGE_BYTES)
    return float(np.median(large.operators.total_bytes / large.seconds))


def _streamed(
    rows: Measured,
    dtype: Dtype,
    library: str,
    parameters: Streaming,
    profile: OperatorProfile,
    where: Machine,
    operators: Sequence[str] = (),
) -> Kernel:
    """A pass of known rate, with its errors on the calls it was found from."""
    source = Source(ref=_named(rows, profile), kind="measured", status="derived")
    blank = Fit(rows=len(rows), median_error=0.0, p90_error=0.0, source=source)
    kernel = Kernel(
        family="elementwise",
        dtype=dtype,
        library=library,
        parameters=parameters,
        operators=tuple(operators),
        fit=blank,
    )
    if str(rows.operators.dtype[0]) != dtype:
        taken = replace(source, ref=f"taken over from {rows.operators.dtype[0]}: {source.ref}", kind="derived")
        return replace(kernel, fit=replace(blank, source=taken))
    large = rows.take(rows.operators.total_bytes > LARGE_BYTES)
    seconds = modelled_calls_s(large, replace(profile, kernels=(kernel,)), where)[0]
    errors = Errors.of(seconds, large.seconds)
    fit = replace(blank, rows=len(large), median_error=round(errors.median, 4), p90_error=round(errors.p90, 4))
    return replace(kernel, fit=fit)


# --- derived ----------------------------------------------------------------------------------------------------------


def ampere_kernels(profile: OperatorProfile, h200: OperatorProfile) -> OperatorProfile:
    """An A100's profile with TF32 products, convolutions in both formats and the passes of the H200.

    A product in TF32 runs the same loop over operands twice as long at half the rate: latencies span half as many
    elements of the inner dimension, and the least time of one is twice as long. (On the H200, where this was tested, it
    is off by 9 % in the median for operands that lie along the inner dimension; other operands Hopper must turn first,
    which Ampere need not.) Batches of products and convolutions are as fast as single products of their tiles: on the
    H200 the same model of single products is off by 7 % on batches and by 10 % on convolutions, in the median, without
    having seen any.
    """
    dense = find_kernel(profile, "gemm", "bf16")
    tf32 = tuple(_in_tf32(kernel, profile.gpu) for kernel in profile.kernels if _own_product(kernel))
    convolutions = tuple(_as_convolution(kernel) for kernel in (dense, tf32[0]))
    passes = tuple(_slower_clock(kernel) for kernel in h200.kernels if _training_pass(kernel))
    return replace(profile, kernels=(*profile.kernels, *tf32, *convolutions, *passes))


def is_training_kernel(kernel: Kernel) -> bool:
    """Whether `with_training_kernels` added a kernel."""
    return kernel.batched or kernel.family == "convolution" or kernel.dtype == "tf32" or _training_pass(kernel)


def _own_product(kernel: Kernel) -> bool:
    return (kernel.family, kernel.dtype) == ("gemm", "bf16")


def _training_pass(kernel: Kernel) -> bool:
    return kernel.family == "elementwise" and (kernel.dtype == "tf32" or bool(kernel.operators))


def _in_tf32(kernel: Kernel, gpu: str) -> Kernel:
    p, (share, said) = _products(kernel), TF32_SHARE[gpu]
    peaks = 156 / 312  # of the data sheet, whose ratio the rates of the profile already contain
    parameters = replace(
        p, efficiency=float(f"{p.efficiency * share / peaks:.4g}"), ramp=round(p.ramp / 2, 2), step=2 * p.step
    )
    ref = f"{said} TFLOP/s in TF32 (arXiv 2408.14158 Table II) of {kernel.fit.source.ref}"
    fit = replace(kernel.fit, source=Source(ref=ref, kind="derived", status="derived"))
    return replace(kernel, dtype="tf32", parameters=parameters, fit=fit)


def _products(kernel: Kernel) -> Products:
    assert isinstance(kernel.parameters, Products)
    return kernel.parameters


def _as_convolution(kernel: Kernel) -> Kernel:
    ref = f"implicit products as fast as dense ones, as on the h200-sxm: {kernel.fit.source.ref}"
    fit = replace(kernel.fit, source=Source(ref=ref, kind="derived", status="derived"))
    return replace(kernel, family="convolution", library=CONVOLUTIONS, fit=fit)


def _slower_clock(kernel: Kernel) -> Kernel:
    p, source = kernel.parameters, kernel.fit.source
    assert isinstance(p, Streaming)
    ref, rate = f"taken over from h200-sxm: {source.ref}", p.sm_rate
    if rate is not None:
        ref, rate = (
            f"{ref}; arithmetic slower by the clock, 1410 of 1980 MHz",
            float(f"{rate * AMPERE_CLOCK.value:.4g}"),
        )
    fit = replace(kernel.fit, source=replace(source, ref=ref, kind="derived"))
    return replace(kernel, parameters=replace(p, sm_rate=rate), fit=fit)
