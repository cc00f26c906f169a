"""Collectives folded by symmetry to a flow a step, on the busiest links, and bounds of any flows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ffsim.collectives.data import Collective, Floats, Ints, Step
from ffsim.engine import Csr, Flows, simulate_flows
from ffsim.topology import LinkKind, RoutingRule, Topology

INSIDE = (LinkKind.SCALE_UP, LinkKind.BRIDGE, LinkKind.PCIE, LinkKind.NIC_PCIE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bounds:
    """What flows cannot be faster than.

    Attributes:
        busy_s: the busiest link without a pause.
        chain_s: the longest chain of flows that have their links to themselves.
        link: the busiest link.
    """

    busy_s: float
    chain_s: float
    link: int


def bounds_of(flows: Flows, capacity_bytes_per_s: Floats) -> Bounds:
    """Bounds of any flows."""
    hops = np.diff(flows.links.start)
    weight = np.ones(len(flows.links.values)) if flows.weight is None else flows.weight
    flow = np.repeat(np.arange(len(flows)), hops)
    moved = np.bincount(flows.links.values, flows.size_bytes[flow] * weight, minlength=len(capacity_bytes_per_s))
    busy = np.divide(moved, capacity_bytes_per_s, out=np.zeros(len(moved)), where=moved > 0)
    alone = np.zeros(len(flows))
    np.maximum.at(alone, flow, flows.size_bytes[flow] * weight / capacity_bytes_per_s[flows.links.values])
    latency = alone if flows.latency_s is None else flows.latency_s + alone
    nowhere = Csr(np.zeros(len(flows) + 1, dtype=np.int64), np.zeros(0, dtype=np.int64))
    chain = replace(flows, links=nowhere, weight=None, latency_s=latency, lane=None)
    return Bounds(
        busy_s=float(busy.max(initial=0.0)),
        chain_s=simulate_flows(chain, capacity_bytes_per_s).makespan_s,
        link=int(busy.argmax()) if len(busy) else 0,
    )


def fold_steps(
    collective: Collective, topology: Topology, members: Ints, rule: RoutingRule | None = None, *, lane: int = 0
) -> Flows:
    """One flow a step, over the busiest link of every kind and direction: exact where all ranks are alike.

    A step that is repeated is one flow of as many times the bytes and the latency.

    Args:
        collective: what the group does.
        topology: the cluster.
        members: ``[n_ranks]``, the vertex of every rank.
        rule: how flows find their way; the cluster's own if left out.
        lane: virtual lane of the flows.
    """
    classes = 2 * topology.link_kind.astype(np.int64) + (np.arange(topology.n_links) & 1)
    rows: list[Ints] = []
    weights: list[Floats] = []
    sizes, latencies = [], []
    for step in collective.steps:
        loads, latency = step_loads(step, topology, members, rule)
        used = np.flatnonzero(loads)
        seconds = topology.busy_s(loads)[used]
        order = np.lexsort((used, -seconds))
        _, first = np.unique(classes[used[order]], return_index=True)
        links = used[order][np.sort(first)]
        size = float(loads[links[0]]) if len(links) else 0.0
        rows.append(links)
        weights.append(loads[links] / size if size else loads[links])
        sizes.append(step.repeat * size)
        latencies.append(step.repeat * latency)
    n = len(sizes)
    return Flows(
        links=Csr(np.cumsum([0, *map(len, rows)]), np.concatenate([np.zeros(0, dtype=np.int64), *rows])),
        size_bytes=np.array(sizes),
        weight=np.concatenate([np.zeros(0), *weights]),
        latency_s=np.array(latencies),
        edges=np.stack([np.arange(n - 1), np.arange(1, n)], axis=1) if n > 1 else None,
        lane=np.full(n, lane) if lane else None,
    )


def step_loads(step: Step, topology: Topology, members: Ints, rule: RoutingRule | None = None) -> tuple[Floats, float]:
    """``[n_links]`` bytes of one run of a step, and its longest latency in seconds."""
    if step.exchange and _folds(topology, members, rule):
        return _exchange_loads(float(step.bytes_[0]), topology, members, rule)
    routes = topology.routes(members[step.src], members[step.dst], rule)
    return topology.loads(routes, step.bytes_), float(routes.latency_s.max(initial=0.0))


def _folds(topology: Topology, members: Ints, rule: RoutingRule | None) -> bool:
    """Whether members at one switch send alike: one rank a node, ways chosen by the destination."""
    nodes = topology.node_of(members)
    return (rule or topology.rule).kind == "d_mod_k" and len(np.unique(nodes)) == len(members)


def _exchange_loads(bytes_: float, topology: Topology, members: Ints, rule: RoutingRule | None) -> tuple[Floats, float]:
    """Loads of an exchange between all: one member of every switch stands for all of them.

    Beyond their switch, flows of its members to one destination take one way; up to it, each member has links of its
    own, which carry what the representative's carry. In two levels one switch of each sort stands for all besides: what
    leaves it loads the links up, what arrives at it the links down. Links that are stood for count as carrying nothing.
    """
    switch, first, place, count = np.unique(
        topology.first_switch(members), return_index=True, return_inverse=True, return_counts=True
    )
    senders = np.arange(len(switch))
    if np.isin(topology.link_kind, (*INSIDE, LinkKind.ACCESS, LinkKind.LEAF_SPINE)).all():
        up = np.bincount(topology.src[topology.link_kind == LinkKind.LEAF_SPINE], minlength=topology.n_vertices)
        _, shown = np.unique(count * (up.max() + 1) + up[switch], return_index=True)
        leaving = _loads(bytes_, topology, members[first], count, (shown, members), rule)
        arriving = _loads(bytes_, topology, members[first], count, (senders, members[np.isin(place, shown)]), rule)
        even = np.arange(topology.n_links) % 2 == 0
        return np.where(even, leaving[0], arriving[0]), max(leaving[1], arriving[1])
    return _loads(bytes_, topology, members[first], count, (senders, members), rule)


def _loads(
    bytes_: float,
    topology: Topology,
    representative: Ints,
    count: Ints,
    between: tuple[Ints, Ints],
    rule: RoutingRule | None,
) -> tuple[Floats, float]:
    """Loads of what the members of some switches send to some destinations, and the longest latency."""
    at, to = between
    src, dst = np.repeat(representative[at], len(to)), np.tile(to, len(at))
    apart = src != dst
    src, dst, times = src[apart], dst[apart], np.repeat(count[at], len(to))[apart]
    times = times - (topology.first_switch(src) == topology.first_switch(dst))
    routes = topology.routes(src, dst, rule)
    start, links, _ = routes.lists()
    flow = np.repeat(np.arange(len(src)), np.diff(start))
    own = _own_links(topology, links, start, flow)
    loads = np.bincount(links, np.where(own, 1, times[flow]) * bytes_, minlength=topology.n_links)
    return loads.astype(np.float64), float(routes.latency_s.max(initial=0.0))


def _own_links(topology: Topology, links: Ints, start: Ints, flow: Ints) -> Ints:
    """Whether each hop is crossed before its flow reaches its first switch."""
    access = np.flatnonzero((topology.link_kind[links] == LinkKind.ACCESS) & (links % 2 == 0))
    leaving = np.zeros(len(start) - 1, dtype=np.int64)
    leaving[flow[access]] = access
    return np.arange(len(links)) <= leaving[flow]
