"""Operator profiles: the few calibrated numbers per GPU that turn an operator into seconds.

A profile is a data file made by `ffsim.compute.calibration` from measured kernels; it carries how well it fits them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ffsim.config import Figure, Shelf, Source, Time, load, spec


@spec
class Fit:
    """How a set of parameters was found and how far off it is on the rows it was fitted to.

    Attributes:
        rows: measured kernels used.
        median_error, p90_error: of the absolute relative error.
        source: where the rows come from, or which family they were taken over from.
    """

    rows: int
    median_error: float
    p90_error: float
    source: Source


@spec
class Gemm:
    """Parameters of a matrix-product family; see `ffsim.compute.models.gemm_s`.

    Attributes:
        efficiency: share of the peak rate inside a full tile.
        ramp: elements of the inner dimension lost per tile to filling the pipeline.
        launch: fixed time of a kernel. [s]
        memory_share: share of the memory bandwidth that loads and stores reach.
        small_tile_penalty: exponent of the efficiency lost in smaller tiles.
        quantisation: how much of the last, partly filled wave is lost (1: all of it; 0: none).
    """

    efficiency: float
    ramp: float
    launch: Time
    memory_share: float
    small_tile_penalty: float
    quantisation: float
    fit: Fit


@spec
class Attention:
    """Parameters of fused attention; see `ffsim.compute.models.attention_s`.

    Attributes:
        efficiency: share of the peak rate on long sequences.
        launch: fixed time. [s]
        ramp: sequence length at which half of the rate is lost.
    """

    efficiency: float
    launch: Time
    ramp: float
    fit: Fit


@spec
class Elementwise:
    """Parameters of memory-bound kernels; see `ffsim.compute.models.elementwise_s`.

    Attributes:
        memory_share: share of the memory bandwidth reached with all SMs.
        launch: fixed time of a kernel. [s]
    """

    memory_share: float
    launch: Time
    fit: Fit


@spec
class Beside:
    """Slow-down of kernels while communication kernels run on the other SMs, beyond the loss of those SMs.

    The mechanism is shared memory bandwidth, L2 and power; the figures are ratios of measured kernels to the same
    kernels alone on as many SMs. Attention, bound by arithmetic inside the SM, shows none.
    """

    gemm: Figure[float]
    elementwise: Figure[float]


@spec
class OperatorProfile:
    """Calibrated operator parameters of one GPU.

    Attributes:
        gpu: the name under which `ffsim.compute.measured` lists this GPU's kernels.
        gemm: by number format (``bf16``, ``fp8``, ``fp8_block``, ``fp8_block_wgrad``).
        grouped: time of a grouped product over the dense model with the same tiles.
        attention_forward, attention_backward: fused attention in BF16.
        elementwise: everything bound by memory.
        beside_communication: slow-down beside communication kernels.
    """

    kind: Literal["operator_profile"]
    title: str
    gpu: str
    gemm: dict[str, Gemm]
    grouped: Figure[float]
    attention_forward: Attention
    attention_backward: Attention
    elementwise: Elementwise
    beside_communication: Beside


SHELF = Shelf("operator profile", "profiles", Path(__file__).parent / "profiles")


def load_profile(name: str, *, near: Path | None = None) -> OperatorProfile:
    """Load an operator profile by name or path.

    Raises:
        ScenarioError: no such profile, or its file is wrong.
    """
    return load(SHELF, name, OperatorProfile, near=near)
