"""What held up the last flow to end: back from it, over the flows that it waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.engine import NO_LINK, Csr, Flows, FlowTimes
from ffsim.topology import LinkKind, Topology

Floats = np.ndarray[Any, Any]

LATENCY = "latency"
OWN_CAP = "own limit of a flow"
WAITING = "waiting for its start"


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalPath:
    """The chain of flows that made the answer as long as it is.

    Attributes:
        seconds: what each cause took of it: kinds of links by their names, `LATENCY`, `OWN_CAP`, `WAITING`; most first.
        name: the cause that took most: the link of that kind with most seconds, in words, or the cause itself.
    """

    seconds: dict[str, float]
    name: str


def critical_path(topology: Topology, flows: Flows, times: FlowTimes, last: int) -> CriticalPath:
    """Walk back from a flow to the beginning.

    Args:
        topology: what the links belong to.
        flows: all flows that ran.
        times: when they did.
        last: where the walk starts.
    """
    edges = np.zeros((0, 2), dtype=np.int64) if flows.edges is None else flows.edges
    before = Csr.of(edges[:, 1], edges[:, 0], len(flows))
    latency = np.zeros(len(flows)) if flows.latency_s is None else flows.latency_s
    by_cause: dict[str, float] = {}
    by_link: dict[int, float] = {}
    at = last
    while True:
        start, end = float(times.start_s[at]), float(times.end_s[at])
        wait = min(float(latency[at]), end - start)
        link = int(times.bottleneck[at])
        cause = OWN_CAP if link == NO_LINK else kind_name(topology, link)
        by_cause[LATENCY] = by_cause.get(LATENCY, 0.0) + wait
        by_cause[cause] = by_cause.get(cause, 0.0) + end - start - wait
        by_link[link] = by_link.get(link, 0.0) + end - start - wait
        earlier = before.values[before.start[at] : before.start[at + 1]]
        if not len(earlier):
            by_cause[WAITING] = by_cause.get(WAITING, 0.0) + start
            break
        at = int(earlier[times.end_s[earlier].argmax()])
        gap = start - float(times.end_s[at])
        by_cause[WAITING] = by_cause.get(WAITING, 0.0) + max(gap, 0.0)
    seconds = dict(sorted(((name, s) for name, s in by_cause.items() if s > 0), key=lambda pair: -pair[1]))
    main = next(iter(seconds), LATENCY)
    links = [link for link in by_link if link != NO_LINK and kind_name(topology, link) == main]
    if not links:
        return CriticalPath(seconds=seconds, name=main)
    longest = max(by_link[link] for link in links)
    first = min(link for link in links if by_link[link] >= longest * (1 - 1e-9))
    return CriticalPath(seconds=seconds, name=topology.link_name(first))


def kind_name(topology: Topology, link: int) -> str:
    """A link's kind as words."""
    return LinkKind(topology.link_kind[link]).name.lower().replace("_", "-")


def serial_s(flows: Flows, capacity_bytes_per_s: Floats) -> float:
    """An upper bound of the makespan: every flow alone, one after the other.

    While any flow streams, some link is full, and the flows on it are none of them slower than that link alone would
    let them be in all: so work, counted in seconds that each flow needs alone, goes down by at least one a second.
    """
    alone = alone_s(flows, capacity_bytes_per_s)
    waits = 0.0 if flows.latency_s is None else float(flows.latency_s.sum())
    first = 0.0 if flows.start_s is None else float(flows.start_s.max(initial=0.0))
    return first + waits + float(alone.sum())


def alone_s(flows: Flows, capacity_bytes_per_s: Floats) -> Floats:
    """``[n_flows]`` seconds that every flow streams on idle links."""
    return flows.size_bytes / np.maximum(alone_rate(flows, capacity_bytes_per_s)[0], np.finfo(float).tiny)


def alone_rate(flows: Flows, capacity_bytes_per_s: Floats) -> tuple[Floats, Floats]:
    """Rate of every flow on idle links, infinite without links, and the link that sets it (`NO_LINK` for its cap)."""
    n, links = len(flows), flows.links.values
    weight = np.ones(len(links)) if flows.weight is None else flows.weight
    owner = np.repeat(np.arange(n), np.diff(flows.links.start))
    limit = np.asarray(capacity_bytes_per_s)[links] / weight
    rate = np.full(n, np.inf) if flows.cap_bytes_per_s is None else np.array(flows.cap_bytes_per_s, dtype=float)
    np.minimum.at(rate, owner, limit)
    held = np.full(n, NO_LINK)
    binding = np.flatnonzero(limit == rate[owner])[::-1]
    held[owner[binding]] = links[binding]
    return rate, held


def earliest(flows: Flows, capacity_bytes_per_s: Floats) -> tuple[Floats, Floats]:
    """Start and end of every flow if no two ever shared a link: ``[n_flows]`` each, lower bounds."""
    edges = np.zeros((0, 2), dtype=np.int64) if flows.edges is None else flows.edges
    start = np.zeros(len(flows)) if flows.start_s is None else np.array(flows.start_s, dtype=float)
    length = alone_s(flows, capacity_bytes_per_s) + (0.0 if flows.latency_s is None else flows.latency_s)
    after = Csr.of(edges[:, 0], edges[:, 1], len(flows)).lists()
    waiting = np.bincount(edges[:, 1], minlength=len(flows)).tolist()
    ready = [flow for flow, n in enumerate(waiting) if not n]
    while ready:
        flow = ready.pop()
        for following in after[flow]:
            start[following] = max(start[following], start[flow] + length[flow])
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)
    return start, start + length


def busiest_s(flows: Flows, capacity_bytes_per_s: Floats) -> float:
    """How long the busiest link needs for all bytes that cross it: a lower bound of the makespan."""
    weight = np.ones(len(flows.links.values)) if flows.weight is None else flows.weight
    moved = np.repeat(flows.size_bytes, np.diff(flows.links.start)) * weight
    loads = np.bincount(flows.links.values, moved, minlength=len(capacity_bytes_per_s))
    used = loads > 0
    return float((loads[used] / np.asarray(capacity_bytes_per_s)[used]).max(initial=0.0))
