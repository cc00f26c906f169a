"""The same task graphs without contention: many cost scenarios in one pass.

With every lane's order fixed and links to themselves, ends are longest paths. One pass over the graph serves any number
of scenarios side by side, which is what sensitivities and bounds need.
"""

from __future__ import annotations

import numpy as np

from ffsim.engine.graph import Floats, TaskGraph


def end_times_s(graph: TaskGraph, slot_s: Floats) -> Floats:
    """End of every task under each scenario.

    Args:
        graph: what runs.
        slot_s: ``[n_slots, n_scenarios]`` duration of each slot.

    Returns:
        ``[n_tasks, n_scenarios]``.

    Domain: exact where no two transfers share a link at a time, a lower bound otherwise.
    """
    ends = slot_s[graph.slot]
    for tasks, before, offsets in graph.sweep:
        ends[tasks] += np.maximum.reduceat(ends[before], offsets)
    return ends
