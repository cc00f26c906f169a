"""Fits operator profiles to measured kernels and writes them: ``python -m ffsim.compute.calibration``.

Every shipped profile is an output of this module; a test fits them again. Where a GPU lacks rows of a family, the
family is taken over from a GPU of the same generation and the profile says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ffsim.compute.measured import Columns, measured, select
from ffsim.compute.models import Machine, attention_s, elementwise_s, gemm_s
from ffsim.compute.profile import SHELF, Attention, Elementwise, Fit, Gemm
from ffsim.config import Source, to_yaml
from ffsim.hardware import Gpu, load_part

Floats = np.ndarray[Any, Any]

_NONE = Fit(rows=0, median_error=0.0, p90_error=0.0, source=Source(ref="", kind="derived"))


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of a model on measured rows."""

    rows: int
    median: float
    p90: float

    @classmethod
    def of(cls, modelled: Floats, seen: Floats) -> Errors:
        """Errors of modelled against measured seconds."""
        errors = np.abs(modelled / seen - 1)
        return cls(len(seen), float(np.median(errors)), float(np.quantile(errors, 0.9)))

    def fit(self, ref: str, kind: str = "measured") -> Fit:
        """As a profile records it."""
        source = Source(ref=ref, kind="measured" if kind == "measured" else "derived", status="derived")
        return Fit(rows=self.rows, median_error=round(self.median, 4), p90_error=round(self.p90, 4), source=source)


def machine_of(gpu: Gpu, dtype: str, rows: Columns) -> Machine:
    """The machine a set of rows was measured on."""
    peak = gpu.peak["fp8" if dtype.startswith("fp8") else dtype].value
    sms = gpu.sms.value
    return Machine(
        peak_flop_per_s=peak,
        memory_bytes_per_s=gpu.memory_bandwidth.value,
        sms=sms,
        sms_used=int(rows["sms"][0]) if len(rows["sms"]) else sms,
    )


def gemm_bytes(rows: Columns, dtype: str) -> Floats:
    """Operand and result bytes of measured products."""
    operand = 1 if dtype.startswith("fp8") else 2
    out = 8 if dtype.endswith("wgrad") else 2
    groups = rows.get("groups", np.ones(len(rows["m"])))
    m, n, k = rows["m"], rows["n"], rows["k"]
    total: Floats = groups * ((m + n) * k * operand + m * n * out)
    return total


def gemm_rows_s(p: Gemm, where: Machine, rows: Columns, dtype: str) -> Floats:
    """Modelled seconds of measured products."""
    groups = rows.get("groups", np.ones(len(rows["m"])))
    return gemm_s(p, where, groups, rows["m"], rows["n"], rows["k"], gemm_bytes(rows, dtype))


def fit_gemm(rows: Columns, gpu: Gpu, dtype: str, ref: str) -> Gemm:
    """Fit the six parameters of a product family by least absolute log error."""
    where = machine_of(gpu, dtype, rows)

    def parameters(v: Floats) -> Gemm:
        return Gemm(
            efficiency=_between(v[0]),
            ramp=float(np.exp(v[1])),
            launch=float(np.exp(v[2])),
            memory_share=_between(v[3]),
            small_tile_penalty=float(np.exp(v[4])),
            quantisation=_between(v[5]),
            fit=_NONE,
        )

    starts = [(1.0, 5.0, np.log(4e-6), 1.0, np.log(0.1), 1.0), (1.0, 4.0, np.log(1e-5), 2.0, np.log(0.05), 0.0)]
    best = _minimise(lambda v: _log_error(gemm_rows_s(parameters(v), where, rows, dtype), rows["s"]), starts)
    found = parameters(best)
    errors = Errors.of(gemm_rows_s(found, where, rows, dtype), rows["s"])
    return replace(found, fit=errors.fit(ref))


def fit_weight_gradient(base: Gemm, rows: Columns, gpu: Gpu, slow_down: float, ref: str) -> Gemm:
    """A kernel variant known only beside communication: the base family with its own efficiency."""
    dtype = "fp8_block_wgrad"
    where = machine_of(gpu, dtype, rows)

    def parameters(v: Floats) -> Gemm:
        return replace(base, efficiency=_between(v[0]))

    def modelled(v: Floats) -> Floats:
        return gemm_rows_s(parameters(v), where, rows, dtype) * slow_down

    best = _minimise(lambda v: _log_error(modelled(v), rows["s"]), [(0.0,), (1.0,)])
    return replace(parameters(best), fit=Errors.of(modelled(best), rows["s"]).fit(ref))


def _one_a_shape(rows: Columns, columns: tuple[str, ...]) -> Columns:
    """The mean of the times of every shape, so that a shape measured often weighs no more than others."""
    shapes = np.stack([rows[name].astype(float) for name in columns], axis=1)
    _, first, group = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
    mean = np.bincount(group.ravel(), weights=rows["s"]) / np.bincount(group.ravel())
    return {**{name: values[first] for name, values in rows.items()}, "s": mean}


def attention_flop(rows: Columns, direction: str) -> Floats:
    """Useful work of measured attention: two products forward; five backward, the scores being computed again."""
    s, qk, v = rows["sequence"], rows["qk_width"], rows["v_width"]
    useful = np.where(rows["causal"] == 1, (s + 1) / (2 * s), 1.0)
    width = qk + v if direction == "forward" else 3 * qk + 2 * v
    total: Floats = 2 * rows["heads"] * s * s * width * useful
    return total


def attention_rows_s(p: Attention, where: Machine, rows: Columns, direction: str) -> Floats:
    """Modelled seconds of measured attention."""
    return attention_s(p, where, rows["heads"], rows["sequence"], attention_flop(rows, direction))


def fit_attention(rows: Columns, gpu: Gpu, direction: str, ref: str, launch: float | None = None) -> Attention:
    """Fit the three parameters of fused attention; only two where the launch is given, for lack of short sequences."""
    where = machine_of(gpu, "bf16", rows)
    where = replace(where, sms_used=where.sms)
    rows = {**rows, "s": rows["s"] * rows["sms"] / where.sms}  # bound by arithmetic: as if on every SM
    rows = _one_a_shape(rows, ("heads", "sequence", "qk_width", "v_width", "causal"))

    def parameters(v: Floats) -> Attention:
        return Attention(
            efficiency=_between(v[0]),
            launch=float(np.exp(v[1])) if launch is None else launch,
            ramp=float(np.exp(v[2])),
            fit=_NONE,
        )

    starts = [(0.3, np.log(1e-5), np.log(300.0)), (0.5, np.log(3e-5), np.log(50.0))]
    best = _minimise(lambda v: _log_error(attention_rows_s(parameters(v), where, rows, direction), rows["s"]), starts)
    found = parameters(best)
    return replace(found, fit=Errors.of(attention_rows_s(found, where, rows, direction), rows["s"]).fit(ref))


def fit_elementwise(rows: Columns, gpu: Gpu, launch: float, ref: str) -> Elementwise:
    """Fit the share of the memory bandwidth that element-wise kernels reach; the launch is given."""
    where = machine_of(gpu, "bf16", rows)
    ones = np.ones(len(rows["s"]))

    def parameters(v: Floats) -> Elementwise:
        return Elementwise(memory_share=_between(v[0]), launch=launch, fit=_NONE)

    best = _minimise(
        lambda v: _log_error(elementwise_s(parameters(v), where, rows["bytes"], ones), rows["s"]), [(1.0,), (2.0,)]
    )
    found = parameters(best)
    return replace(found, fit=Errors.of(elementwise_s(found, where, rows["bytes"], ones), rows["s"]).fit(ref))


def ratio(seen: Floats, modelled: Floats) -> tuple[float, float, float]:
    """Median and quartiles of measured over modelled time."""
    low, middle, high = np.quantile(seen / modelled, [0.25, 0.5, 0.75])
    return float(middle), float(low), float(high)


def _between(v: float) -> float:
    """The real line onto (0, 1)."""
    return float(1 / (1 + np.exp(-v)))


def _log_error(modelled: Floats, seen: Floats) -> float:
    return float(np.mean(np.abs(np.log(modelled / seen))))


def _minimise(loss: Callable[[Floats], float], starts: Sequence[tuple[float, ...]]) -> Floats:
    from scipy.optimize import minimize  # noqa: PLC0415 - a development dependency: profiles ship fitted

    options: Any = {"maxiter": 6000, "xatol": 1e-5, "fatol": 1e-8, "adaptive": True}
    results = [minimize(loss, np.array(start), method="Nelder-Mead", options=options) for start in starts]
    best: Floats = min(results, key=lambda result: float(result.fun)).x
    return best


# --- the shipped profiles ---------------------------------------------------------------------------------------------

AICONFIGURATOR = "aiconfigurator-core 0.12.0 measured kernels"
TRACE = "deepseek-ai/profile-data train.json, one DualPipe pair on H800 (112 SMs computing, 20 communicating)"
H200 = "one H200, PyTorch 2.11, 2026-11-21"
L2_BYTES = 1e8  # smaller copies stay in the L2 cache and say nothing about the memory
LAUNCH_S = 3e-6  # tiny kernels in DeepSeek's trace; the gap to the next kernel is not part of it
A100_PCIE_SHARE = 220 / 263  # arXiv 2408.14158 Table II: the same FP16 GEMM on the PCIe and the SXM card


PARTS = {"h800-sxm": "h800-sxm", "h100-sxm": "h100-sxm", "h200-sxm": "h200-sxm", "a100-sxm": "a100-sxm-80gb"}
MEASURED_DTYPES = {
    "h800-sxm": ("fp8", "fp8_block"),
    "h100-sxm": ("bf16", "fp8", "fp8_block"),
    "h200-sxm": ("bf16", "fp8", "fp8_block"),
    "a100-sxm": ("bf16",),
}


def _gemm_refs(gpu: str, dtype: str) -> str:
    sources = sorted(set(select(measured("gemm"), gpu=gpu, dtype=dtype, beside=0)["source"].tolist()))
    return f"{gpu} {dtype} rows of measured/gemm.csv ({', '.join(sources)})"


def _alone(table: Columns, **wanted: object) -> Columns:
    return select(table, beside=0, **wanted)


def _gemm(name: str, gpu: Gpu, dtype: str) -> Gemm:
    return fit_gemm(_alone(measured("gemm"), gpu=name, dtype=dtype), gpu, dtype, _gemm_refs(name, dtype))


def _figure(middle: float, low: float, high: float, ref: str, kind: str = "derived") -> dict[str, Any]:
    status = {"derived": "derived", "assumed": "assumed", "measured": "measured"}[kind]
    return {
        "value": round(middle, 4),
        "low": round(min(low, middle), 4),
        "high": round(max(high, middle), 4),
        "source": {"ref": ref, "kind": kind, "status": status},
    }


def _taken_over(fit: Any, from_gpu: str) -> Any:
    source = replace(fit.fit.source, ref=f"taken over from {from_gpu}: {fit.fit.source.ref}", kind="derived")
    return replace(fit, fit=replace(fit.fit, source=source))


def build_profiles() -> dict[str, dict[str, Any]]:
    """Fit every shipped profile; plain data, ready to be written."""
    gpus = {name: load_part(Gpu, part) for name, part in PARTS.items()}
    large = {
        name: values[measured("elementwise")["bytes"] > L2_BYTES] for name, values in measured("elementwise").items()
    }
    h200 = gpus["h200-sxm"]
    elementwise = fit_elementwise(_alone(large, gpu="h200-sxm"), h200, LAUNCH_S, f"copies and SiLU, {H200}")
    gemm = {
        name: {dtype: _gemm(name, gpus[name], dtype) for dtype in dtypes} for name, dtypes in MEASURED_DTYPES.items()
    }
    gemm["h800-sxm"]["bf16"] = _taken_over(gemm["h100-sxm"]["bf16"], "h100-sxm")
    beside = _beside(gpus["h800-sxm"], gemm["h800-sxm"]["fp8_block"], elementwise)
    _add_weight_gradients(gemm, gpus["h800-sxm"], beside["gemm"]["value"])
    forward, backward = _attention_families(gpus)
    profiles: dict[str, dict[str, Any]] = {}
    for name in gpus:
        own_rows = name == "h200-sxm"
        profiles[name] = {
            "kind": "operator_profile",
            "title": f"NVIDIA {name.upper().replace('-', ' ')}",
            "gpu": name,
            "gemm": {dtype: _plain(gemm[name][dtype]) for dtype in sorted(gemm[name])},
            "grouped": _grouped_over_dense(gemm, gpus, "h200-sxm" if own_rows else "h800-sxm"),
            "attention_forward": _plain(forward[name]),
            "attention_backward": _plain(backward[name] if own_rows else _taken_over(backward[name], "h200-sxm")),
            "elementwise": _plain(elementwise if own_rows else _taken_over(elementwise, "h200-sxm")),
            "beside_communication": beside,
        }
    profiles["a100-pcie"] = _a100_pcie(profiles["a100-sxm"])
    return profiles


def _attention_families(gpus: dict[str, Gpu]) -> tuple[dict[str, Attention], dict[str, Attention]]:
    """Forward and backward attention of every GPU; backward was measured on the H200 only.

    The H800 has no short sequences to tell its launch by and takes the H100's; the A100 takes the share of the forward
    rate that the backward reaches on the H200.
    """
    table = measured("attention")

    def fit(name: str, direction: str, ref: str, launch: float | None = None) -> Attention:
        return fit_attention(select(table, gpu=name, direction=direction), gpus[name], direction, ref, launch)

    forward = {
        name: fit(name, "forward", f"{name} rows of measured/attention.csv") for name in gpus if name != "h800-sxm"
    }
    ref = "h800-sxm rows of measured/attention.csv, launch as on h100-sxm"
    forward["h800-sxm"] = fit("h800-sxm", "forward", ref, forward["h100-sxm"].launch)
    hopper = fit("h200-sxm", "backward", f"attention backward, {H200}")
    share = hopper.efficiency / forward["h200-sxm"].efficiency
    a100 = replace(hopper, efficiency=forward["a100-sxm"].efficiency * share)
    return forward, {name: a100 if name == "a100-sxm" else hopper for name in gpus}


def _add_weight_gradients(gemm: dict[str, dict[str, Gemm]], h800: Gpu, slow_down: float) -> None:
    """Block-FP8 weight gradients: measured on the H800, the same share of the forward rate on the other Hoppers."""
    rows = select(measured("gemm"), gpu="h800-sxm", dtype="fp8_block_wgrad")
    base = gemm["h800-sxm"]["fp8_block"]
    wgrad = fit_weight_gradient(base, rows, h800, slow_down, f"weight-gradient products, {TRACE}")
    gemm["h800-sxm"]["fp8_block_wgrad"] = wgrad
    for name in ("h100-sxm", "h200-sxm"):
        own = gemm[name]["fp8_block"]
        scaled = replace(own, efficiency=own.efficiency * (wgrad.efficiency / base.efficiency), fit=wgrad.fit)
        gemm[name]["fp8_block_wgrad"] = _taken_over(scaled, "h800-sxm (same share of the forward rate)")


def _grouped_over_dense(gemm: dict[str, dict[str, Gemm]], gpus: dict[str, Gpu], measured_on: str) -> dict[str, Any]:
    """Grouped products over the dense model, on the GPU where they were measured."""
    dtype = "bf16" if measured_on == "h200-sxm" else "fp8_block"
    rows = _alone(measured("grouped_gemm"), gpu=measured_on, dtype=dtype)
    gpu = gpus[measured_on]
    found = ratio(rows["s"], gemm_rows_s(gemm[measured_on][dtype], machine_of(gpu, dtype, rows), rows, dtype))
    ref = {
        "h200-sxm": f"grouped BF16 products over the dense model, {H200}",
        "h800-sxm": "h800-sxm grouped FP8 products over the dense model (InferSim, DeepGEMM)",
    }[measured_on]
    return _figure(*found, ref=ref)


def _beside(gpu: Gpu, gemm: Gemm, elementwise: Elementwise) -> dict[str, Any]:
    """Slow-down of kernels beside communication: DeepSeek's trace over the same kernels modelled alone on 112 SMs."""
    rows = select(measured("gemm"), gpu="h800-sxm", dtype="fp8_block", beside=1)
    product = ratio(rows["s"], gemm_rows_s(gemm, machine_of(gpu, "fp8_block", rows), rows, "fp8_block"))
    rows = select(measured("elementwise"), gpu="h800-sxm", beside=1)
    where = machine_of(gpu, "bf16", rows)
    memory = ratio(rows["s"], elementwise_s(elementwise, where, rows["bytes"], np.ones(len(rows["s"]))))
    ref = f"median and quartiles of measured over modelled alone, {TRACE}"
    return {
        "gemm": _figure(*product, ref=ref),
        "elementwise": _figure(*memory, ref=ref),
    }


def _a100_pcie(sxm: dict[str, Any]) -> dict[str, Any]:
    """The SXM card's kernels; what the tensor cores bound is slower by what one product shows."""

    def slower(fitted: dict[str, Any]) -> dict[str, Any]:
        ref = f"220/263 (arXiv 2408.14158 Table II, one product) of {fitted['fit']['source']['ref']}"
        source = {"ref": ref, "kind": "derived", "status": "derived"}
        efficiency = round(fitted["efficiency"] * A100_PCIE_SHARE, 4)
        return {**fitted, "efficiency": efficiency, "fit": {**fitted["fit"], "source": source}}

    return {
        **sxm,
        "title": "NVIDIA A100 PCIe",
        "gpu": "a100-pcie",
        "gemm": {dtype: slower(fitted) for dtype, fitted in sxm["gemm"].items()},
        "attention_forward": slower(sxm["attention_forward"]),
        "attention_backward": slower(sxm["attention_backward"]),
    }


def _plain(value: Gemm | Attention | Elementwise) -> dict[str, Any]:
    """A parameter set as the profile file writes it."""
    data = asdict(value)
    fitted = data.pop("fit")
    fitted["source"] = {key: text for key, text in fitted["source"].items() if text}
    plain = {key: float(f"{number:.4g}") for key, number in data.items()}
    return {**plain, "launch": f"{data['launch'] * 1e6:.4g} us", "fit": fitted}


def write_profiles(folder: Path = SHELF.installed) -> None:
    """Fit and write every shipped profile."""
    for name, profile in build_profiles().items():
        text = "# Written by `python -m ffsim.compute.calibration`; do not edit by hand.\n" + to_yaml(profile)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_profiles()
