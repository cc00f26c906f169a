"""Operator profiles: the few calibrated numbers per GPU that turn an operator into seconds.

A profile is a data file made from measured kernels by `ffsim.compute.shipped` or by ``ffsim calibrate --fit``; it
carries how well it fits them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from ffsim.config import (
    Amount,
    Bandwidth,
    Factor,
    Figure,
    PositiveShare,
    Share,
    Shelf,
    Source,
    TaggedBy,
    Time,
    load,
    spec,
)
from ffsim.model.operators import Family
from ffsim.model.precision import Dtype

BATCHED = ", batched"
"""Ends the library of calls that compute many equal products at once: other kernels, with entries of their own."""


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
        sm_rate: bytes that one SM can pass where arithmetic bounds the kernel, none where it does not. [bytes/s]
    """

    model: Literal["streaming"] = "streaming"
    share: PositiveShare
    launch: Time
    sm_rate: Bandwidth | None = None


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
        operators: which operators of the family it times, as ``softmax/F`` or ``softmax/B``; empty for all that no
            other entry names.
        fit: how well it fits.
    """

    family: Family
    dtype: Dtype
    library: str
    parameters: Annotated[Products | Attention | Decoding | Streaming, TaggedBy("model")]
    issue: Time = 0.0
    operators: tuple[str, ...] = ()
    fit: Fit

    @property
    def batched(self) -> bool:
        """Whether it times batches of products."""
        return self.library.endswith(BATCHED)


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

    def kernel(self, family: str, dtype: str, library: str = "", *, batched: bool = False) -> Kernel | None:
        """The kernels of a family and format in some library; by default the preferred, none if there are none."""
        wanted = (family, dtype, batched)
        fitting = (kernel for kernel in self.kernels if (kernel.family, kernel.dtype, kernel.batched) == wanted)
        return next((k for k in fitting if k.library == library or not (library or k.operators)), None)

    def named(self, family: str, dtype: str) -> dict[str, Kernel]:
        """The kernels of a family and format that time only some operators, by operator and phase."""
        fitting = (kernel for kernel in self.kernels if (kernel.family, kernel.dtype) == (family, dtype))
        return {name: kernel for kernel in fitting for name in kernel.operators}

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
    rate = data["parameters"].pop("sm_rate", None)
    if rate is not None:
        data["parameters"]["sm_rate"] = f"{rate / 1e9:.4g} GB/s"
    named = data.pop("operators")
    if named:
        data["operators"] = list(named)
    data["fit"] = {key: value for key, value in data["fit"].items() if value is not None}
    data["fit"]["source"] = {key: text for key, text in data["fit"]["source"].items() if text}
    return data
