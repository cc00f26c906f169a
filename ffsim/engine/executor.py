"""Runs task graphs: a transfer is a flow whose latency is its time on its lane."""

from __future__ import annotations

import numpy as np

from ffsim.engine.flows import Flows
from ffsim.engine.fluid import Twin, simulate_flows
from ffsim.engine.graph import Costs, Csr, Floats, Ints, TaskGraph, Timeline
from ffsim.engine.teams import Crew, CrewCosts, execute_crew


def execute(graph: TaskGraph, costs: Costs, *, twin: Twin = "compiled") -> Timeline:
    """Run one task graph by itself.

    Raises:
        SimulationError: some tasks wait for each other in a circle.
    """
    if twin == "plain":
        times = simulate_flows(task_flows(graph, costs), costs.capacity_bytes_per_s, twin=twin)
        return Timeline(times.start_s, times.end_s, times.n_events)
    n_slots = len(costs.duration_s)
    sent = transfers(costs)
    messages = np.where(sent.size_bytes > 0, np.arange(n_slots), -1)
    alone = CrewCosts(
        duration_s=costs.duration_s, first=messages, messages=sent, capacity_bytes_per_s=costs.capacity_bytes_per_s
    )
    return execute_crew(graph, Crew.alone(n_slots), alone).of(0)


def task_flows(graph: TaskGraph, costs: Costs) -> Flows:
    """The tasks of a graph as flows, to run them beside others.

    A task is idle for its duration and then moves its bytes.
    """
    sent = transfers(costs).picked(graph.slot)
    return Flows(
        links=sent.links,
        size_bytes=sent.size_bytes,
        weight=sent.weight,
        latency_s=costs.duration_s[graph.slot],
        edges=graph.all_edges,
        share=sent.share,
    )


def transfers(costs: Costs) -> Flows:
    """What every slot moves; the rate of a slot is counted on the link that would bind it alone."""
    row = costs.moves.values
    kept = costs.bytes_[row] > 0
    slot = np.repeat(np.arange(len(costs.moves.start) - 1), np.diff(costs.moves.start))[kept]
    row = row[kept]
    start = np.zeros(len(costs.moves.start), dtype=np.int64)
    np.cumsum(np.bincount(slot, minlength=len(start) - 1), out=start[1:])
    seconds = costs.bytes_[row] / costs.capacity_bytes_per_s[costs.link[row]]
    size, weight = _on_binding_link(slot, seconds, costs.bytes_[row], len(start) - 1)
    return Flows(links=Csr(start, costs.link[row]), size_bytes=size, weight=weight, share=costs.share)


def _on_binding_link(slot: Ints, seconds: Floats, bytes_: Floats, n_slots: int) -> tuple[Floats, Floats]:
    """Bytes of every slot on its slowest link, and per row bytes over those."""
    slowest = np.full(n_slots, -1.0)
    np.maximum.at(slowest, slot, seconds)
    binding = np.flatnonzero(seconds == slowest[slot])[::-1]  # the first of several stands
    size = np.zeros(n_slots)
    size[slot[binding]] = bytes_[binding]
    return size, bytes_ / size[slot]
