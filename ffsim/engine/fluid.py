"""Fluid flows on shared links: the one place where bytes become seconds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np

from ffsim.engine import plain
from ffsim.engine.flows import NO_LINK, Flows, FlowTimes, columns
from ffsim.engine.graph import Floats, Ints
from ffsim.errors import SimulationError

if TYPE_CHECKING:
    from ffsim.engine.compiled import State

Twin = Literal["compiled", "plain"]
LOG = logging.getLogger(__name__)


def simulate_flows(
    flows: Flows,
    capacity_bytes_per_s: Floats,
    *,
    lanes: Sequence[float] = (),
    window_s: float = 0.0,
    twin: Twin = "compiled",
    blocking_stage: Ints | None = None,
) -> FlowTimes:
    """Run flows over shared links at max-min fair rates.

    At every instant no flow could go faster without slowing one that is no faster (relative to its share). Everything
    that is due at one instant happens at once.

    Args:
        flows: what is sent.
        capacity_bytes_per_s: ``[n_links]``, > 0 where used.
        lanes: weight of each virtual lane. On every link a lane is guaranteed its share among the lanes that are busy
            there; what lanes leave is shared by max-min among all flows.
        window_s: flows due within so long of each other end in one go, each at its own time, and rates are worked out
            once, in the middle: faster, and no flow's end is moved by more than about half the window each time rates
            change on its way. 0 is exact; the plain twin always is.
        twin: the compiled solver, or the plain one that it is checked against.
        blocking_stage: ``[n_links]``, a number that grows along every way (`ffsim.topology.Topology.stages`): adds
            head-of-line blocking, as in a lossless fabric without congestion control
            (`ffsim.engine.head_of_line.held_back`). Runs on the plain twin.

    Raises:
        ValueError: sizes, latencies, times, weights, shares or capacities out of their range.
        SimulationError: flows that wait for each other in a circle.

    Domain: fluid. Within 8 % of packet level for permutations, all-to-alls and incasts under working congestion
    control; optimistic by 7 to 25 times for the victims of an incast on lossless fabrics without (csg-htsim runs, see
    docs/explanation/network.md).

    >>> from ffsim.engine import Csr
    >>> links = Csr(np.array([0, 2, 3]), np.array([0, 1, 1]))
    >>> two = Flows(links=links, size_bytes=np.array([100.0, 100.0]))
    >>> simulate_flows(two, np.array([100.0, 150.0])).end_s.round(3).tolist()
    [1.333, 1.333]
    """
    check(flows, capacity_bytes_per_s, lanes)
    if twin == "plain" or blocking_stage is not None:
        return plain.simulate(flows, np.asarray(capacity_bytes_per_s, dtype=np.float64), lanes, blocking_stage)
    if not len(flows.links.values):
        return _without_links(flows, len(capacity_bytes_per_s))
    state = _run(flows, capacity_bytes_per_s, lanes, window_s=window_s)
    return _times(load_kernel(), state, flows, len(capacity_bytes_per_s))


def link_use(
    flows: Flows, capacity_bytes_per_s: Floats, end_s: float, *, bins: int = 100, lanes: Sequence[float] = ()
) -> Floats:
    """How full every link is over time: the flows run again with a record.

    Args:
        flows: as for `simulate_flows`.
        capacity_bytes_per_s: ``[n_links]``.
        end_s: where the last stretch ends; what flows do later is left out. [s]
        bins: stretches of equal length.
        lanes: weight of each virtual lane.

    Returns:
        ``[bins, n_links]``, carried over what could have been, mean of each stretch.

    Raises:
        ValueError: no stretches, no time, or what `simulate_flows` refuses.
    """
    if end_s <= 0 or bins < 1:
        raise ValueError(f"need end_s > 0 and bins >= 1, got {end_s=}, {bins=}")
    check(flows, capacity_bytes_per_s, lanes)
    width, capacity = end_s / bins, np.asarray(capacity_bytes_per_s, dtype=np.float64)
    state = _run(flows, capacity, lanes, bins=bins, bin_s=width)
    use: Floats = np.divide(state.bins, width * capacity, out=np.zeros_like(state.bins), where=capacity > 0)
    return use


def load_kernel(entry: Literal["run", "run_teams"] = "run") -> ModuleType:
    """The compiled solver; says so when it must be compiled first, which takes some seconds, once."""
    from ffsim.engine import compiled  # noqa: PLC0415 - Numba takes a moment to load

    if not compiled.is_ready(entry):
        LOG.info("compiling the flow solver: some seconds, once; kept for later runs")
    return compiled


def check(flows: Flows, capacity_bytes_per_s: Floats, lanes: Sequence[float]) -> None:
    """Refuse what cannot be run.

    Raises:
        ValueError: a figure out of range; the message names the column.
    """
    c, capacity = columns(flows), np.asarray(capacity_bytes_per_s)
    links = flows.links.values
    if len(links) and not 0 <= links.min() <= links.max() < len(capacity):
        raise ValueError(f"links: 0 to {len(capacity) - 1} are there, got {links.min()} to {links.max()}")
    positive = {"capacity": capacity[links], "weight": c.weight, "share": c.share, "cap": c.cap}
    if len(lanes):
        positive["lanes"] = np.asarray(lanes, dtype=float)
    for name, values in positive.items():
        if not (values > 0).all():
            raise ValueError(f"{name}: must be > 0, got {values[~(values > 0)][0]}")
    if not np.isfinite(capacity[links]).all():
        raise ValueError("capacity: must be finite")
    for name, values in {"size": c.size_bytes, "latency": c.latency_s, "start": c.start_s}.items():
        good = (values >= 0) & np.isfinite(values)
        if not good.all():
            raise ValueError(f"{name}: must be finite and >= 0, got {values[~good][0]}")
    if len(flows) and not 0 <= c.lane.min() <= c.lane.max() < max(len(lanes), 1):
        raise ValueError(f"lane: {max(len(lanes), 1)} lanes are there, got {c.lane.min()} to {c.lane.max()}")


def _run(
    flows: Flows,
    capacity: Floats,
    lanes: Sequence[float],
    *,
    window_s: float = 0.0,
    bins: int = 0,
    bin_s: float = 1.0,
) -> State:
    kernel = load_kernel()
    state: State = kernel.empty_state(
        capacity, lanes, window_s=window_s, bins=bins, bin_s=bin_s, weighted=flows.weight is not None
    )
    state, first, stop = kernel.add_flows(state, flows, grow=False)
    kernel.begin(state, first, stop)
    kernel.run(state, np.inf)
    if state.left[0]:
        raise SimulationError(f"{state.left[0]} of {len(flows)} flows never ran: {plain.CIRCLE}")
    return state


def _without_links(flows: Flows, n_links: int) -> FlowTimes:
    start, end, n_ended = load_kernel().times_without_links(flows)
    if n_ended < len(flows):
        raise SimulationError(f"{len(flows) - n_ended} of {len(flows)} flows never ran: {plain.CIRCLE}")
    return FlowTimes(
        start_s=start,
        end_s=end,
        bottleneck=np.full(len(flows), NO_LINK),
        link_bytes=np.zeros(n_links),
        n_events=len(flows),
        n_reallocations=0,
    )


def _times(kernel: ModuleType, state: State, flows: Flows, n_links: int) -> FlowTimes:
    return FlowTimes(
        start_s=state.flow["start_s"].copy(),
        end_s=state.flow["end_s"].copy(),
        bottleneck=state.flow["bottleneck"].copy(),
        link_bytes=columns(flows).link_bytes(flows, n_links),
        n_events=int(state.count[kernel.N_EVENTS]),
        n_reallocations=int(state.count[kernel.N_SOLVES]),
    )
