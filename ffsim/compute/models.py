"""One small physical model per operator family: arrays of operators in, seconds out.

Each model says what a kernel must do (tiles in waves over the SMs, bytes through the memory, a launch) and takes the
few numbers it cannot know from a calibrated profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.compute.profile import Attention, Elementwise, Gemm

Floats = np.ndarray[Any, Any]

TILES = np.array([(256, 128), (128, 256), (128, 128), (64, 256), (128, 64), (64, 128), (64, 64)], dtype=float)
FULL_TILE = 128 * 256
QUERY_BLOCK = 128
OVERLAP = 4.0  # exponent of the soft maximum of compute and memory time: they overlap almost, not quite, perfectly


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a kernel runs on.

    Attributes:
        peak_flop_per_s: dense rate of all SMs in the kernel's number format.
        memory_bytes_per_s: device memory bandwidth.
        sms, sms_used: SMs of the GPU and those this kernel may use.
    """

    peak_flop_per_s: float
    memory_bytes_per_s: float
    sms: int
    sms_used: int

    @property
    def share(self) -> float:
        """Share of the SMs that is used."""
        return self.sms_used / self.sms


def gemm_s(p: Gemm, machine: Machine, groups: Floats, m: Floats, n: Floats, k: Floats, total_bytes: Floats) -> Floats:
    """Time of (grouped) matrix products.

    The output is cut into tiles, the tiles run in waves over the SMs, each tile costs its inner loop plus a ramp; the
    fastest tile shape is taken, as a tuned library would. Memory time runs beside it.

    Args:
        p: calibrated parameters.
        machine: the GPU.
        groups: ``[n_ops]``, products alike that run as one kernel.
        m: ``[n_ops]``, rows of the result.
        n: ``[n_ops]``, columns of the result.
        k: ``[n_ops]``, inner dimension.
        total_bytes: ``[n_ops]``, operands and results, once each.

    Returns:
        ``[n_ops]`` seconds.

    Domain: dense operands resident in device memory; between a few and a few million tiles.
    """
    tile_m, tile_n = TILES[:, 0], TILES[:, 1]
    area = tile_m * tile_n
    tiles = groups[:, None] * np.ceil(m[:, None] / tile_m) * np.ceil(n[:, None] / tile_n)
    waves = tiles / machine.sms_used
    waves = p.quantisation * np.ceil(waves) + (1 - p.quantisation) * np.maximum(waves, 1.0)
    rate = machine.peak_flop_per_s / machine.sms * p.efficiency * (area / FULL_TILE) ** p.small_tile_penalty
    compute = np.min(waves * 2 * area * (k[:, None] + p.ramp) / rate, axis=1)
    memory = total_bytes / (machine.memory_bytes_per_s * p.memory_share)
    seconds: Floats = p.launch + (compute**OVERLAP + memory**OVERLAP) ** (1 / OVERLAP)
    return seconds


def attention_s(p: Attention, machine: Machine, groups: Floats, m: Floats, flop: Floats) -> Floats:
    """Time of fused (flash) attention, forward or backward.

    Args:
        p: calibrated parameters.
        machine: the GPU.
        groups: ``[n_ops]``, batch times heads.
        m: ``[n_ops]``, queries.
        flop: ``[n_ops]``, useful work; for a causal mask about half of the square.

    Returns:
        ``[n_ops]`` seconds: the work at a rate that grows with the sequence, but at least the longest block of queries.

    Domain: head widths of 64 to 256, sequences of 128 and more; not decoding.
    """
    rate = machine.peak_flop_per_s * p.efficiency
    block = flop / np.maximum(groups * np.ceil(m / QUERY_BLOCK), 1.0) * 2.0  # the last block sees twice the mean
    work = flop * (1 + p.ramp / m) / (rate * machine.share)
    seconds: Floats = p.launch + np.maximum(work, block * machine.sms / rate)
    return seconds


def elementwise_s(p: Elementwise, machine: Machine, total_bytes: Floats, kernels: Floats) -> Floats:
    """Time of memory-bound kernels: a launch each, and the bytes at the rate the SMs in use can pull.

    Args:
        p: calibrated parameters.
        machine: the GPU.
        total_bytes: ``[n_ops]``, read plus written.
        kernels: ``[n_ops]``, launches.

    Returns:
        ``[n_ops]`` seconds.

    Domain: assumes that bandwidth falls in proportion to the SMs in use, which is pessimistic for mild cuts.
    """
    return p.launch * kernels + total_bytes / (machine.memory_bytes_per_s * p.memory_share * machine.share)
