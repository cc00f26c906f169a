"""Measured operators against the model: errors by family, and profiles fitted to a user's own measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ffsim.compute.cells import Case, Foreign, ForeignReader
from ffsim.compute.fitting import Errors, Options, fit_kernel, held_out, issue_s
from ffsim.compute.measured import Measured, table
from ffsim.compute.parquet import read_parquet
from ffsim.compute.profile import Kernel, OperatorProfile, load_profile, plain
from ffsim.compute.readers import Table, is_parquet, place, read_measured
from ffsim.compute.timing import BASES, EXTRAPOLATED, MEASURED, Conditions, is_batched, kinds, machine, time_calls
from ffsim.config import Source, to_yaml
from ffsim.errors import Problem, ScenarioError
from ffsim.hardware import SHELVES, Gpu, load_part

Floats = np.ndarray[Any, Any]

WORST_ROWS = 8
LAUNCH_FAMILY = "kernel_launch"
FEWEST_ROWS = 8  # to fit a family of kernels by itself
IMPOSSIBLE = 0.5  # of the time the data sheet allows: no rounding explains a shorter one
KERNEL_GAP_S = 2e-6  # between kernels of one stream: 1.83 ms in 909 gaps of deepseek-ai/profile-data train.json
CACHE_GAIN = 8.0  # of a cache's bandwidth over the memory's, generously
UNLIKELY = 100.0  # times what is modelled, in the median: another unit
MODELLED = "closed form"  # basis of rows that run over links


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One measured row and what the model says.

    Attributes:
        case: the row.
        family: under which its error counts; calls that end before the host could issue the next one say nothing of
            their kernel and count as ``kernel_launch``.
        seconds: predicted.
        basis: what the prediction rests on.
    """

    case: Case
    family: str
    seconds: float
    basis: str

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.seconds / self.case.seconds - 1

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "line": self.case.line,
            "family": self.family,
            "shape": self.case.what,
            "measured_s": self.case.seconds,
            "predicted_s": self.seconds,
            "error_frac": self.error,
            "basis": self.basis,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Errors of one family.

    Attributes:
        name: of the family.
        errors: over its rows.
        measured, extrapolated: shares of rows whose shape ships measured, and that lie far from any measured shape.
    """

    name: str
    errors: Errors
    measured: float
    extrapolated: float

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "family": self.name,
            "rows": self.errors.rows,
            "median_abs_error_frac": self.errors.median,
            "p90_abs_error_frac": self.errors.p90,
            "bias_frac": self.errors.bias,
            "measured_frac": self.measured,
            "extrapolated_frac": self.extrapolated,
        }


def resolve_gpu(name: str) -> tuple[Gpu, tuple[str, ...]]:
    """A GPU of the catalogue by whatever name tables give it, and the names by which a table may mean it.

    ``h200``, ``h200_sxm`` and ``h200-sxm`` are one; of several memory sizes the largest is meant.

    Raises:
        ScenarioError: no such GPU.
    """
    wanted = name.lower().replace("_", "-")
    known = SHELVES["gpu"].names()
    near = [each for each in known if each == wanted] or [each for each in known if each.startswith(wanted)]
    gpu = load_part(Gpu, near[-1] if near else name)
    profile = load_profile(gpu.profile).gpu
    short = profile.partition("-")[0]
    joined = (f"{profile}-pairwise-nvlink",) if profile.endswith("-pcie") else ()
    return gpu, tuple(dict.fromkeys((wanted, profile, *near, short, *joined)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a table of measured operators says about the model.

    Attributes:
        gpu: on which it was measured.
        file: its name.
        predictions: row by row.
        skipped: why other rows were left out, with their number.
    """

    gpu: Gpu
    file: str
    predictions: tuple[Prediction, ...]
    skipped: Mapping[str, int]

    def families(self) -> list[Family]:
        """Errors by family."""
        return families(self.predictions)

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "schema": "ffsim.calibration/1",
            "gpu": self.gpu.title,
            "file": self.file,
            "families": [family.to_dict() for family in self.families()],
            "worst": [each.to_dict() for each in worst(self.predictions, WORST_ROWS)],
            "skipped": [{"reason": reason, "rows": rows} for reason, rows in self.skipped.items()],
        }


def calibrate(path: Path, gpu_name: str, foreign: Callable[[Gpu], ForeignReader] | None = None) -> Calibration:
    """Compare a file of measured operators with the model.

    Args:
        path: CSV file, Parquet table or ``aiconfigurator:family/framework/version``.
        gpu_name: GPU of the catalogue.
        foreign: makes the reader of rows that run over links; without it they are left out.

    Raises:
        ScenarioError: no such GPU, or everything that is wrong in the file.
    """
    gpu, names = resolve_gpu(gpu_name)
    found = _read(path, gpu, names, foreign(gpu) if foreign else None)
    predictions = predict(found.cases, gpu, load_profile(gpu.profile), str(path)) if found.cases else []
    skipped = dict(found.skipped)
    if odd := len(found.cases) - len(predictions):
        skipped["composed of kernels and shorter than the data sheet allows, as they are read"] = odd
    predictions += _over_links(found.foreign, gpu, str(path))
    return Calibration(gpu=gpu, file=str(path), predictions=tuple(predictions), skipped=skipped)


def _read(path: Path, gpu: Gpu, names: Sequence[str], foreign: ForeignReader | None = None) -> Table:
    if is_parquet(path):
        return read_parquet(path, gpu, names)
    return read_measured(path, names, gpu.sms.value, foreign)


def _over_links(rows: Sequence[Foreign], gpu: Gpu, where: str) -> list[Prediction]:
    """Predictions of rows that run over links, refused where the times must be in another unit."""
    impossible = [
        _impossible(each.case, each.least_s, where) for each in rows if each.case.seconds < IMPOSSIBLE * each.least_s
    ]
    if impossible:
        raise ScenarioError(impossible)
    predictions = [
        Prediction(case=each.case, family=each.case.label, seconds=each.seconds, basis=MODELLED) for each in rows
    ]
    _check_unit(predictions, gpu, where)
    return predictions


def _check_unit(predictions: Sequence[Prediction], gpu: Gpu, where: str) -> None:
    if not predictions:
        return
    ratio = float(np.median([each.case.seconds / each.seconds for each in predictions]))
    if ratio > UNLIKELY:
        what = f"times are {ratio:.0f} times what a {gpu.title} takes, in the median"
        raise ScenarioError(Problem(where=where, what=what, fix="give microseconds, not nanoseconds"))


def predict(cases: Sequence[Case], gpu: Gpu, profile: OperatorProfile, where: str) -> list[Prediction]:
    """Predict every row of a table.

    Args:
        cases: the rows.
        gpu: on which they were measured.
        profile: its calibrated parameters.
        where: name of the table, for messages.

    Raises:
        ScenarioError: kernels that no such GPU can have run: the times are in another unit. Composed rows (layers,
            modules) of which that is so are left out instead, unless most are: they may not be what they are read as.
    """
    calls = [call for case in cases for call in case.calls]
    rows = table(calls)
    times = time_calls(rows, gpu, profile)
    bounds = _least_s(rows, gpu)
    stops = np.cumsum([len(case.calls) for case in cases])
    predictions: list[Prediction] = []
    impossible: list[Problem] = []
    odd: list[Problem] = []
    for case, stop in zip(cases, stops.tolist(), strict=True):
        part = slice(stop - len(case.calls), stop)
        gaps = KERNEL_GAP_S * (len(case.calls) - 1)
        seconds, bound = float(times.seconds[part].sum()) + gaps, float(bounds[part].sum())
        if case.seconds < IMPOSSIBLE * bound:
            (impossible if len(case.calls) == 1 else odd).append(_impossible(case, bound, where))
            continue
        hidden = len(case.calls) == 1 and not times.telling[part][0]
        worst = BASES[int(times.basis[part].max())]
        family = LAUNCH_FAMILY if hidden else case.label
        predictions.append(Prediction(case=case, family=family, seconds=seconds, basis=worst))
    if 2 * len(odd) > sum(len(case.calls) > 1 for case in cases):
        impossible += odd
    if impossible:
        raise ScenarioError(impossible)
    _check_unit(predictions, gpu, where)
    return predictions


def _least_s(rows: Measured, gpu: Gpu) -> Floats:
    """Seconds below which no GPU of that data sheet can be: its peak rate, and its memory even out of the caches."""
    o, least = rows.operators, np.zeros(len(rows))
    for _, dtype, index in kinds(o):
        where = machine(gpu, dtype, Conditions())
        moved = o.total_bytes[index] / (CACHE_GAIN * where.memory_bytes_per_s)
        least[index] = np.maximum(o.flop[index] / where.peak_flop_per_s, moved)
    return least


def _impossible(case: Case, bound: float, where: str) -> Problem:
    what = f"{case.seconds * 1e6:g} us is less than the {bound * 1e6:.3g} us that the data sheet allows ({case.what})"
    return Problem(where=place(where, case.line), what=what, fix="are the times in microseconds, and of this GPU?")


def families(predictions: Sequence[Prediction]) -> list[Family]:
    """Errors by family, in alphabetical order."""
    found = []
    for name in sorted({each.family for each in predictions}):
        own = [each for each in predictions if each.family == name]
        basis = [each.basis for each in own]
        found.append(
            Family(
                name=name,
                errors=Errors.of(
                    np.array([each.seconds for each in own]), np.array([each.case.seconds for each in own])
                ),
                measured=basis.count(BASES[MEASURED]) / len(own),
                extrapolated=basis.count(BASES[EXTRAPOLATED]) / len(own),
            )
        )
    return found


def worst(predictions: Sequence[Prediction], rows: int) -> list[Prediction]:
    """The rows furthest off, kernels before launches."""
    return sorted(predictions, key=lambda each: (each.family == LAUNCH_FAMILY, -abs(np.log1p(each.error))))[:rows]


# --- a profile of one's own -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """One family of kernels before and after fitting.

    Attributes:
        kernel: as fitted.
        before: errors of the given profile on the rows.
        after: errors on the rows when they were left out of the fit, in five folds.
    """

    kernel: Kernel
    before: Errors
    after: Errors


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedProfile:
    """A profile fitted to a user's measurements.

    Attributes:
        profile: ready to be used.
        refits: families that were fitted.
        left: why others were not.
    """

    profile: OperatorProfile
    refits: tuple[Refit, ...]
    left: tuple[str, ...]

    def yaml(self) -> str:
        """The profile as a file."""
        return to_yaml(plain(self.profile))

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        rows = [
            {
                "family": each.kernel.family,
                "dtype": each.kernel.dtype,
                "library": each.kernel.library,
                "rows": each.after.rows,
                "before": {"median_abs_error_frac": each.before.median, "p90_abs_error_frac": each.before.p90},
                "held_out": {"median_abs_error_frac": each.after.median, "p90_abs_error_frac": each.after.p90},
            }
            for each in self.refits
        ]
        return {"schema": "ffsim.refit/1", "profile": self.profile.title, "families": rows, "left": list(self.left)}


def fit_profile(path: Path, gpu_name: str) -> FittedProfile:
    """Fit a profile to a file of measured operators.

    Raises:
        ScenarioError: no such GPU, everything that is wrong in the file, or too few rows of every family.
    """
    gpu, names = resolve_gpu(gpu_name)
    found = _read(path, gpu, names)
    profile = load_profile(gpu.profile)
    predict(found.cases, gpu, profile, str(path))
    fresh, refits, left = refit(found.cases, gpu, profile, path.name if path.is_file() else str(path))
    if not refits:
        raise ScenarioError(Problem(where=str(path), what="; ".join(left) or "no kernels to fit", fix="measure more"))
    return FittedProfile(profile=fresh, refits=tuple(refits), left=tuple(left))


def refit(
    cases: Sequence[Case], gpu: Gpu, profile: OperatorProfile, where: str
) -> tuple[OperatorProfile, list[Refit], list[str]]:
    """Fit a profile to a table of measured kernels.

    Args:
        cases: rows; composed ones (layers, modules) do not take part.
        gpu: on which they were measured.
        profile: to start from; families that the table lacks keep its parameters.
        where: name of the table, kept as the source.

    Returns:
        The profile, what changed, and why other families did not.
    """
    rows = table([case.calls[0] for case in cases if len(case.calls) == 1])
    fitted: list[Refit] = []
    left: list[str] = []
    for family, dtype, index in kinds(rows.operators):
        part = rows.take(index)
        for library in sorted({part.contexts[number].library for number in part.context}):
            own = part.select(library=library, beside=False)
            if len(own) < FEWEST_ROWS:
                left.append(f"{family} {dtype} {library}: {len(own)} rows, {FEWEST_ROWS} are needed")
                continue
            fitted.append(_refit(own, gpu, profile, where))
    names = {(each.kernel.family, each.kernel.dtype, each.kernel.library) for each in fitted}
    kept = [each for each in profile.kernels if (each.family, each.dtype, each.library) not in names]
    own_name = f"{gpu.title}, fitted to {where}"
    fresh = replace(profile, title=own_name, gpu=where, kernels=(*(each.kernel for each in fitted), *kept))
    return fresh, fitted, left


def _refit(rows: Measured, gpu: Gpu, profile: OperatorProfile, where: str) -> Refit:
    family, dtype = str(rows.operators.family[0]), str(rows.operators.dtype[0])
    library = rows.contexts[rows.context[0]].library
    surface = machine(gpu, dtype, Conditions())
    source = Source(ref=where, kind="measured", status="measured")
    many = is_batched(rows.operators)
    known = profile.kernel(family, dtype, library, batched=many) or profile.kernel(family, dtype, batched=many)
    issue = issue_s(rows)
    options = [Options(issue=issue, split_k=dtype == "bf16")]
    if known is not None and known.family == family:
        options.append(Options(start=known.parameters, issue=issue))
    kernels = [fit_kernel(rows, each, profile, surface, source) for each in options]
    best = min(kernels, key=lambda kernel: kernel.fit.median_error + kernel.fit.p90_error)
    after = Errors.of(held_out(rows, (best,), profile, surface), rows.seconds)
    fit = replace(best.fit, held_out_median=round(after.median, 4), held_out_p90=round(after.p90, 4))
    before = Errors.of(time_calls(rows, gpu, profile).seconds, rows.seconds)
    return Refit(kernel=replace(best, fit=fit), before=before, after=after)
