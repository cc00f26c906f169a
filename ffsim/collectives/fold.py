"""Collectives on a cluster: how much each kind of link carries, what that costs idle, and every flow for the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.collectives.data import Collective, Floats, Ints
from ffsim.engine import NO_LANE, Costs, Csr, TaskGraph
from ffsim.topology import LinkKind, Topology

N_CLASSES = 2 * len(LinkKind)


def link_class(kind: LinkKind, *, back: bool = False) -> int:
    """Number of a class of links: a kind and a direction (out of the GPU and up, or ``back``)."""
    return 2 * int(kind) + back


@dataclass(frozen=True, slots=True)
class Demand:
    """What a symmetric collective asks of the links, seen from one rank.

    All groups that run it at the same time are counted, so a link shared by several ranks shows the load of them all.

    Attributes:
        latency_s: of all steps.
        hops: ``[len(LinkKind)]`` links of each kind on the longest way of every step, added up: what the latency is of.
        bytes_: ``[N_CLASSES]`` on the busiest link of each class (`link_class`), over all steps.
        capacity_bytes_per_s: ``[N_CLASSES]`` of that link, infinite where a class is not used.
        imbalance: busiest over mean loaded link of the class that binds; 1 where the symmetry is exact.
    """

    latency_s: float
    hops: Floats
    bytes_: Floats
    capacity_bytes_per_s: Floats
    imbalance: float

    @property
    def idle_s(self) -> float:
        """Time on links that carry nothing else."""
        return self.latency_s + float((self.bytes_ / self.capacity_bytes_per_s).max(initial=0.0))

    @property
    def binding(self) -> LinkKind | None:
        """The kind of link that takes longest, none for an empty collective."""
        times = self.bytes_ / self.capacity_bytes_per_s
        return LinkKind(int(times.argmax()) // 2) if times.max(initial=0.0) > 0 else None


def fold(collective: Collective, topology: Topology, groups: Ints) -> Demand:
    """Reduce a collective, run by several groups at once, to its demand on one rank's links.

    Args:
        collective: what each group does.
        topology: the cluster.
        groups: ``[n_groups, n_ranks]`` GPU of every rank of every group.

    Returns:
        Exact where all ranks are alike; where they are not, the busiest link of each class stands for all of it and
        ``imbalance`` says by how much that overstates the mean.
    """
    classes = 2 * topology.link_kind.astype(np.int64) + (np.arange(topology.n_links) & 1)
    bytes_, capacity = np.zeros(N_CLASSES), np.full(N_CLASSES, np.inf)
    latency, imbalance = 0.0, 1.0
    hops = np.zeros(len(LinkKind))
    for step in collective.steps:
        routes = topology.routes(groups[:, step.src].ravel(), groups[:, step.dst].ravel())
        loads = topology.loads(routes, np.tile(step.bytes_, len(groups)))
        seconds = loads / topology.bandwidth_bytes_per_s
        latency += step.repeat * float(routes.latency_s.max(initial=0.0))
        if len(routes):
            longest = routes.links[routes.latency_s.argmax()]
            hops += step.repeat * np.bincount(topology.link_kind[longest[longest >= 0]], minlength=len(hops))
        used = np.flatnonzero(loads)
        worst = np.zeros(N_CLASSES)
        np.maximum.at(worst, classes[used], seconds[used])
        for one in np.flatnonzero(worst):
            busiest = used[classes[used] == one]
            link = busiest[seconds[busiest].argmax()]
            bytes_[one] += step.repeat * loads[link]
            capacity[one] = topology.bandwidth_bytes_per_s[link]
        if len(used):
            binding = used[classes[used] == int(worst.argmax())]
            imbalance = max(imbalance, float(seconds[binding].max() / seconds[binding].mean()))
    return Demand(latency, hops, bytes_, capacity, imbalance)


def member_loads(collective: Collective, topology: Topology, groups: Ints) -> tuple[Ints, Ints, Floats]:
    """What every member of every group sends over which links, all steps together.

    Args:
        collective: what each group does.
        topology: the cluster.
        groups: ``[n_groups, n_ranks]`` GPU of every rank of every group.

    Returns:
        GPU, link, bytes: ``[n]`` each, every pair of GPU and link once.
    """
    owners: list[Ints] = [np.zeros(0, dtype=np.int64)]
    sizes: list[Floats] = [np.zeros(0)]
    for step in collective.steps:
        source = groups[:, step.src].ravel()
        routes = topology.routes(source, groups[:, step.dst].ravel())
        used = routes.links >= 0
        hops = used.sum(axis=1)
        owners.append(np.repeat(source, hops) * topology.n_links + routes.links[used])
        sizes.append(np.repeat(np.tile(step.bytes_, len(groups)) * step.repeat, hops))
    pairs, place = np.unique(np.concatenate(owners), return_inverse=True)
    total = np.bincount(place.ravel(), weights=np.concatenate(sizes), minlength=len(pairs))
    return pairs // topology.n_links, pairs % topology.n_links, total


def idle_s(collective: Collective, topology: Topology, gpus: Ints) -> float:
    """Time of a collective on an idle cluster: per step the latency and the busiest link, added up.

    Domain: exact for steps of equal flows under max-min sharing, which is what every algorithm here has.
    """
    total = 0.0
    for step in collective.steps:
        routes = topology.routes(gpus[step.src], gpus[step.dst])
        seconds = topology.loads(routes, step.bytes_) / topology.bandwidth_bytes_per_s
        total += step.repeat * (float(routes.latency_s.max(initial=0.0)) + float(seconds.max(initial=0.0)))
    return total


def expand(collective: Collective, topology: Topology, gpus: Ints) -> tuple[TaskGraph, Costs]:
    """Every flow of a collective as a task, with a barrier after each step: what `idle_s` is checked against."""
    slot: list[int] = []
    edges: list[tuple[int, int]] = []
    durations = [0.0]
    link: list[Any] = []
    sizes: list[Any] = []
    rows: list[Any] = []
    barrier = -1
    for step in collective.steps:
        routes = topology.routes(gpus[step.src], gpus[step.dst])
        first_slot = len(durations)
        durations += [float(routes.latency_s.max(initial=0.0))] * len(step.src)
        used = routes.links >= 0
        link.append(routes.links[used])
        counts = used.sum(axis=1)
        rows.append(np.repeat(np.arange(len(step.src)) + first_slot, counts))
        sizes.append(np.repeat(step.bytes_, counts))
        for _ in range(step.repeat):
            first = len(slot)
            slot += range(first_slot, first_slot + len(step.src))
            if barrier >= 0:
                edges += [(barrier, task) for task in range(first, len(slot))]
            barrier = len(slot)
            slot.append(0)
            edges += [(task, barrier) for task in range(first, barrier)]
    moved = np.concatenate(rows) if rows else np.array([], dtype=np.int64)
    costs = Costs(
        duration_s=np.array(durations),
        link=np.concatenate(link) if link else np.array([], dtype=np.int64),
        bytes_=np.concatenate(sizes) if sizes else np.array([]),
        moves=Csr.of(moved, np.arange(len(moved)), len(durations)),
        capacity_bytes_per_s=topology.bandwidth_bytes_per_s,
    )
    graph = TaskGraph(
        np.full(len(slot), NO_LANE), np.array(slot, dtype=np.int64), np.array(edges, dtype=np.int64).reshape(-1, 2)
    )
    return graph, costs
