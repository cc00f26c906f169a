"""Collectives on a cluster: how much each kind of link carries, what that costs idle, and every flow for the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.collectives.data import Collective, Floats, Ints
from ffsim.collectives.steps import step_loads
from ffsim.topology import LinkKind, RoutingRule, Topology

N_CLASSES = 2 * len(LinkKind)


def link_class(kind: LinkKind, *, back: bool = False) -> int:
    """Number of a class of links (`Topology.link_class`): a kind and a direction, out of the GPU and up or ``back``."""
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
    classes = topology.link_class
    bytes_, capacity = np.zeros(N_CLASSES), np.full(N_CLASSES, np.inf)
    latency, imbalance = 0.0, 1.0
    hops = np.zeros(len(LinkKind))
    for step in collective.steps:
        routes = topology.routes(groups[:, step.src].ravel(), groups[:, step.dst].ravel())
        loads = topology.loads(routes, np.tile(step.bytes_, len(groups)))
        seconds = topology.busy_s(loads)
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
        moved = np.repeat(np.tile(step.bytes_, len(groups)) * step.repeat, hops)
        sizes.append(moved if routes.weight is None else moved * routes.weight[used])
    pairs, place = np.unique(np.concatenate(owners), return_inverse=True)
    total = np.bincount(place.ravel(), weights=np.concatenate(sizes), minlength=len(pairs))
    return pairs // topology.n_links, pairs % topology.n_links, total


def idle_s(collective: Collective, topology: Topology, gpus: Ints, rule: RoutingRule | None = None) -> float:
    """Time of a collective on an idle cluster: per step the latency and the busiest link, added up.

    Domain: exact for steps of equal flows under max-min sharing, which is what every algorithm here has, as long as all
    flows of a step have one latency; where some have less, it is above the simulated time by at most the difference.
    """
    total = 0.0
    for step in collective.steps:
        loads, latency = step_loads(step, topology, gpus, rule)
        total += step.repeat * (latency + float(topology.busy_s(loads).max(initial=0.0)))
    return total
