"""The least time that a GPU's data sheet allows an operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffsim.compute.timing import Conditions, kinds, machine
from ffsim.hardware import Gpu
from ffsim.model.operators import Operators

Floats = np.ndarray[Any, Any]


def roofline_s(operators: Operators, gpu: Gpu, conditions: Conditions) -> Floats:
    """Time at the roofline: ``max(FLOP / peak rate of the SMs in use, bytes / bandwidth)``.

    Args:
        operators: the table.
        gpu: peak rates, bandwidth of memory and host link, SMs.
        conditions: SMs that communication takes; they compute nothing, while all of the bandwidth stays.

    Returns:
        ``[n_ops]`` seconds; 0 for an operator of which neither FLOP nor bytes are counted.

    Raises:
        ModelDomainError: the GPU has no rate for a number format that the operators need.

    Domain: every operand passes once through device memory (or over the host link). A kernel whose operands wait in the
    L2 cache can be faster.
    """
    seconds = np.zeros(len(operators))
    for family, dtype, rows in kinds(operators):
        where = machine(gpu, dtype, conditions)
        bytes_per_s = where.host_bytes_per_s if family == "host_copy" else where.memory_bytes_per_s
        computing = operators.flop[rows] / (where.peak_flop_per_s * where.share)
        seconds[rows] = np.maximum(computing, operators.total_bytes[rows] / bytes_per_s)
    return seconds


def peaks(operators: Operators, gpu: Gpu, conditions: Conditions) -> dict[str, float]:
    """Peak FLOP/s of the SMs in use, by number format of the operators that compute."""
    where = {str(dtype): machine(gpu, dtype, conditions) for dtype in np.unique(operators.dtype[operators.flop > 0])}
    return {dtype: each.peak_flop_per_s * each.share for dtype, each in where.items()}
