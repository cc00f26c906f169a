"""Which links can hold a flow back: the others need not be looked at when rates are shared out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ffsim.engine.flows import Flows
from ffsim.engine.graph import Csr, Floats, Ints

CLOSE = 1e-9  # as in the solver: a link filled to within this is full


def without_idle_links(flows: Flows, turn: Ints, capacity_bytes_per_s: Floats) -> Flows:
    """The same flows on fewer links, with the same rates at all times.

    A flow is never faster than it would be alone, on the link that binds it then. A link that could carry all that may
    use it at once at these rates holds nobody back, and neither does one that is used by the same flows as another,
    each of which would keep that one busy for at least as long. Every flow keeps the link that binds it alone.

    Args:
        flows: what is sent; every flow has bytes.
        turn: ``[n_flows]`` flows of one number take turns: no two of them are under way at once.
        capacity_bytes_per_s: ``[n_links]``.
    """
    hops = np.diff(flows.links.start)
    flow, link = np.repeat(np.arange(len(flows)), hops), flows.links.values
    weight = np.ones(len(link)) if flows.weight is None else flows.weight
    seconds = flows.size_bytes[flow] * weight / capacity_bytes_per_s[link]
    alone = np.zeros(len(flows))
    np.maximum.at(alone, flow, seconds)
    may_fill = _worst_use(turn[flow], link, seconds / alone[flow], len(capacity_bytes_per_s)) > 1 + CLOSE
    binds = np.zeros(len(link), dtype=bool)
    binding = np.flatnonzero(seconds == alone[flow])[::-1]  # the first of several stands
    last = np.full(len(flows), -1)
    last[flow[binding]] = binding
    binds[last[last >= 0]] = True
    kept = may_fill[link]
    kept[kept] = ~_outdone(flow[kept], link[kept], seconds[kept])
    kept |= binds
    start = np.append(0, np.cumsum(np.bincount(flow[kept], minlength=len(flows))))
    return replace(flows, links=Csr(start, link[kept]), weight=weight[kept])


def _worst_use(turn: Ints, link: Ints, use: Floats, n_links: int) -> Floats:
    """``[n_links]`` share of each link that is wanted at most: of those that take turns, the most demanding."""
    pairs, place = np.unique(link * (int(turn.max(initial=0)) + 1) + turn, return_inverse=True)
    most = np.zeros(len(pairs))
    np.maximum.at(most, place.ravel(), use)
    return np.bincount(pairs // (int(turn.max(initial=0)) + 1), most, minlength=n_links)


def _outdone(flow: Ints, link: Ints, seconds: Floats) -> Ints:
    """Which hops are on a link that another one with the same flows always fills first."""
    order = np.lexsort((flow, link))
    flow, link, seconds = flow[order], link[order], seconds[order]
    begin = np.flatnonzero(np.diff(link, prepend=-1))
    count = np.diff(np.append(begin, len(link)))
    if not len(begin):
        return np.zeros(0, dtype=bool)
    mixed = (flow + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    users = np.add.reduceat(mixed, begin)
    total = np.add.reduceat(seconds, begin)
    by_users = np.lexsort((np.arange(len(begin)), -total, count, users))  # the busiest link of the same users first
    new = np.ones(len(begin), dtype=bool)
    new[1:] = (np.diff(users[by_users]) != 0) | (np.diff(count[by_users]) != 0)
    leader = np.empty(len(begin), dtype=np.int64)
    leader[by_users] = by_users[np.flatnonzero(new)[np.cumsum(new) - 1]]
    own = np.repeat(np.arange(len(begin)), count)
    other = begin[leader][own] + np.arange(len(link)) - begin[own]
    covered = (flow[other] == flow) & (seconds <= seconds[other])
    outdone = np.logical_and.reduceat(covered, begin) & (leader != np.arange(len(begin)))
    result = np.empty(len(link), dtype=bool)
    result[order] = outdone[own]
    return result
