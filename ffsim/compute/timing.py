"""Operators to seconds, and how well each time is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from ffsim.compute.interpolation import NEAR, Residuals
from ffsim.compute.measured import Context, Measured, measured
from ffsim.compute.models import ISSUE_OVERLAP, Machine, attention_s, decoding_s, gemm_s, soft_maximum, streaming_s
from ffsim.compute.profile import Attention, Decoding, Kernel, OperatorProfile, Products
from ffsim.errors import ModelDomainError, Problem
from ffsim.hardware import Gpu
from ffsim.model.operators import Family, Operators
from ffsim.model.precision import Dtype

Floats = np.ndarray[Any, Any]
Basis = Literal["measured", "interpolated", "extrapolated"]
BASES: tuple[Basis, ...] = get_args(Basis)
MEASURED, INTERPOLATED, EXTRAPOLATED = range(3)

SAME = 0.01  # octaves: the same shape up to rounding
ISSUE_BOUND = 1.5  # a kernel not this much longer than its issue says more about the host than about itself
AXES: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "grouped_gemm": ("groups", "m", "n", "k"),
    "convolution": ("m", "n", "k"),
    "attention_forward": ("groups", "m", "n", "k"),
    "attention_backward": ("groups", "m", "n", "k"),
    "attention_decode": ("groups", "m", "n", "k"),
}
"""Axes of a shape; memory-bound kernels have none: as many bytes do not make it the same kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under what conditions kernels run.

    Attributes:
        sms_for_communication: SMs that communication kernels occupy.
        beside_communication: whether communication is running meanwhile, which slows kernels beyond the lost SMs.
        elementwise_passes: time of element-wise operators over that of fused ones: 1 for hand-written and compiled
            kernels, 2.0 to 2.8 where a program runs each operation by itself (GPT layers in eager PyTorch on an H200).
    """

    sms_for_communication: int = 0
    beside_communication: bool = False
    elementwise_passes: float = 1.0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds per operator and what they rest on (index into `BASES`)."""

    seconds: Floats
    basis: np.ndarray[Any, Any]


def time_operators(operators: Operators, gpu: Gpu, profile: OperatorProfile, conditions: Conditions) -> Times:
    """Time every operator of a table.

    Args:
        operators: the table.
        gpu: peak rates, memory bandwidth, SMs.
        profile: calibrated parameters of that GPU.
        conditions: SMs in use and whether communication runs beside.

    Returns:
        ``[n_ops]`` seconds and basis: the calibrated model, corrected by what it misses at measured shapes nearby.

    Raises:
        ModelDomainError: the GPU or its profile knows nothing of a number format that the operators need.
    """
    seconds = np.zeros(len(operators))
    basis = np.full(len(operators), EXTRAPOLATED, dtype=np.int8)
    for family, dtype, rows in kinds(operators):
        where = machine(gpu, dtype, conditions)
        for kernel, own in _kernels(profile, family, dtype, operators.take(rows)):
            part, place = operators.take(rows[own]), rows[own]
            modelled = model_s(kernel, part, where, profile, conditions.beside_communication)
            seconds[place], basis[place] = modelled, EXTRAPOLATED
            if family in AXES:
                context = Context(kernel.library, conditions.beside_communication)
                correction, basis[place] = _correction(profile, where, context, part)
                seconds[place] *= np.exp(correction)
            else:
                seconds[place] *= conditions.elementwise_passes if family == "elementwise" else 1.0
                basis[place] = INTERPOLATED
        sustained = operators.flop[rows] / where.sustained_flop_per_s
        seconds[rows] = np.maximum(seconds[rows], sustained)
    return Times(seconds * _borrowed(gpu), basis)


def _kernels(
    profile: OperatorProfile, family: str, dtype: str, part: Operators
) -> Iterator[tuple[Kernel, np.ndarray[Any, Any]]]:
    """The kernels that time operators of one family and format, with the indices of those they time."""
    special = profile.named(family, dtype)
    names = [operator_name(name, phase) for name, phase in zip(part.name, part.phase, strict=True)] if special else []
    known = np.array([name in special for name in names], dtype=bool) if special else np.zeros(len(part), dtype=bool)
    if not known.all():
        yield find_kernel(profile, family, dtype, batched=is_batched(part)), np.flatnonzero(~known)
    for kernel in dict.fromkeys(special.values()):
        own = np.array([special.get(name) is kernel for name in names], dtype=bool)
        if own.any():
            yield kernel, np.flatnonzero(own)


def operator_name(name: str, phase: str) -> str:
    """How profiles name an operator: ``softmax/F`` (also where it is computed again), ``softmax/B`` its gradient."""
    last = name.rpartition("/")[2]
    operator, _, again = last.partition(" ")
    return f"{operator}/{'F' if again or phase == 'R' else phase}"


def _borrowed(gpu: Gpu) -> float:
    """Factor on the times of a GPU whose profile was measured on another."""
    return gpu.kernel_time.value if gpu.kernel_time else 1.0


def kinds(operators: Operators) -> Iterator[tuple[Family, Dtype, np.ndarray[Any, Any]]]:
    """The families and formats that occur, with the indices of their rows; batches of products apart from products."""
    for family in get_args(Family):
        rows = np.flatnonzero(operators.family == family)
        while len(rows):
            dtype = operators.dtype[rows[0]]
            same = operators.dtype[rows] == dtype
            many = operators.batch[rows] > 1
            for alike in (same & ~many, same & many):
                if alike.any():
                    yield family, str(dtype), rows[alike]  # type: ignore[misc]
            rows = rows[~same]


def is_batched(operators: Operators) -> bool:
    """Whether operators that `kinds` put together are batches of products."""
    return bool(operators.batch[0] > 1)


def machine(gpu: Gpu, dtype: str, conditions: Conditions) -> Machine:
    """The GPU as a kernel of some number format sees it."""
    form = "fp8" if dtype.startswith("fp8") else dtype
    peak, sustained = gpu.peak.get(form), gpu.sustained.get(form)
    if peak is None:
        raise ModelDomainError(
            Problem(what=f"{gpu.title} has no {dtype} rate", fix=f"use a precision within {', '.join(gpu.peak)}")
        )
    sms = gpu.sms.value
    used = sms - conditions.sms_for_communication
    if used < 1:
        raise ModelDomainError(
            Problem(
                what=f"{conditions.sms_for_communication} SMs for communication leave none of {sms} for computing",
                fix=f"use fewer than {sms}",
            )
        )
    return Machine(
        peak_flop_per_s=peak.value,
        memory_bytes_per_s=gpu.memory_bandwidth.value,
        host_bytes_per_s=gpu.host_link.value,
        sms=sms,
        sms_used=used,
        sustained_flop_per_s=sustained.value if sustained else math.inf,
    )


def find_kernel(
    profile: OperatorProfile, family: str, dtype: str, library: str = "", *, batched: bool = False
) -> Kernel:
    """The calibrated kernels of a family; another library's where the wanted one has none.

    Batches of products are timed as as many products in one launch where no batches were measured.

    Raises:
        ModelDomainError: no library has any.
    """
    kernel = profile.kernel(family, dtype, library, batched=batched) or profile.kernel(family, dtype, batched=batched)
    kernel = kernel or profile.kernel(family, dtype)
    if kernel is None:
        what = f"the operator profile of {profile.title} has no {dtype} {family.replace('_', ' ')}"
        raise ModelDomainError(Problem(what=what, fix="choose another precision or profile"))
    return kernel


def model_s(kernel: Kernel, o: Operators, where: Machine, profile: OperatorProfile, beside: bool) -> Floats:
    """Modelled seconds of operators of one family and format, by the kernel's physical model alone."""
    p, slow = kernel.parameters, profile.beside_communication
    if isinstance(p, Products):
        return gemm_s(p, where, o) * (slow.gemm.value if beside else 1.0)
    if isinstance(p, Attention):
        return attention_s(p, where, o, 2 if kernel.family == "attention_forward" else 5)
    if isinstance(p, Decoding):
        return decoding_s(p, where, o)
    if kernel.family == "host_copy":
        return streaming_s(p, where.host_bytes_per_s, o.total_bytes, o.kernels)
    seconds = streaming_s(p, where.memory_bytes_per_s * where.share, o.total_bytes, o.kernels, where.sms_used)
    return seconds * (slow.elementwise.value if beside else 1.0)


def call_s(kernel: Kernel, kernel_s: Floats) -> Floats:
    """Time of a call measured by itself: the kernel, but at least the host's issue of it."""
    return soft_maximum(kernel_s, np.full_like(kernel_s, kernel.issue), ISSUE_OVERLAP) if kernel.issue else kernel_s


def features(o: Operators, sms: Floats | int) -> Floats:
    """``[n_ops, n_axes]`` base-2 logarithms of the shape and of the SMs in use, of operators of one family."""
    axes = AXES[str(o.family[0])]
    columns = [getattr(o, axis) for axis in ((*axes, "batch") if is_batched(o) else axes)]
    logarithms: Floats = np.log2(np.stack([*columns, np.broadcast_to(sms, len(o))], axis=1).astype(float))
    return logarithms


def _correction(
    profile: OperatorProfile, where: Machine, context: Context, o: Operators
) -> tuple[Floats, np.ndarray[Any, Any]]:
    """What the model misses near each shape, as a logarithm, and what that rests on."""
    alone = replace(where, sms_used=where.sms)
    known = residuals(profile, alone, str(o.family[0]), str(o.dtype[0]), is_batched(o))
    if context not in known:
        return np.zeros(len(o)), np.full(len(o), EXTRAPOLATED)
    correction, nearest = known[context].predict(features(o, where.sms_used))
    return correction, _rests_on(nearest)


@lru_cache(maxsize=64)
def residuals(
    profile: OperatorProfile, where: Machine, family: str, dtype: str, batched: bool
) -> Mapping[Context, Residuals]:
    """Residuals of a profile on the shipped kernels of its GPU, by context."""
    rows = measured(profile.gpu).select(family=family, dtype=dtype, batched=batched)
    return residuals_on(rows, profile, where) if len(rows) else {}


def residuals_on(rows: Measured, profile: OperatorProfile, where: Machine) -> dict[Context, Residuals]:
    """Residuals of a profile on measured kernels of one family and format, by context."""
    seconds, telling = modelled_calls_s(rows, profile, where)
    shapes, residual = features(rows.operators, rows.sms), np.log(rows.seconds / seconds)
    return {
        context: Residuals.of(shapes[own & telling], residual[own & telling])
        for context, own in _by_context(rows)
        if (own & telling).any()
    }


@dataclass(frozen=True, slots=True)
class CallTimes:
    """Predicted seconds of measured calls, what they rest on, and which calls tell about their kernel."""

    seconds: Floats
    basis: np.ndarray[Any, Any]
    telling: np.ndarray[Any, Any]


def time_calls(rows: Measured, gpu: Gpu, profile: OperatorProfile) -> CallTimes:
    """Predict measured calls of any family as they were measured, the host's issue included where it was.

    Raises:
        ModelDomainError: the GPU or its profile knows nothing of a family or number format.
    """
    times = CallTimes(np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int8), np.zeros(len(rows), dtype=bool))
    for family, dtype, index in kinds(rows.operators):
        part, where = rows.take(index), machine(gpu, dtype, Conditions())
        known = residuals(profile, where, family, dtype, is_batched(part.operators)) if family in AXES else {}
        seconds, times.telling[index] = modelled_calls_s(part, profile, where, known)
        times.seconds[index] = seconds * _borrowed(gpu)
        times.basis[index] = _call_basis(part, known)
    return times


def _call_basis(rows: Measured, known: Mapping[Context, Residuals]) -> np.ndarray[Any, Any]:
    if str(rows.operators.family[0]) not in AXES:
        return np.full(len(rows), INTERPOLATED)
    basis = np.full(len(rows), EXTRAPOLATED)
    for context, own in _by_context(rows):
        if context in known:
            basis[own] = _rests_on(known[context].predict(features(rows.operators.take(own), rows.sms[own]))[1])
    return basis


def _by_context(rows: Measured) -> Iterator[tuple[Context, np.ndarray[Any, Any]]]:
    for number in np.unique(rows.context):
        yield rows.contexts[number], rows.context == number


def _rests_on(nearest: Floats) -> np.ndarray[Any, Any]:
    basis: np.ndarray[Any, Any] = np.select([nearest < SAME, nearest < NEAR], [MEASURED, INTERPOLATED], EXTRAPOLATED)
    return basis


def modelled_calls_s(
    rows: Measured, profile: OperatorProfile, where: Machine, known: Mapping[Context, Residuals] | None = None
) -> tuple[Floats, np.ndarray[Any, Any]]:
    """Modelled seconds of measured calls of one family and format.

    Args:
        rows: the calls.
        profile: calibrated parameters.
        where: the GPU on which they ran.
        known: residuals to correct the model by, none for the model alone.

    Returns:
        ``[n_ops]`` seconds, and which calls tell about the kernel rather than about the host that issued it.
    """
    family, dtype = str(rows.operators.family[0]), str(rows.operators.dtype[0])
    seconds, telling = np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
    for number, sms in sorted(set(zip(rows.context.tolist(), rows.sms.tolist(), strict=True))):
        context, own = rows.contexts[number], (rows.context == number) & (rows.sms == sms)
        o = rows.operators.take(own)
        kernel = find_kernel(profile, family, dtype, context.library, batched=is_batched(o))
        kernel_s = model_s(kernel, o, replace(where, sms_used=sms), profile, context.beside)
        if known and context in known:
            kernel_s = kernel_s * np.exp(known[context].predict(features(o, sms))[0])
        issued = rows.issued[own]
        seconds[own] = np.where(issued, call_s(kernel, kernel_s), kernel_s)
        telling[own] = ~issued | (kernel_s > ISSUE_BOUND * kernel.issue)
    return seconds, telling
