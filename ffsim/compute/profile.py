"""Operator profiles: the few calibrated numbers per GPU that turn an operator into seconds.

A profile is a data file made from measured kernels by `ffsim.compute.shipped` or by ``ffsim calibrate --fit``; it
carries how well it fits them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from ffsim.config import Amount, Factor, Figure, PositiveShare, Share, Shelf, Source, TaggedBy, Time, load, spec
from ffsim.model.operators import Family
from ffsim.model.precision import Dtype


@spec
class Fit:
    """How a set of parameters was found and how far off the model is.

    Attributes:
        rows: measured kernels used.
        median_error, p90_error: of the absolute relative error on the rows fitted to.
        held_out_median, held_out_p90: the same on rows left out of the fit, in five folds; with interpolation.
        source: where the rows come from, or which family they were taken over from.
    """

    rows: int
    median_error: float
    p90_error: float
    held_out_median: float | None = None
    held_out_p90: float | None = None
    source: Source


@spec
class Products:
    """Parameters of a matrix-product family; see `ffsim.compute.models.gemm_s`.

    Attributes:
        efficiency: share of the peak rate inside a full tile.
        ramp: elements of the inner dimension lost per tile to filling the pipeline.
        launch: fixed time of a kernel. [s]
        memory_share: share of the memory bandwidth that loads and stores reach.
        small_tile_penalty: exponent of the efficiency lost in smaller tiles.
        quantisation: how much of the last, partly filled wave is lost (1: all of it; 0: none).
        step: least time of one element of the inner dimension, however small the tile: the latency of its loop. [s]
        input_bytes: traffic per element of the first operand where the call casts it first. [bytes]
        split_k: whether the library splits long inner dimensions over idle SMs.
    """

    model: Literal["products"] = "products"
    efficiency: PositiveShare
    ramp: Amount
    launch: Time
    memory_share: PositiveShare
    small_tile_penalty: Amount
    quantisation: Share
    step: Time
    input_bytes: Amount = 0.0
    split_k: bool = False


@spec
class Attention:
    """Parameters of fused attention; see `ffsim.compute.models.attention_s`.

    Attributes:
        efficiency: share of the peak rate on long sequences.
        ramp: keys lost per block of queries to filling the pipeline.
        launch: fixed time. [s]
        passes: times that queries, keys, values and results pass through the memory besides.
        tail: share of the longest block of queries that runs on when the other SMs have nothing left to do.
        narrow, wide: exponents of the efficiency lost to heads narrower and wider than 128, whose tiles fit worse.
    """

    model: Literal["attention"] = "attention"
    efficiency: PositiveShare
    ramp: Amount
    launch: Time
    passes: Amount
    tail: Share = 0.0
    narrow: Amount = 0.0
    wide: Amount = 0.0


@spec
class Decoding:
    """Parameters of attention over a cache; see `ffsim.compute.models.decoding_s`.

    Attributes:
        efficiency: share of the peak rate.
        memory_share: share of the memory bandwidth at which the cache is read.
        launch: fixed time. [s]
        chunk: cached tokens that one thread block reads.
        idle: exponent of the time lost where there are fewer chunks than SMs (1: all of it; 0: none).
    """

    model: Literal["decoding"] = "decoding"
    efficiency: PositiveShare
    memory_share: PositiveShare
    launch: Time
    chunk: Amount
    idle: Share


@spec
class Streaming:
    """Parameters of memory-bound kernels and copies; see `ffsim.compute.models.streaming_s`.

    Attributes:
        share: share of the data-sheet rate that is reached.
        launch: fixed time of a kernel. [s]
    """

    model: Literal["streaming"] = "streaming"
    share: PositiveShare
    launch: Time


Parameters = Products | Attention | Decoding | Streaming


@spec
class Kernel:
    """A calibrated kernel family of one library.

    Attributes:
        family, dtype: which operators it times.
        library: whose kernels; the first entry of a family and format is the one plans are timed with.
        parameters: of the family's model.
        issue: time the host takes to issue one call; a call measured by itself cannot be shorter. Plans issue kernels
            ahead of time and do not pay it. [s]
        fit: how well it fits.
    """

    family: Family
    dtype: Dtype
    library: str
    parameters: Annotated[Products | Attention | Decoding | Streaming, TaggedBy("model")]
    issue: Time = 0.0
    fit: Fit


@spec
class Beside:
    """Slow-down of kernels while communication kernels run on the other SMs, beyond the loss of those SMs.

    The mechanism is shared memory bandwidth, L2 and power; the figures are ratios of measured kernels to the same
    kernels alone on as many SMs. Attention, bound by arithmetic inside the SM, shows none.
    """

    gemm: Figure[Factor]
    elementwise: Figure[Factor]


@spec
class OperatorProfile:
    """Calibrated operator parameters of one GPU.

    Attributes:
        gpu: the name under which `ffsim.compute.measured` lists this GPU's kernels.
        kernels: calibrated families, the preferred library of each first.
        beside_communication: slow-down beside communication kernels.
    """

    kind: Literal["operator_profile"]
    title: str
    gpu: str
    kernels: tuple[Kernel, ...]
    beside_communication: Beside

    def kernel(self, family: str, dtype: str, library: str = "") -> Kernel | None:
        """The kernels of a family and format in some library; by default the preferred, none if there are none."""
        fitting = (kernel for kernel in self.kernels if (kernel.family, kernel.dtype) == (family, dtype))
        return next((kernel for kernel in fitting if library in {"", kernel.library}), None)

    def formats(self, family: str) -> tuple[str, ...]:
        """Number formats in which a family is known."""
        return tuple(dict.fromkeys(kernel.dtype for kernel in self.kernels if kernel.family == family))


SHELF = Shelf("operator profile", "profiles", Path(__file__).parent / "profiles")


def load_profile(name: str, *, near: Path | None = None) -> OperatorProfile:
    """Load an operator profile by name or path.

    Raises:
        ScenarioError: no such profile, or its file is wrong.
    """
    return load(SHELF, name, OperatorProfile, near=near)


def plain(profile: OperatorProfile) -> dict[str, Any]:
    """A profile as its file writes it."""
    data: dict[str, Any] = asdict(profile)
    data["kernels"] = [_plain_kernel(kernel) for kernel in profile.kernels]
    data["beside_communication"] = {
        name: {key: value for key, value in figure.items() if value not in (None, "")}
        for name, figure in data["beside_communication"].items()
    }
    for figure in data["beside_communication"].values():
        figure["source"] = {key: text for key, text in figure["source"].items() if text}
    return data


def _plain_kernel(kernel: Kernel) -> dict[str, Any]:
    data: dict[str, Any] = asdict(kernel)
    for name in ("launch", "step"):
        if name in data["parameters"]:
            data["parameters"][name] = f"{data['parameters'][name] * 1e6:.6g} us"
    data["issue"] = f"{kernel.issue * 1e6:.4g} us"
    data["fit"] = {key: value for key, value in data["fit"].items() if value is not None}
    data["fit"]["source"] = {key: text for key, text in data["fit"]["source"].items() if text}
    return data
