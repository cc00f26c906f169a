"""Head-of-line blocking: what an incast does to its neighbours where nothing is dropped and nobody slows down."""

from __future__ import annotations

import numpy as np

from ffsim.engine.flows import NO_LINK
from ffsim.engine.graph import Floats, Ints


def held_back(
    flow: Ints, link: Ints, weight: Floats, rate: Floats, bottleneck: Ints, lane: Ints, stage: Ints
) -> tuple[Floats, Ints]:
    """Rates in a lossless fabric without congestion control.

    A flow that is held back at a link fills the buffers of every link before it. Those behind it in the same queue
    cannot pass: on each link, flows of one lane go no faster than the slowest that waits for a link further on. Flows
    held back so hold back others in turn.

    Args:
        flow: ``[n_hops]``, in order.
        link: ``[n_hops]``.
        weight: ``[n_hops]``, share of the flow's bytes on the link (below 1 where it is spread over several ways).
        rate: ``[n_flows]``, max-min fair. [bytes/s]
        bottleneck: ``[n_flows]``, link that holds each back, `NO_LINK` for its own cap.
        lane: ``[n_flows]``, virtual lane: each has buffers of its own.
        stage: ``[n_links]``, grows along every way.

    Returns:
        ``[n_flows]`` rates, and the link that holds each back now.

    Domain: the worst case, as if queues were always full and served in turn. Bandwidth that victims leave is not given
    to others. Packet-level runs with RoCE and PFC but without congestion control slow victims of a 32-to-1 incast by 7
    to 25 times (csg-htsim, see docs/explanation/network.md), this by up to 32.

    >>> one_and_two = np.array([0, 0, 1, 1])  # flow 0 waits at link 1, flow 1 would go on to link 2
    >>> links, ones = np.array([0, 1, 0, 2]), np.ones(4)
    >>> rates = np.array([1.0, 9.0])
    >>> held_back(one_and_two, links, ones, rates, np.array([1, 0]), np.zeros(2, dtype=int), np.array([0, 1, 1]))[0]
    array([1., 1.])
    """
    rate, bottleneck = rate.copy(), bottleneck.copy()
    n_lanes = int(lane.max(initial=0)) + 1
    queue = link * n_lanes + lane[flow]
    at = stage[link]
    while True:
        beyond = np.where(bottleneck == NO_LINK, -1, stage[bottleneck])
        waits = beyond[flow] > at
        slowest = np.full(int(queue.max(initial=0)) + 1, np.inf)
        np.minimum.at(slowest, queue[waits], rate[flow[waits]] * weight[waits])
        allowed = slowest[queue] / weight
        tighter = allowed < rate[flow] * (1 - 1e-9)
        if not tighter.any():
            return rate, bottleneck
        order = np.flatnonzero(tighter)
        order = order[np.argsort(-allowed[order], kind="stable")]  # the tightest is written last
        rate[flow[order]] = allowed[order]
        bottleneck[flow[order]] = link[order]
