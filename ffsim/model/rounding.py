"""Rounding to BF16 and to FP8 (E4M3), exact and vectorised: the low-precision numbers of a training run as float32."""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, Any]

E4M3_MAX = 448.0  # 1.75 * 2^8; the code above it is NaN, there is no infinity
_E4M3_FRACTION_BITS = 3
_E4M3_MIN_EXPONENT = -6  # below 2^-6 the numbers are subnormal: multiples of 2^-9


def round_bf16(x: Floats) -> Floats:
    """Round to BF16 (8 significant bits, the exponents of float32), to nearest, ties to even.

    Half a unit of the last kept bit, less one if that bit is even, is added to the bits; then the lower 16 are cut.

    Args:
        x: any shape; wider numbers are rounded to float32 first, as mixed-precision code does.

    Returns:
        The same shape in float32. Infinities and NaN stay; finite numbers from 2^128 - 2^119 on become infinite.

    >>> round_bf16(np.array([1.0, 1.00390625, 1.01171875, -3.1415927]))
    array([ 1.      ,  1.      ,  1.015625, -3.140625], dtype=float32)
    """
    single = np.asarray(x, dtype=np.float32)
    bits = single.view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(single), single, nearest.view(np.float32))


def round_e4m3(x: Floats) -> Floats:
    """Round to FP8 E4M3 (4 significant bits down to 2^-6, multiples of 2^-9 below), to nearest, ties to even.

    Args:
        x: any shape.

    Returns:
        The same shape in float32. Everything beyond 448, infinities too, saturates to +-448; NaN stays.

    Source: Micikevicius et al. 2022, arXiv 2209.05433 (the format, also called E4M3FN); saturation as CUDA's
    ``__NV_SATFINITE`` conversions do it.

    >>> round_e4m3(np.array([0.3, 17.0, 1000.0, 2.0**-10, -3 * 2.0**-10])).tolist()
    [0.3125, 16.0, 448.0, 0.0, -0.00390625]
    """
    clipped = np.clip(x, -E4M3_MAX, E4M3_MAX)
    _, exponent = np.frexp(clipped)  # |x| = mantissa * 2^exponent, mantissa in [1/2, 1)
    last_bit = np.ldexp(1.0, np.maximum(exponent - 1, _E4M3_MIN_EXPONENT) - _E4M3_FRACTION_BITS)
    return np.asarray(np.rint(clipped / last_bit) * last_bit, dtype=np.float32)
