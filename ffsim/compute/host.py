"""What the host of an eager framework takes to issue kernels: a floor under the time of a pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffsim.errors import ModelDomainError, Problem
from ffsim.model.operators import Operators

Floats = np.ndarray[Any, Any]


def host_issue_s(operators: Operators, issue_s: float) -> Floats:
    """Time in which the host issues each operator's kernels, one after another.

    A pass over some operators takes the longer of the sum of this and the sum of `time_operators`: kernels are queued,
    so a short one is hidden behind a long one that was issued before it, but no pass is over before its last kernel was
    issued.

    Args:
        operators: the table.
        issue_s: host time per kernel; 0 for graphs and for hosts far ahead of the GPU. [s]

    Returns:
        ``[n_ops]`` seconds of the host.

    Raises:
        ModelDomainError: ``issue_s`` is negative or not finite.

    Domain: passes of many kernels; at its start a pass may still work off a queue that an earlier one filled.

    >>> from ffsim.model.operators import Row
    >>> table = Operators.of([Row(name="q", phase="F", segment=0, family="gemm", kernels=3)])
    >>> host_issue_s(table, 0.5).tolist()
    [1.5]
    """
    if not (np.isfinite(issue_s) and issue_s >= 0):
        raise ModelDomainError(Problem(what=f"host time per kernel is {issue_s!r}", fix="use 0 s or more"))
    seconds: Floats = operators.kernels * issue_s
    return seconds
