"""Operators to seconds, and how well each time is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from ffsim.compute.measured import Columns, measured, select
from ffsim.compute.models import Machine, attention_s, elementwise_s, gemm_s
from ffsim.compute.profile import OperatorProfile
from ffsim.errors import ModelDomainError, Problem
from ffsim.hardware import Gpu
from ffsim.model.operators import Family, Operators

Floats = np.ndarray[Any, Any]
Mask = np.ndarray[Any, Any]
Basis = Literal["measured", "interpolated", "extrapolated"]
BASES: tuple[Basis, ...] = get_args(Basis)

MARGIN = 2.0  # a shape within this factor of the measured ranges still counts as interpolated


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under what conditions kernels run.

    Attributes:
        sms_for_communication: SMs that communication kernels occupy.
        beside_communication: whether communication is running meanwhile, which slows kernels beyond the lost SMs.
    """

    sms_for_communication: int = 0
    beside_communication: bool = False


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
        ``[n_ops]`` seconds and basis. A shape that was measured on this GPU under these conditions gets the mean of its
        measured times; every other shape gets the calibrated model.

    Raises:
        ModelDomainError: the GPU or its profile knows nothing of a number format that the operators need.
    """
    seconds = np.zeros(len(operators))
    basis = np.zeros(len(operators), dtype=np.int8)
    for family in get_args(Family):
        for dtype in np.unique(operators.dtype[operators.family == family]):
            rows = (operators.family == family) & (operators.dtype == dtype)
            where = machine(gpu, str(dtype), conditions)
            modelled = _family_s(family, str(dtype), operators, rows, where, profile, conditions)
            shapes = _shapes(family, operators, rows)
            known = _known_s(family, str(dtype), profile.gpu, where.sms_used, conditions.beside_communication)
            exact = np.array([known.get(tuple(shape), np.nan) for shape in shapes.tolist()])
            inside = _within(family, str(dtype), shapes)
            seconds[rows] = np.where(np.isnan(exact), modelled, exact)
            basis[rows] = np.where(np.isnan(exact), np.where(inside, 1, 2), 0)
    return Times(seconds, basis)


def machine(gpu: Gpu, dtype: str, conditions: Conditions) -> Machine:
    """The GPU as a kernel of some number format sees it."""
    peak = gpu.peak.get("fp8" if dtype.startswith("fp8") else dtype)
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
    return Machine(peak_flop_per_s=peak.value, memory_bytes_per_s=gpu.memory_bandwidth.value, sms=sms, sms_used=used)


def _family_s(
    family: Family,
    dtype: str,
    o: Operators,
    rows: Mask,
    where: Machine,
    profile: OperatorProfile,
    conditions: Conditions,
) -> Floats:
    """Modelled seconds of the operators of one family and number format."""
    slow = profile.beside_communication
    if family == "elementwise":
        seconds = elementwise_s(profile.elementwise, where, o.total_bytes[rows], o.kernels[rows])
        return seconds * (slow.elementwise.value if conditions.beside_communication else 1.0)
    if family in {"attention_forward", "attention_backward"}:
        parameters = profile.attention_forward if family == "attention_forward" else profile.attention_backward
        return attention_s(parameters, where, o.groups[rows], o.m[rows], o.flop[rows])
    gemm = profile.gemm.get(dtype)
    if gemm is None:
        raise ModelDomainError(
            Problem(
                what=f"the operator profile of {profile.title} has no {dtype} products", fix="choose another precision"
            )
        )
    seconds = gemm_s(gemm, where, o.groups[rows], o.m[rows], o.n[rows], o.k[rows], o.total_bytes[rows])
    seconds = seconds * (profile.grouped.value if family == "grouped_gemm" else 1.0)
    return seconds * (slow.gemm.value if conditions.beside_communication else 1.0)


def _coverage(family: Family, dtype: str) -> tuple[Columns, tuple[str, ...]]:
    """The measured table of a family and the columns that make up a shape in it."""
    if family == "elementwise":
        return measured("elementwise"), ("bytes",)
    if family in {"attention_forward", "attention_backward"}:
        direction = family.removeprefix("attention_")
        table = select(measured("attention"), direction=direction, causal=1)
        return {**table, "width": table["qk_width"] + table["v_width"]}, ("heads", "sequence", "width")
    if family == "grouped_gemm":
        return select(measured("grouped_gemm"), dtype=dtype), ("groups", "m", "n", "k")
    return select(measured("gemm"), dtype=dtype), ("m", "n", "k")


def _shapes(family: Family, o: Operators, rows: Mask) -> Floats:
    """``[n_ops, n_columns]`` in the order of `_coverage`."""
    if family == "elementwise":
        return o.total_bytes[rows][:, None]
    columns = {
        "gemm": (o.m, o.n, o.k),
        "grouped_gemm": (o.groups, o.m, o.n, o.k),
        "attention_forward": (o.groups, o.m, o.k),
        "attention_backward": (o.groups, o.m, o.k),
    }[family]
    return np.stack([column[rows] for column in columns], axis=1)


def _stack(table: Columns, columns: tuple[str, ...]) -> Floats:
    return np.stack([table[column] for column in columns], axis=1)


@lru_cache(maxsize=256)
def _known_s(family: Family, dtype: str, gpu: str, sms: int, beside: bool) -> dict[tuple[float, ...], float]:
    """Mean measured seconds by shape, of one GPU under one set of conditions."""
    if family == "elementwise":  # as many bytes do not make it the same kernel
        return {}
    table, columns = _coverage(family, dtype)
    here = select(table, gpu=gpu, sms=sms, beside=beside)
    times: dict[tuple[float, ...], list[float]] = {}
    for shape, seconds in zip(_stack(here, columns).tolist(), here["s"].tolist(), strict=True):
        times.setdefault(tuple(shape), []).append(seconds)
    return {shape: sum(seen) / len(seen) for shape, seen in times.items()}


@lru_cache(maxsize=64)
def _ranges(family: Family, dtype: str) -> tuple[Floats, Floats] | None:
    """Smallest and largest measured shape of a family, on whatever GPU; none if nothing was measured."""
    table, columns = _coverage(family, dtype)
    known = _stack(table, columns)
    return (known.min(axis=0), known.max(axis=0)) if len(known) else None


def _within(family: Family, dtype: str, wanted: Floats) -> Mask:
    ranges = _ranges(family, dtype)
    if ranges is None:
        return np.zeros(len(wanted), dtype=bool)
    inside: Mask = np.all((wanted >= ranges[0] / MARGIN) & (wanted <= ranges[1] * MARGIN), axis=1)
    return inside
