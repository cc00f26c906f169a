"""Fits the few parameters of a kernel family to measured calls, and says how far off they are on calls left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ffsim.compute.measured import Measured
from ffsim.compute.models import HEAD_WIDTH, Machine
from ffsim.compute.profile import Attention, Decoding, Fit, Kernel, OperatorProfile, Parameters, Products, Streaming
from ffsim.compute.timing import AXES, features, modelled_calls_s, residuals_on
from ffsim.config import Source

Floats = np.ndarray[Any, Any]

FOLDS = 5
ITERATIONS = 2500
SHARES = frozenset({"efficiency", "memory_share", "quantisation", "share", "idle", "tail"})
"""Parameters between 0 and 1; all others are positive."""
TINY = 1e-12
ISSUE_SPREAD = 1.5  # calls within this factor of the shortest are bound by the host

STARTS: dict[str, tuple[Parameters, ...]] = {
    "products": (
        Products(
            efficiency=0.73,
            ramp=150.0,
            launch=4e-6,
            memory_share=0.75,
            small_tile_penalty=0.1,
            quantisation=0.7,
            step=3e-10,
            input_bytes=1.0,
        ),
        Products(
            efficiency=0.73,
            ramp=55.0,
            launch=1e-5,
            memory_share=0.88,
            small_tile_penalty=0.05,
            quantisation=0.5,
            step=1e-9,
            input_bytes=4.0,
        ),
    ),
    "attention": (
        Attention(efficiency=0.6, ramp=150.0, launch=1e-5, passes=1.0, tail=0.3, narrow=0.4, wide=0.4),
        Attention(efficiency=0.7, ramp=500.0, launch=4e-6, passes=0.5, tail=0.6, narrow=0.2, wide=1.0),
    ),
    "decoding": (
        Decoding(efficiency=0.5, memory_share=0.7, launch=1e-5, chunk=256.0, idle=0.5),
        Decoding(efficiency=0.7, memory_share=0.85, launch=2e-5, chunk=64.0, idle=0.8),
        Decoding(efficiency=0.2, memory_share=0.7, launch=1e-5, chunk=512.0, idle=0.3),
    ),
    "streaming": (Streaming(share=0.8, launch=4e-6),),
}
MODELS = {
    "gemm": "products",
    "grouped_gemm": "products",
    "convolution": "products",
    "attention_forward": "attention",
    "attention_backward": "attention",
    "attention_decode": "decoding",
    "elementwise": "streaming",
    "host_copy": "streaming",
}
_NONE = Fit(rows=0, median_error=0.0, p90_error=0.0, source=Source(ref="", kind="derived"))


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of modelled against measured times."""

    rows: int
    median: float
    p90: float
    bias: float

    @classmethod
    def of(cls, modelled: Floats, seen: Floats) -> Errors:
        """Errors of modelled against measured seconds; the bias is that of the median ratio."""
        errors = modelled / seen - 1
        size = np.abs(errors)
        return cls(len(seen), float(np.median(size)), float(np.quantile(size, 0.9)), float(np.median(errors)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is known of a library before fitting.

    Attributes:
        start: parameters to start from, none for the usual ones.
        free: names of the parameters to fit, empty for all that the library has.
        casts: whether its products cast their first operand in the same call.
        split_k: whether they split long inner dimensions.
        issue: time the host takes to issue a call. [s]
    """

    start: Parameters | None = None
    free: tuple[str, ...] = ()
    casts: bool = False
    split_k: bool = False
    issue: float = 0.0


def fit_kernel(
    rows: Measured,
    options: Options,
    profile: OperatorProfile,
    where: Machine,
    source: Source,
    iterations: int = ITERATIONS,
) -> Kernel:
    """Fit the kernels of one library to measured calls by least mean absolute log error.

    Args:
        rows: calls of one family, format and library.
        options: what is known of the library.
        profile: for the slow-down beside communication.
        where: the GPU on which the rows were measured.
        source: where they come from.
        iterations: steps of the search from every start.

    Returns:
        The kernels with their fit; errors on held-out rows are not filled in, see `held_out`.
    """
    o = rows.operators
    kernel = Kernel(
        family=str(o.family[0]),  # type: ignore[arg-type]
        dtype=str(o.dtype[0]),  # type: ignore[arg-type]
        library=rows.contexts[rows.context[0]].library,
        parameters=STARTS["streaming"][0],
        issue=options.issue,
        fit=_NONE,
    )
    starts = STARTS[MODELS[kernel.family]] if options.start is None else (options.start,)
    found = [
        _descend(
            replace(kernel, parameters=_prepared(start, options, rows)), rows, options.free, profile, where, iterations
        )
        for start in starts
    ]
    best = min(found, key=lambda each: each[1])[0]
    errors = Errors.of(_calls_s(best, rows, profile, where), rows.seconds)
    fit = Fit(rows=errors.rows, median_error=round(errors.median, 4), p90_error=round(errors.p90, 4), source=source)
    return replace(best, fit=fit)


def _prepared(start: Parameters, options: Options, rows: Measured) -> Parameters:
    """A start without the parameters that the library lacks or the rows cannot tell."""
    if options.start is not None:
        return start
    if isinstance(start, Products):
        return replace(start, split_k=options.split_k, input_bytes=start.input_bytes if options.casts else 0.0)
    if isinstance(start, Attention):
        widths = rows.operators.k / (2 * HEAD_WIDTH)
        varied = widths.min() < widths.max()
        narrow, wide = varied and widths.min() < 1, varied and widths.max() > 1
        return replace(start, narrow=start.narrow if narrow else 0.0, wide=start.wide if wide else 0.0)
    return start


def _descend(
    kernel: Kernel, rows: Measured, free: tuple[str, ...], profile: OperatorProfile, where: Machine, iterations: int
) -> tuple[Kernel, float]:
    """Search the free parameters from where the kernel stands; the best found and its loss."""
    from scipy.optimize import minimize  # noqa: PLC0415 - only who fits waits for it

    given: dict[str, Any] = asdict(kernel.parameters)
    free = free or tuple(name for name, value in given.items() if isinstance(value, float) and value > 0)

    def at(point: Floats) -> Kernel:
        found = {name: _from_line(name, value) for name, value in zip(free, point.tolist(), strict=True)}
        return _with(kernel, **found)

    def loss(point: Floats) -> float:
        return float(np.mean(np.abs(np.log(_calls_s(at(point), rows, profile, where) / rows.seconds))))

    options: Any = {"maxiter": iterations, "xatol": 1e-4, "fatol": 1e-7, "adaptive": True}
    start = np.array([_to_line(name, given[name]) for name in free])
    result = minimize(loss, start, method="Nelder-Mead", options=options)
    return _rounded(at(result.x)), float(result.fun)


def _with(kernel: Kernel, parameters: Any = None, **values: float) -> Kernel:
    """The kernels with other parameters, or other values of some."""
    return replace(kernel, parameters=replace(parameters or kernel.parameters, **values))


def _to_line(name: str, value: float) -> float:
    """A parameter's range onto the real line."""
    if name not in SHARES:
        return math.log(value)
    value = min(max(value, 1e-6), 1 - 1e-6)
    return math.log(value / (1 - value))


def _from_line(name: str, value: float) -> float:
    value = min(max(value, -50.0), 20.0)
    return max(1 / (1 + math.exp(-value)), 0.001) if name in SHARES else math.exp(value)


def _rounded(kernel: Kernel) -> Kernel:
    """Four digits, so that the file and the fit are the same numbers."""
    values = {name: value for name, value in asdict(kernel.parameters).items() if isinstance(value, float)}
    short = {name: 0.0 if value < TINY else float(f"{value:.4g}") for name, value in values.items()}
    return _with(kernel, **short)


def _calls_s(kernel: Kernel, rows: Measured, profile: OperatorProfile, where: Machine) -> Floats:
    return modelled_calls_s(rows, replace(profile, kernels=(kernel,)), where)[0]


def issue_s(rows: Measured) -> float:
    """The host's issue of a call: the median of the shortest calls, if many are as short; else nothing shows it."""
    seconds = rows.seconds[rows.issued]
    if len(seconds) == 0:
        return 0.0
    short = seconds[seconds < ISSUE_SPREAD * seconds.min()]
    return float(f"{np.median(short):.3g}") if len(short) > 1 else 0.0


def folds(rows: Measured) -> Floats:
    """``[n_ops]`` fold of each row; a shape measured twice stays in one fold."""
    o = rows.operators
    shapes = features(o, rows.sms) if str(o.family[0]) in AXES else o.total_bytes[:, None]
    _, shape = np.unique(shapes, axis=0, return_inverse=True)
    order = np.random.default_rng(0).permutation(int(shape.max()) + 1)
    fold: Floats = order[shape.ravel()] % FOLDS
    return fold


def held_out(
    rows: Measured,
    kernels: Sequence[Kernel],
    profile: OperatorProfile,
    where: Machine,
    fold: Floats | None = None,
) -> Floats:
    """Times of calls that were left out of both fit and interpolation.

    Args:
        rows: calls of one family and format, in whatever libraries.
        kernels: as fitted to all of them; the folds start from there.
        profile: for the slow-down beside communication.
        where: the GPU on which the rows were measured.
        fold: ``[n_ops]``, rows of one number are left out together; five random folds by default.

    Returns:
        ``[n_ops]`` seconds.
    """
    seconds = np.zeros(len(rows))
    fold = folds(rows) if fold is None else fold
    for number in np.unique(fold):
        kept, out = rows.take(fold != number), fold == number
        fitted = tuple(_again(kernel, kept, profile, where) for kernel in kernels)
        fresh = replace(profile, kernels=fitted)
        known = residuals_on(kept, fresh, where) if kernels[0].family in AXES else None
        seconds[out] = modelled_calls_s(rows.take(out), fresh, where, known)[0]
    return seconds


def _again(kernel: Kernel, rows: Measured, profile: OperatorProfile, where: Machine) -> Kernel:
    """The same library fitted to fewer rows."""
    own = rows.select(library=kernel.library, beside=False)
    if len(own) <= len(asdict(kernel.parameters)):
        return kernel
    options = Options(start=kernel.parameters, issue=kernel.issue)
    return fit_kernel(own, options, profile, where, kernel.fit.source, iterations=ITERATIONS // 8)
