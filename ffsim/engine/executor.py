"""Runs task graphs: every task is a flow whose latency is its time on its lane."""

from __future__ import annotations

import numpy as np

from ffsim.engine.flows import Flows
from ffsim.engine.fluid import Twin, simulate_flows
from ffsim.engine.graph import Costs, Csr, Floats, Ints, TaskGraph, Timeline


def execute(graph: TaskGraph, costs: Costs, *, twin: Twin = "compiled") -> Timeline:
    """Run one task graph by itself.

    Raises:
        SimulationError: some tasks wait for each other in a circle.
    """
    times = simulate_flows(task_flows(graph, costs), costs.capacity_bytes_per_s, twin=twin)
    return Timeline(times.start_s, times.end_s, times.n_events)


def task_flows(graph: TaskGraph, costs: Costs) -> Flows:
    """The tasks of a graph as flows, to run them beside others.

    A task is idle for its duration and then moves its bytes; its rate is counted on the link that would bind it alone.
    """
    row = costs.moves.values
    kept = costs.bytes_[row] > 0
    slot = np.repeat(np.arange(len(costs.duration_s)), np.diff(costs.moves.start))[kept]
    row, counts = row[kept], np.bincount(slot, minlength=len(costs.duration_s))
    first = np.cumsum(counts) - counts
    seconds = costs.bytes_[row] / costs.capacity_bytes_per_s[costs.link[row]]
    size, weight = _on_binding_link(slot, seconds, costs.bytes_[row], len(counts))
    hops = counts[graph.slot]
    start = np.zeros(graph.n_tasks + 1, dtype=np.int64)
    np.cumsum(hops, out=start[1:])
    place = _positions(first[graph.slot], hops, start)
    return Flows(
        links=Csr(start, costs.link[row][place]),
        size_bytes=size[graph.slot],
        weight=weight[place],
        latency_s=costs.duration_s[graph.slot],
        edges=graph.all_edges,
        share=None if costs.share is None else costs.share[graph.slot],
    )


def _on_binding_link(slot: Ints, seconds: Floats, bytes_: Floats, n_slots: int) -> tuple[Floats, Floats]:
    """Bytes of every slot on its slowest link, and per row bytes over those."""
    slowest = np.full(n_slots, -1.0)
    np.maximum.at(slowest, slot, seconds)
    binding = np.flatnonzero(seconds == slowest[slot])[::-1]  # the first of several stands
    size = np.zeros(n_slots)
    size[slot[binding]] = bytes_[binding]
    return size, bytes_ / size[slot]


def _positions(first: Ints, counts: Ints, start: Ints) -> Ints:
    """``first[i], first[i] + 1, ...``, as many as ``counts[i]``, one after the other."""
    places: Ints = np.repeat(first - start[:-1], counts) + np.arange(start[-1])
    return places
