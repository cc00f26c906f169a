"""The compiled solver and the arrays it works on: laid out, filled with flows, made longer when more come.

Imported only when it is needed (`ffsim.engine.fluid.load_kernel`), as Numba takes a moment to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ffsim.engine import kernel, order
from ffsim.engine.flows import Columns, Flows, columns
from ffsim.engine.graph import Floats
from ffsim.engine.kernel import (
    N_EVENTS,
    N_FLOWS,
    N_HEAP,
    N_LANES,
    N_LEFT,
    N_SOLVES,
    NO_LINK,
    NOW,
    STAMP,
    WEIGHTED,
    begin,
    change_capacity,
    run,
    run_teams,
)
from ffsim.engine.records import CELL, FLOW, HOP, State

__all__ = [
    "NOW",
    "N_EVENTS",
    "N_HEAP",
    "N_LEFT",
    "N_SOLVES",
    "State",
    "add_flows",
    "begin",
    "change_capacity",
    "empty_state",
    "is_ready",
    "run",
    "run_teams",
    "times_without_links",
]


def is_ready(entry: str = "run") -> bool:
    """Whether an entry of the solver is compiled already: in this process, or in a cache as new as its source."""
    compiled = getattr(kernel, entry)
    if compiled.signatures:
        return True
    source = Path(str(kernel.__file__))
    files = Path(str(compiled.stats.cache_path)).glob(f"{source.stem}.{entry}-*.nbi")
    return any(file.stat().st_mtime >= source.stat().st_mtime for file in files)


def empty_state(
    capacity_bytes_per_s: Floats,
    lanes: Sequence[float] = (),
    *,
    window_s: float = 0.0,
    bins: int = 0,
    bin_s: float = 1.0,
    weighted: bool = True,
) -> State:
    """No flows yet.

    Args:
        capacity_bytes_per_s: ``[n_links]``.
        lanes: weight of each virtual lane; one lane if left out.
        window_s: flows that are due so close together end in one go. [s]
        bins: stretches of time in which what links carry is recorded; 0 for no record.
        bin_s: length of each. [s]
        weighted: whether any flow will have weights.
    """
    shares = np.asarray(lanes if len(lanes) else (1.0,), dtype=np.float64)
    n_links = len(capacity_bytes_per_s)
    n_cells = n_links * len(shares)
    state = State(
        clock=np.array([0.0, window_s]),
        count=np.zeros(9, dtype=np.int64),
        flow=np.zeros(0, dtype=FLOW),
        hop=np.zeros(0, dtype=HOP),
        cell=np.zeros(n_cells, dtype=CELL),
        weight=np.zeros(0),
        successor=np.zeros(0, dtype=np.int64),
        capacity=np.array(capacity_bytes_per_s, dtype=np.float64),
        lane_share=shares,
        left=np.zeros(0, dtype=np.int64),
        heap=np.zeros(0, dtype=np.int64),
        active=np.zeros(0, dtype=np.int64),
        due=np.zeros(0, dtype=np.int64),
        chosen=np.zeros(0, dtype=np.int64),
        touched=np.zeros(n_cells, dtype=np.int64),
        links=np.zeros(n_links, dtype=np.int64),
        queue=np.zeros(n_cells, dtype=np.int64),
        queue_key=np.zeros(n_cells),
        bins=np.zeros((bins, n_links if bins else 0)),
        bin_s=np.array([bin_s]),
    )
    state.cell["head"] = -1
    state.count[N_LANES] = len(shares)
    state.count[STAMP] = 1
    state.count[WEIGHTED] = weighted
    return state


def add_flows(state: State, flows: Flows, now_s: float = 0.0, *, grow: bool = True) -> tuple[State, int, int]:
    """Put a batch of flows behind those that are there.

    Args:
        state: of the solver.
        flows: their ``start_s`` counts from ``now_s``.
        now_s: the instant. [s]
        grow: leave room for as many more.

    Returns:
        The state with longer arrays where needed, and the flows' numbers: from, to (not included).
    """
    c = columns(flows)
    hops = np.diff(flows.links.start)
    old = int(state.count[N_FLOWS])
    new = old + len(flows)
    used_hops = int(state.flow["stop"][:old].max(initial=0))
    used_edges = int(state.flow["stop_next"][:old].max(initial=0))
    n_hops, n_edges = used_hops + len(flows.links.values), used_edges + len(c.edges)
    state = _with_room(state, new, n_hops, n_edges, grow=grow)
    flow, hop = state.flow[old:new], state.hop[used_hops:n_hops]
    flow["first"] = used_hops + flows.links.start[:-1]
    flow["stop"] = used_hops + flows.links.start[1:]
    hop["link"] = flows.links.values
    hop["owner"] = np.repeat(np.arange(old, new, dtype=np.int32), hops)
    if state.count[WEIGHTED]:
        state.weight[used_hops:n_hops] = c.weight
    before, after = np.ascontiguousarray(c.edges.T, dtype=np.int64)
    start = order.group(before, after, state.successor[used_edges:n_edges], old, len(flows))
    flow["first_next"] = used_edges + start[:-1]
    flow["stop_next"] = used_edges + start[1:]
    flow["batch"] = len(state.left)
    _fill_in(flow, c, now_s)
    state.count[N_FLOWS] = new
    state.count[N_LEFT] += len(flows)
    return state._replace(left=np.append(state.left, len(flows))), old, new


def _fill_in(flow: Any, c: Columns, now_s: float) -> None:
    flow["remaining"] = c.size_bytes
    flow["latency_s"] = c.latency_s
    flow["start_s"] = now_s + c.start_s
    flow["share"] = c.share
    flow["cap"] = c.cap
    flow["lane"] = c.lane
    flow["waiting"] = np.bincount(c.edges[:, 1], minlength=len(c.size_bytes))
    flow["place"] = -1
    flow["bottleneck"] = NO_LINK


def _with_room(state: State, n_flows: int, n_hops: int, n_edges: int, *, grow: bool) -> State:
    """Longer arrays where what is there does not do."""

    def longer(name: str, needed: int, beside: int = 0) -> None:
        array = getattr(state, name)
        if needed + beside > len(array):
            n = max(needed, 2 * (len(array) - beside)) if grow else needed
            changed[name] = np.zeros(n + beside, dtype=array.dtype)
            changed[name][: len(array)] = array

    changed: dict[str, Any] = {}
    for name in ("flow", "heap", "active", "due", "chosen"):
        longer(name, n_flows)
    for name in ("queue", "queue_key"):
        longer(name, n_flows, beside=len(state.cell))
    longer("hop", n_hops)
    if state.count[WEIGHTED]:
        longer("weight", n_hops)
    longer("successor", n_edges)
    return state._replace(**changed)


def times_without_links(flows: Flows) -> tuple[Floats, Floats, int]:
    """Starts and ends of flows none of which has links, and how many have ended.

    Order alone says when they run, so that no clock is needed.
    """
    c = columns(flows)
    before, after = np.ascontiguousarray(c.edges.T, dtype=np.int64)
    successor = np.zeros(len(before), dtype=np.int64)
    first = order.group(before, after, successor, 0, len(flows))
    start = np.array(c.start_s)
    waiting = np.bincount(after, minlength=len(flows))
    end, n_ended = order.longest_paths(start, np.ascontiguousarray(c.latency_s), first, successor, waiting)
    return start, end, int(n_ended)
