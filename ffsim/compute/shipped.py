"""Fits the profiles that ship with ffsim to the shipped kernels and writes them: ``python -m ffsim.compute.shipped``.

Where a GPU lacks rows of a family, the family is taken over from a GPU of the same generation and the profile says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ffsim.compute.fitting import STARTS, Errors, Options, fit_kernel, folds, held_out, issue_s
from ffsim.compute.measured import Measured, measured
from ffsim.compute.models import Machine
from ffsim.compute.profile import SHELF, Attention, Beside, Kernel, OperatorProfile, Products, plain
from ffsim.compute.timing import Conditions, find_kernel, kinds, machine, modelled_calls_s
from ffsim.compute.training_kernels import ampere_kernels, is_training_kernel, ordinary, with_training_kernels
from ffsim.config import Figure, Source, to_yaml
from ffsim.hardware import Gpu, load_part
from ffsim.model.operators import Family
from ffsim.model.precision import Dtype

PARTS = {"a100-sxm": "a100-sxm-80gb", "h100-sxm": "h100-sxm", "h200-sxm": "h200-sxm", "h800-sxm": "h800-sxm"}
TRACE = "deepseek-ai/profile-data train.json, one DualPipe pair on H800 (112 SMs computing, 20 communicating)"
A100_PCIE_SHARE = 220 / 263  # arXiv 2408.14158 Table II: the same FP16 GEMM on the PCIe and the SXM card
L2_BYTES = 1e8  # smaller copies stay in the L2 cache and say nothing about the memory
KERNEL_LAUNCH_S = 3e-6  # tiny kernels in DeepSeek's trace; the gap to the next kernel is not part of it

# Preferred libraries first; what one product call of a library does besides multiplying.
PREFERRED = ("deepgemm", "flash_attn3", "torch", "torch_flow", "default")
CASTS = frozenset({("torch_flow", "fp8"), ("torch_flow", "fp8_block")})
SPLITS_K = frozenset({"torch", "torch_flow", "vllm_default", "sglang", "sglang_torch_linear"})
LIKE = {  # too few rows for a fit of their own: start from a sister's and fit only these
    ("grouped_gemm", "torch"): ("efficiency", "memory_share", "ramp", "launch"),
    ("grouped_gemm", "deepgemm-feb25"): ("efficiency",),
    ("grouped_gemm", "deepgemm-apr25"): ("efficiency",),
    ("gemm", "deepgemm-feb25"): ("efficiency", "launch", "ramp"),
    ("gemm", "deepgemm-apr25"): ("efficiency",),
    ("attention_forward", "flash_attn3"): ("efficiency",),
    ("attention_backward", "flash_attn3"): ("efficiency",),
}


def build_profiles() -> dict[str, OperatorProfile]:
    """Fit every shipped profile."""
    profiles: dict[str, OperatorProfile] = {}
    for name in ("h100-sxm", "h200-sxm", "h800-sxm", "a100-sxm"):
        profiles[name] = _fitted(name, profiles)
    for name in ("h100-sxm", "h200-sxm", "a100-sxm"):
        profiles[name] = replace(profiles[name], beside_communication=profiles["h800-sxm"].beside_communication)
    hopper, h800 = profiles["h200-sxm"], profiles["h800-sxm"]
    profiles["h800-sxm"] = _completed(h800, profiles["h100-sxm"], hopper)
    profiles["h100-sxm"] = _completed(profiles["h100-sxm"], hopper, h800)
    profiles["h200-sxm"] = _completed(hopper, h800, profiles["h100-sxm"])
    profiles["a100-sxm"] = _completed(_ampere_backward(profiles["a100-sxm"], hopper), hopper)
    profiles["a100-pcie"] = _a100_pcie(profiles["a100-sxm"])
    return with_training({name: _with_narrow_heads(profile, hopper) for name, profile in profiles.items()})


def with_training(profiles: dict[str, OperatorProfile]) -> dict[str, OperatorProfile]:
    """The profiles with what training without flash attention, in TF32 or of convolutional models runs."""
    hopper = with_training_kernels(profiles["h200-sxm"], load_part(Gpu, PARTS["h200-sxm"]))
    taken = tuple(_taken_over(kernel, hopper.gpu) for kernel in hopper.kernels if is_training_kernel(kernel))
    extended = {"h200-sxm": hopper}
    for name in ("h100-sxm", "h800-sxm"):
        formats = load_part(Gpu, PARTS[name]).peak
        known = tuple(kernel for kernel in taken if kernel.dtype in formats)
        extended[name] = replace(profiles[name], kernels=(*profiles[name].kernels, *known))
    for name in ("a100-sxm", "a100-pcie"):
        extended[name] = ampere_kernels(profiles[name], hopper)
    return {name: extended[name] for name in profiles}


def _fitted(name: str, others: dict[str, OperatorProfile]) -> OperatorProfile:
    """A profile of what was measured on a GPU itself."""
    gpu = load_part(Gpu, PARTS[name])
    profile = OperatorProfile(
        kind="operator_profile",
        title=gpu.title,
        gpu=name,
        kernels=(),
        beside_communication=Beside(gemm=_one(), elementwise=_one()),
    )
    table = ordinary(measured(name))
    for _, dtype, rows in kinds(table.operators):
        own = worth_fitting(table.take(rows))
        where = machine(gpu, dtype, Conditions())
        known = tuple(_libraries(own, profile, where, others))
        if known:
            known = tuple(_with_held_out(known, own, profile, where))
        profile = replace(profile, kernels=profile.kernels + known)
    if name != "h800-sxm":
        return profile
    profile = _with_beside(profile, gpu, others["h200-sxm"])
    bases: dict[tuple[Family, Dtype], Kernel] = {
        ("gemm", "fp8_block_wgrad"): find_kernel(profile, "gemm", "fp8_block"),
        ("grouped_gemm", "fp8_block_wgrad"): find_kernel(profile, "grouped_gemm", "fp8_block"),
    }
    seen = tuple(_only_beside(profile, gpu, base, *kind) for kind, base in bases.items())
    return replace(profile, kernels=profile.kernels + seen)


def worth_fitting(rows: Measured) -> Measured:
    """Without copies that never leave the L2 cache."""
    streams = rows.operators.family[0] == "elementwise"
    return rows.take(rows.operators.total_bytes > L2_BYTES) if streams else rows


def _libraries(
    rows: Measured, profile: OperatorProfile, where: Machine, others: dict[str, OperatorProfile]
) -> Iterator[Kernel]:
    """The kernels of every library that timed a family alone, the preferred first."""
    alone = undisturbed(rows)
    names = {alone.contexts[number].library for number in alone.context}
    known: list[Kernel] = []
    for library in sorted(names, key=lambda name: (_rank(name), name)):
        own = alone.select(library=library)
        kernel = fit_kernel(own, _options(own, library, profile, known, others), profile, where, _source(own, profile))
        known.append(kernel)
        yield kernel


def undisturbed(rows: Measured) -> Measured:
    """Calls alone on the GPU; attention is not slowed by communication beside it beyond the SMs it loses."""
    return rows if str(rows.operators.family[0]).startswith("attention") else rows.select(beside=False)


def _rank(library: str) -> int:
    return PREFERRED.index(library) if library in PREFERRED else len(PREFERRED)


def _options(
    rows: Measured, library: str, profile: OperatorProfile, known: list[Kernel], others: dict[str, OperatorProfile]
) -> Options:
    family, dtype = str(rows.operators.family[0]), str(rows.operators.dtype[0])
    issue = issue_s(measured(profile.gpu).select(family=family, dtype=dtype, library=library))
    if family == "elementwise":
        return Options(start=_streaming(), free=("share",), issue=issue)
    if (family, library) in LIKE:
        return Options(start=_sister(family, dtype, profile, known, others), free=LIKE[family, library], issue=issue)
    return Options(casts=(library, dtype) in CASTS, split_k=library in SPLITS_K, issue=issue)


def _streaming() -> Any:
    return replace(STARTS["streaming"][0], launch=KERNEL_LAUNCH_S)


def _sister(
    family: str, dtype: str, profile: OperatorProfile, known: list[Kernel], others: dict[str, OperatorProfile]
) -> Any:
    """Where a library with few rows starts: its own GPU's dense products, or the same family on another GPU."""
    if known:
        return known[0].parameters
    if family == "grouped_gemm":
        dense = profile.kernel("gemm", dtype)
        assert dense is not None
        return replace(_products(dense), split_k=False)
    if family == "attention_backward":  # PyTorch's loses most to wide heads, FlashAttention 3 does not
        return replace(_attention(find_kernel(others["h200-sxm"], family, dtype)), wide=0.0)
    return find_kernel(others["h100-sxm"], family, dtype, "default").parameters


def _with_held_out(
    kernels: tuple[Kernel, ...], rows: Measured, profile: OperatorProfile, where: Machine
) -> Iterator[Kernel]:
    """The kernels with their errors on rows left out."""
    alone = undisturbed(rows)
    if len(np.unique(folds(alone))) == 1:  # one shape: nothing to tell it from
        yield from kernels
        return
    seconds = held_out(alone, kernels, profile, where)
    for kernel in kernels:
        own = np.array([alone.contexts[number].library == kernel.library for number in alone.context])
        errors = Errors.of(seconds[own], alone.seconds[own])
        fit = replace(kernel.fit, held_out_median=round(errors.median, 4), held_out_p90=round(errors.p90, 4))
        yield replace(kernel, fit=fit)


def _source(rows: Measured, profile: OperatorProfile) -> Source:
    names = ", ".join(sorted(set(rows.source.tolist())))
    return Source(ref=f"measured/{profile.gpu}.csv ({names})", kind="measured", status="derived")


# --- beside communication, and what was measured only there -----------------------------------------------------------


def _one() -> Figure[float]:
    return Figure(value=1.0, source=Source(ref="not measured", kind="derived", status="derived"))


def _with_beside(profile: OperatorProfile, gpu: Gpu, h200: OperatorProfile) -> OperatorProfile:
    """Slow-down of kernels beside communication: DeepSeek's trace over the same kernels modelled alone on 112 SMs."""
    found = {}
    products = find_kernel(profile, "gemm", "fp8_block")
    for family, kernel in (("gemm", products), ("elementwise", find_kernel(h200, "elementwise", "bf16"))):
        rows = measured(profile.gpu).select(family=family, dtype=kernel.dtype, beside=True)
        alone = replace(profile, kernels=(kernel,))
        modelled = modelled_calls_s(rows, alone, machine(gpu, kernel.dtype, Conditions()))[0]
        found[family] = _quartiles(rows.seconds / modelled)
    return replace(profile, beside_communication=Beside(**found))


def _quartiles(ratio: Any) -> Figure[float]:
    low, middle, high = (round(float(value), 4) for value in np.quantile(ratio, [0.25, 0.5, 0.75]))
    ref = f"median and quartiles of measured over modelled alone, {TRACE}"
    source = Source(ref=ref, kind="derived", status="derived")
    return Figure(value=middle, low=low, high=high, source=source)


def _only_beside(profile: OperatorProfile, gpu: Gpu, base: Kernel, family: Family, dtype: Dtype) -> Kernel:
    """Kernels that were timed only beside communication: those of another format, but as efficient as seen."""
    rows = measured(profile.gpu).select(family=family, dtype=dtype, beside=True)
    options = Options(start=base.parameters, free=("efficiency",))
    source = Source(ref=f"{family} {dtype}, {TRACE}", kind="measured", status="derived")
    return fit_kernel(rows, options, profile, machine(gpu, dtype, Conditions()), source)


# --- what a GPU lacks -------------------------------------------------------------------------------------------------


def _completed(profile: OperatorProfile, *others: OperatorProfile) -> OperatorProfile:
    """The profile with the families it lacks taken over from others, first come first served."""
    for other in others:
        have = {(kernel.family, kernel.dtype) for kernel in profile.kernels}
        formats = load_part(Gpu, PARTS[profile.gpu]).peak
        lacking = [
            kernel
            for kernel in other.kernels
            if (kernel.family, kernel.dtype) not in have and kernel.dtype.partition("_")[0] in formats
        ]
        first = {(kernel.family, kernel.dtype): kernel for kernel in reversed(lacking)}
        taken = tuple(_taken_over(kernel, other.gpu) for kernel in first.values())
        profile = replace(profile, kernels=profile.kernels + taken)
    return profile


def _taken_over(kernel: Kernel, gpu: str) -> Kernel:
    if kernel.fit.source.ref.startswith("taken over"):
        return kernel
    source = replace(kernel.fit.source, ref=f"taken over from {gpu}: {kernel.fit.source.ref}", kind="derived")
    return replace(kernel, fit=replace(kernel.fit, source=source))


def _ampere_backward(a100: OperatorProfile, h200: OperatorProfile) -> OperatorProfile:
    """Attention backward on the A100: the share of the forward rate that it reaches on the H200."""
    there = find_kernel(h200, "attention_backward", "bf16")
    share = _attention(there).efficiency / _attention(find_kernel(h200, "attention_forward", "bf16")).efficiency
    efficiency = _attention(find_kernel(a100, "attention_forward", "bf16")).efficiency * share
    parameters = replace(_attention(there), efficiency=float(f"{efficiency:.4g}"))
    backward = _taken_over(replace(there, parameters=parameters), "h200-sxm (its share of the forward rate)")
    return replace(a100, kernels=(*a100.kernels, backward))


def _attention(kernel: Kernel) -> Attention:
    assert isinstance(kernel.parameters, Attention)
    return kernel.parameters


def _products(kernel: Kernel) -> Products:
    assert isinstance(kernel.parameters, Products)
    return kernel.parameters


def _with_narrow_heads(profile: OperatorProfile, h200: OperatorProfile) -> OperatorProfile:
    """What narrow heads cost libraries that were timed with heads of one width: as much as PyTorch on the H200."""

    def narrowed(kernel: Kernel) -> Kernel:
        if not isinstance(kernel.parameters, Attention) or kernel.parameters.narrow > 0:
            return kernel
        narrow = _attention(find_kernel(h200, kernel.family, "bf16", "torch")).narrow
        source = replace(kernel.fit.source, ref=f"{kernel.fit.source.ref}; narrow heads as torch on h200-sxm")
        parameters = replace(kernel.parameters, narrow=narrow)
        return replace(kernel, parameters=parameters, fit=replace(kernel.fit, source=source))

    return replace(profile, kernels=tuple(map(narrowed, profile.kernels)))


def _a100_pcie(sxm: OperatorProfile) -> OperatorProfile:
    """The SXM card's kernels; what the tensor cores bound is slower by what one product shows."""

    def slower(kernel: Kernel) -> Kernel:
        if not isinstance(kernel.parameters, Products | Attention):
            return _taken_over(kernel, "a100-sxm")
        ref = f"220/263 (arXiv 2408.14158 Table II, one product) of {kernel.fit.source.ref}"
        efficiency = float(f"{kernel.parameters.efficiency * A100_PCIE_SHARE:.4g}")
        fit = replace(kernel.fit, source=Source(ref=ref, kind="derived", status="derived"))
        return replace(kernel, parameters=replace(kernel.parameters, efficiency=efficiency), fit=fit)

    return replace(sxm, title="NVIDIA A100 PCIe", gpu="a100-pcie", kernels=tuple(map(slower, sxm.kernels)))


# --- files ------------------------------------------------------------------------------------------------------------


def write_profiles(folder: Path = SHELF.installed) -> None:
    """Fit and write every shipped profile."""
    for name, profile in build_profiles().items():
        text = "# Written by `python -m ffsim.compute.shipped`; do not edit by hand.\n" + to_yaml(plain(profile))
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_profiles()
