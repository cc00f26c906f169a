"""Order without a clock, compiled: grouping by row, and longest paths.

Numba's cache goes by file: what is called from compiled code elsewhere does not belong here.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ffsim.engine.graph import Floats, Ints


@njit(cache=True)
def group(rows: Ints, values: Ints, out: Ints, offset: int, n_rows: int) -> Ints:
    """Group values by row, keeping their order: ``out`` gets them, plus an offset; returns where each row starts."""
    start = np.zeros(n_rows + 1, dtype=np.int64)
    for row in rows:
        start[row + 1] += 1
    for row in range(n_rows):
        start[row + 1] += start[row]
    place = start.copy()
    for i in range(rows.size):
        out[place[rows[i]]] = values[i] + offset
        place[rows[i]] += 1
    return start


@njit(cache=True)
def longest_paths(
    start_s: Floats, duration_s: Floats, first_next: Ints, successor: Ints, waiting: Ints
) -> tuple[Floats, int]:
    """When flows begin (in ``start_s``) and end that share no link: each after its last predecessor, without a clock.

    Returns ends and how many have one; those in a circle have none.
    """
    n = start_s.size
    end_s = np.zeros(n)
    order = np.zeros(n, dtype=np.int64)
    n_ready = 0
    for flow in range(n):
        if waiting[flow] == 0:
            order[n_ready] = flow
            n_ready += 1
    i = 0
    while i < n_ready:
        flow = order[i]
        i += 1
        end = start_s[flow] + duration_s[flow]
        end_s[flow] = end
        for p in range(first_next[flow], first_next[flow + 1]):
            following = successor[p]
            start_s[following] = max(start_s[following], end)
            waiting[following] -= 1
            if waiting[following] == 0:
                order[n_ready] = following
                n_ready += 1
    return end_s, n_ready
