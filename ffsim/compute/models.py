"""One small physical model per operator family: arrays of operators in, seconds out.

Each model says what a kernel must do (tiles in waves over the SMs, bytes through the memory, a launch) and takes the
few numbers it cannot know from a calibrated profile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.compute.profile import Attention, Decoding, Products, Streaming
from ffsim.model.operators import Operators

Floats = np.ndarray[Any, Any]

TILES = ((256, 128), (128, 256), (128, 128), (64, 256), (128, 64), (64, 128), (64, 64), (64, 32), (64, 16))
SPLITS = (2, 4, 8)  # of the inner dimension, where a library splits it
DEEP_SPLITS = (*SPLITS, 16, 32, 64, 128, 256)  # of convolutions: weight gradients sum over millions of pixels
SPLIT_BELOW = 2  # full tiles per SM: with more, every SM has work and splitting only adds partial sums
FULL_TILE = 128 * 256
PARTIAL_BYTES = 8  # a partial sum is written and read back in FP32
QUERY_BLOCK = 128
HEAD_WIDTH = 128  # for which attention kernels are tuned
QUERY_ROWS = 64  # rows of a tensor-core instruction: fewer queries per key cost as much
OVERLAP = 4.0  # exponent of the soft maximum of compute and memory time: they overlap almost, not quite, perfectly
ISSUE_OVERLAP = 8.0  # the same for a kernel and the host that issues the next one


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a kernel runs on.

    Attributes:
        peak_flop_per_s: dense rate of all SMs in the kernel's number format.
        memory_bytes_per_s: device memory bandwidth.
        host_bytes_per_s: copies to and from the host, per direction.
        sms, sms_used: SMs of the GPU and those this kernel may use.
        sustained_flop_per_s: rate that the board's power limit allows for more than a moment.
    """

    peak_flop_per_s: float
    memory_bytes_per_s: float
    host_bytes_per_s: float
    sms: int
    sms_used: int
    sustained_flop_per_s: float = math.inf

    @property
    def share(self) -> float:
        """Share of the SMs that is used."""
        return self.sms_used / self.sms


def gemm_s(p: Products, machine: Machine, o: Operators) -> Floats:
    """Time of (grouped or batched) matrix products.

    The output is cut into tiles, the tiles run in waves over the SMs, each tile costs its inner loop plus a ramp; the
    fastest tile shape (and split of the inner dimension) is taken, as a tuned library would. Memory time runs beside.

    Args:
        p: calibrated parameters.
        machine: the GPU.
        o: the products.

    Returns:
        ``[n_ops]`` seconds, without the time of the host.

    Domain: dense operands resident in device memory; between a few and a few million tiles.
    """
    memory_bytes_per_s = machine.memory_bytes_per_s * p.memory_share
    m, n, k = (np.asarray(column, dtype=float) for column in (o.m, o.n, o.k))
    groups = np.asarray(o.groups, dtype=float) * o.batch  # their tiles share the waves
    compute = _tiles_s(p, machine, groups, m, n, k)
    if p.split_k:
        few = groups * np.ceil(m / TILES[0][0]) * np.ceil(n / TILES[0][1]) < SPLIT_BELOW * machine.sms_used
        part = groups[few], m[few], n[few], k[few]
        for split in DEEP_SPLITS if o.family[0] == "convolution" else SPLITS:
            partial = part[0] * part[1] * part[2] * (split * PARTIAL_BYTES / memory_bytes_per_s)
            compute[few] = np.minimum(compute[few], _tiles_s(p, machine, *part, split=split) + partial)
    memory = o.total_bytes / memory_bytes_per_s
    casts = groups * m * k * (p.input_bytes / machine.memory_bytes_per_s)
    seconds: Floats = p.launch + soft_maximum(compute, memory) + casts
    return seconds


def _tiles_s(p: Products, machine: Machine, *shape: Floats, split: int = 1) -> Floats:
    """Time of the inner loops of the fastest tile shape, the inner dimension in so many parts."""
    groups, m, n, k = shape
    best = np.full(len(m), np.inf)
    for tile_m, tile_n in TILES:
        area = tile_m * tile_n
        rate = machine.peak_flop_per_s / machine.sms * p.efficiency * (area / FULL_TILE) ** p.small_tile_penalty
        waves = groups * np.ceil(m / tile_m) * np.ceil(n / tile_n) * (split / machine.sms_used)
        waves = p.quantisation * np.ceil(waves) + (1 - p.quantisation) * np.maximum(waves, 1.0)
        np.minimum(best, waves * max(2 * area / max(rate, 1.0), p.step), out=best)
    seconds: Floats = best * (k / split + p.ramp)
    return seconds


def soft_maximum(a: Floats, b: Floats, exponent: float = OVERLAP) -> Floats:
    """``(a^e + b^e)^(1/e)``: the larger of two times that overlap almost perfectly."""
    top = np.maximum(a, b)
    below = np.minimum(a, b) / np.maximum(top, 1e-30)
    smooth: Floats = top * (1 + below**exponent) ** (1 / exponent)
    return smooth


def attention_s(p: Attention, machine: Machine, o: Operators, widths_flop: int) -> Floats:
    """Time of fused (flash) attention, forward or backward.

    A thread block owns 128 queries and walks over their keys; the sum over blocks is spread over the SMs, but the
    longest block must run somewhere. Queries, keys and values also pass through the memory, before or after.

    Args:
        p: calibrated parameters.
        machine: the GPU.
        o: groups = batch x heads, m = queries, n = keys, k = both widths together; a causal mask shows in the FLOP.
        widths_flop: FLOP per query, key and element of ``k``: 2 forward; 5 backward, the scores being computed again.

    Returns:
        ``[n_ops]`` seconds, without the time of the host.

    Domain: head widths of 64 to 256, sequences of 128 and more; not decoding.
    """
    groups, m, n = (np.asarray(column, dtype=float) for column in (o.groups, o.m, o.n))
    per_pair = widths_flop * np.asarray(o.k, dtype=float)
    seen = np.minimum(o.flop / (groups * m * n * per_pair), 1.0)  # share of the score matrix
    blocks = np.ceil(m / QUERY_BLOCK)
    keys = n * seen + QUERY_BLOCK * (1 - seen)  # whole blocks of keys, the diagonal one included
    width = np.asarray(o.k, dtype=float) / (2 * HEAD_WIDTH)
    fitting = np.minimum(width, 1.0) ** p.narrow / np.maximum(width, 1.0) ** p.wide
    key_s = QUERY_BLOCK * per_pair * machine.sms / (machine.peak_flop_per_s * p.efficiency * fitting)
    spread = groups * blocks * key_s * (keys + p.ramp) / machine.sms_used
    longest = key_s * (n + p.ramp)
    passed = o.total_bytes * (p.passes / machine.memory_bytes_per_s)
    seconds: Floats = p.launch + np.maximum(spread + p.tail * longest, longest) + passed
    return seconds


def decoding_s(p: Decoding, machine: Machine, o: Operators) -> Floats:
    """Time of attention of one (or few) new tokens per sequence over a cache.

    Args:
        p: calibrated parameters.
        machine: the GPU.
        o: groups = batch x key/value heads, m = queries that share a key/value head, n = cached tokens,
            k = both widths; the bytes are mostly the cache.

    Returns:
        ``[n_ops]`` seconds, without the time of the host: the cache through the memory beside the products, whose
        queries fill whole rows of tensor-core instructions; short caches leave SMs idle.

    Domain: caches of 128 tokens and more.
    """
    groups, m, n, k = (np.asarray(column, dtype=float) for column in (o.groups, o.m, o.n, o.k))
    rows = QUERY_ROWS * np.ceil(m / QUERY_ROWS)
    compute = 2 * groups * rows * n * k / (machine.peak_flop_per_s * p.efficiency * machine.share)
    memory = o.total_bytes / (machine.memory_bytes_per_s * p.memory_share)
    chunks = groups * np.ceil(rows / QUERY_BLOCK) * np.ceil(n / max(p.chunk, 1.0))
    idle = np.maximum(machine.sms_used / chunks, 1.0) ** p.idle
    seconds: Floats = p.launch + soft_maximum(compute, memory) * idle
    return seconds


def streaming_s(p: Streaming, bytes_per_s: float, total_bytes: Floats, kernels: Floats, sms: int = 0) -> Floats:
    """Time of kernels bound by memory, and of copies: a launch each, and the bytes at the rate that is reached.

    Args:
        p: calibrated parameters.
        bytes_per_s: data-sheet rate of the memory for the SMs in use, or of the host link.
        total_bytes: ``[n_ops]``, read plus written.
        kernels: ``[n_ops]``, launches.
        sms: SMs in use, for kernels that their arithmetic bounds.

    Returns:
        ``[n_ops]`` seconds, without the time of the host.

    Domain: assumes that bandwidth falls in proportion to the SMs in use, which is pessimistic for mild cuts.
    """
    passed = bytes_per_s * p.share
    if p.sm_rate and sms:
        passed = min(passed, p.sm_rate * sms)
    return p.launch * kernels + total_bytes / passed
