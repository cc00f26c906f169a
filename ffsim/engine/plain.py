"""The fluid solver in NumPy, written to be read: what the compiled one is checked against, and used without Numba.

All rates are worked out anew at every event, by rounds: each round fixes the flows of every link whose level (the rate
per unit of share at which it is full) no flow on it could fall below on any of its other links.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from ffsim.engine.flows import NO_LINK, Flows, FlowTimes, columns
from ffsim.engine.graph import Csr, Floats, Ints
from ffsim.engine.head_of_line import held_back
from ffsim.errors import SimulationError

SAME = 1e-12  # closer than rounding is one instant, one level
CLOSE = 1e-9  # a link filled to within this is full
CIRCLE = "they wait for each other in a circle"


def fair_rates(flow: Ints, link: Ints, weight: Floats, share: Floats, cap: Floats, room: Floats) -> tuple[Floats, Ints]:
    """Weighted max-min fair rates.

    Args:
        flow: ``[n_hops]``, in order.
        link: ``[n_hops]``, what the flow crosses there.
        weight: ``[n_hops]``, bytes on the link per byte of the flow.
        share: ``[n_flows]``.
        cap: ``[n_flows]``, infinite for none. [bytes/s]
        room: ``[n_links]``. [bytes/s]

    Returns:
        ``[n_flows]`` rates [bytes/s], and the link that holds each back (`NO_LINK` for its cap).

    >>> one, two = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1])  # flow 1 crosses both links
    >>> ones = np.ones(4)
    >>> fair_rates(one, two, ones, ones[:3], np.full(3, np.inf), np.array([4.0, 10.0]))[0].tolist()
    [2.0, 2.0, 8.0]
    """
    n_flows, n_links = len(share), len(room)
    rate, held = np.zeros(n_flows), np.full(n_flows, NO_LINK)
    room, left = room.copy(), np.ones(n_flows, dtype=bool)
    while left.any():
        demand = np.bincount(link, share[flow] * weight, minlength=n_links)
        level = np.full(n_links, np.inf)
        used = np.unique(link)
        level[used] = np.maximum(room[used], 0.0) / demand[used]
        lowest = np.where(left, cap / share, np.inf)
        np.minimum.at(lowest, flow, level[link])
        unanimous = np.ones(n_links, dtype=bool)
        unanimous[link[level[link] > lowest[flow] * (1 + SAME)]] = False
        fixing = left & (cap / share <= lowest * (1 + SAME))
        at = unanimous[link]
        fixing[flow[at]] = True
        by_link = fixing & (cap / share > lowest)
        rate[fixing] = (lowest * share)[fixing]
        held[flow[at]] = link[at]
        held[~by_link & fixing] = NO_LINK
        left &= ~fixing
        gone = fixing[flow]
        room -= np.bincount(link[gone], rate[flow[gone]] * weight[gone], minlength=n_links)
        flow, link, weight = flow[~gone], link[~gone], weight[~gone]
    return rate, held


def lane_rates(
    flow: Ints, link: Ints, weight: Floats, share: Floats, cap: Floats, room: Floats, lane: Ints, lanes: Floats
) -> tuple[Floats, Ints]:
    """Rates where virtual lanes have shares of every link: what is guaranteed first, then what is left.

    A lane is guaranteed its share among the lanes busy on a link, and its flows share that by max-min; what the lanes
    leave is then shared by max-min among all flows, on top of what each has.

    Args:
        flow: as for `fair_rates`, like ``link``, ``weight``, ``share``, ``cap``, ``room``.
        link: see there.
        weight: see there.
        share: see there.
        cap: see there.
        room: see there.
        lane: ``[n_flows]``.
        lanes: ``[n_lanes]`` weight of each lane.
    """
    n_lanes = len(lanes)
    cell = link * n_lanes + lane[flow]
    busy = np.zeros((len(room), n_lanes), dtype=bool)
    busy.ravel()[cell] = True
    total = np.maximum((busy * lanes).sum(axis=1, keepdims=True), np.finfo(float).tiny)
    guaranteed = (room[:, None] * busy * lanes / total).ravel()
    rate, _ = fair_rates(flow, cell, weight, share, cap, guaranteed)
    left = room - np.bincount(link, rate[flow] * weight, minlength=len(room))
    left[left <= room * CLOSE] = 0.0
    more, held = fair_rates(flow, link, weight, share, np.maximum(cap - rate, 0.0), left)
    return rate + more, held


def simulate(
    flows: Flows, capacity_bytes_per_s: Floats, lanes: Sequence[float] = (), stage: Ints | None = None
) -> FlowTimes:
    """Run flows; see `ffsim.engine.simulate_flows`."""
    c, n = columns(flows), len(flows)
    first, hops = flows.links.start, np.diff(flows.links.start)
    successors = Csr.of(c.edges[:, 0], c.edges[:, 1], n).lists()
    waiting = np.bincount(c.edges[:, 1], minlength=n).tolist()
    start, end, held = c.start_s.copy(), np.zeros(n), np.full(n, NO_LINK)
    remaining, rate = c.size_bytes.copy(), np.zeros(n)
    streams = (remaining > 0) & (hops > 0)
    pending = [(start[f] + c.latency_s[f], f) for f in range(n) if not waiting[f]]
    heapq.heapify(pending)
    active, due, now, n_events, n_solves = np.zeros(0, dtype=np.int64), np.zeros(0), 0.0, 0, 0
    while pending or len(active):
        at = min(due.min(initial=np.inf), pending[0][0] if pending else np.inf)
        remaining[active] -= rate[active] * (at - now)
        now = at
        over = due <= now * (1 + SAME)
        ended = list(zip(due[over].tolist(), active[over].tolist(), strict=True))
        active, entering = active[~over], []
        while ended or (pending and pending[0][0] <= now * (1 + SAME)):
            n_events += 1
            if not ended:
                when, flow = heapq.heappop(pending)
                if streams[flow]:
                    entering.append(flow)
                    continue
                ended.append((when, flow))
            when, flow = ended.pop()
            end[flow] = when
            for following in successors[flow]:
                start[following] = max(start[following], when)
                waiting[following] -= 1
                if not waiting[following]:
                    heapq.heappush(pending, (start[following] + c.latency_s[following], following))
        active = np.append(active, np.array(entering, dtype=np.int64))
        count = hops[active]
        hop = np.repeat(first[active] - np.cumsum(count) + count, count) + np.arange(count.sum())
        inputs = (np.repeat(np.arange(len(active)), count), flows.links.values[hop], c.weight[hop])
        shares = (c.share[active], c.cap[active], capacity_bytes_per_s)
        if len(lanes) > 1:
            found = lane_rates(*inputs, *shares, c.lane[active], np.asarray(lanes, dtype=float))
        else:
            found = fair_rates(*inputs, *shares)
        if stage is not None:
            found = held_back(*inputs, *found, c.lane[active], stage)
        rate[active], held[active] = found
        n_solves += 1
        due = now + remaining[active] / rate[active]
    if any(waiting):
        raise SimulationError(f"{sum(map(bool, waiting))} of {n} flows never ran: {CIRCLE}")
    return FlowTimes(
        start_s=start,
        end_s=end,
        bottleneck=held,
        link_bytes=c.link_bytes(flows, len(capacity_bytes_per_s)),
        n_events=n_events,
        n_reallocations=n_solves,
    )
