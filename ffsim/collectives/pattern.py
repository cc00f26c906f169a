"""Flows between the ranks of a group with their order, and how they become flows on links."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ffsim.collectives.data import Collective, Floats, Ints, Step
from ffsim.engine import Csr, Flows
from ffsim.errors import ModelDomainError, Problem
from ffsim.topology import RoutingRule, Topology

MAX_FLOWS = 5_000_000  # some 2 GB, half a minute


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pattern:
    """What the ranks of a group send each other, and after what.

    Attributes:
        name: operation and algorithm.
        n_ranks: ranks of the group.
        src, dst: ``[n_pairs]`` ranks that send to each other; equal for a step of a rank by itself.
        pair: ``[n_flows]``, which of these each flow goes between.
        bytes_: ``[n_flows]``.
        steps: ``[n_flows]``, how many messages each flow stands for, which counts its latency; one each if left out.
        edges: ``[n_edges, 2]``, flows: before, after.
        size_bytes: the buffer on each rank that the algorithm bandwidth is counted on.
    """

    name: str
    n_ranks: int
    src: Ints
    dst: Ints
    pair: Ints
    bytes_: Floats
    edges: Ints
    size_bytes: float
    steps: Ints | None = None

    @property
    def n_flows(self) -> int:
        """Flows of the group."""
        return len(self.pair)

    @property
    def total_bytes(self) -> float:
        """Bytes of all flows."""
        return float(self.bytes_.sum())


def unroll(collective: Collective, *, barriers: bool = False, together: bool = False) -> Pattern:
    """Every flow of every step of a collective.

    A rank begins a step when it has received and sent all of its own in the step before; with ``barriers`` when the
    whole group has.

    Args:
        collective: what is sent.
        barriers: see above.
        together: the runs of a repeated step are one flow a pair, of as many bytes and latencies: every link carries
            what it would, and far fewer flows meet.

    Raises:
        ModelDomainError: more than `MAX_FLOWS` flows.
    """
    times = [step.repeat for step in collective.steps]
    if together:
        steps = (replace(step, bytes_=step.bytes_ * step.repeat, repeat=1) for step in collective.steps)
        collective = replace(collective, steps=tuple(steps))
    check_flows(collective.name, collective.n_flows, "use depth folded, fewer nodes, or fewer GPUs of each")
    counts: list[Ints] = []
    parts: list[tuple[Ints, Ints, Floats]] = []
    edges: list[Ints] = []
    before: _Stretch | None = None
    n = 0
    for step, count in zip(collective.steps, times, strict=True):
        for _ in range(step.repeat):
            now = _Stretch(step, n)
            parts.append((step.src, step.dst, step.bytes_))
            counts.append(np.full(len(step.src), count))
            n += len(step.src)
            if before is not None:
                ranks = np.zeros(1, dtype=np.int64) if barriers else np.arange(collective.n_ranks)
                if barriers or not before.simple:
                    parts.append((ranks, ranks, np.zeros(len(ranks))))
                    counts.append(np.zeros(len(ranks), dtype=np.int64))
                    edges += before.into(n, barriers) + now.after(n, barriers)
                    n += len(ranks)
                else:
                    edges.append(before.directly(now))
            before = now
    if not parts:
        parts.append((*np.zeros((2, 0), dtype=np.int64), np.zeros(0)))
    src, dst, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
    pairs, pair = np.unique(src * collective.n_ranks + dst, return_inverse=True)
    return Pattern(
        name=collective.name,
        n_ranks=collective.n_ranks,
        src=pairs // collective.n_ranks,
        dst=pairs % collective.n_ranks,
        pair=pair.ravel(),
        bytes_=sizes,
        edges=np.concatenate([np.zeros((0, 2), dtype=np.int64), *edges]),
        size_bytes=collective.size_bytes,
        steps=np.concatenate([np.zeros(0, dtype=np.int64), *counts]) if together else None,
    )


def check_flows(name: str, n_flows: int, fix: str) -> None:
    """Refuse what is too much to run.

    Raises:
        ModelDomainError: more than `MAX_FLOWS` flows.
    """
    if n_flows > MAX_FLOWS:
        raise ModelDomainError(Problem(what=f"{name}: {n_flows:,} flows, {MAX_FLOWS:,} can run", fix=fix))


class _Stretch:
    """The flows of one run of a step, numbered from ``first``."""

    def __init__(self, step: Step, first: int) -> None:
        self.step = step
        self.flows = first + np.arange(len(step.src))

    @property
    def simple(self) -> bool:
        """Whether every rank sends and receives at most once."""
        return all(len(np.unique(ends)) == len(ends) for ends in (self.step.src, self.step.dst))

    def into(self, hub: int, barriers: bool) -> list[Ints]:
        """Edges to the hubs of the ranks that each flow ends at and starts from."""
        ends = [self.step.src] if barriers else [self.step.src, self.step.dst]
        return [np.stack([self.flows, hub + (0 * rank if barriers else rank)], axis=1) for rank in ends]

    def after(self, hub: int, barriers: bool) -> list[Ints]:
        """Edges from the hubs of the ranks that send."""
        return [np.stack([hub + (0 if barriers else 1) * self.step.src, self.flows], axis=1)]

    def directly(self, following: _Stretch) -> Ints:
        """Edges to the flows of ranks that sent or received here."""
        edges = []
        for ends in (self.step.src, self.step.dst):
            by_rank = np.full(int(max(ends.max(), following.step.src.max())) + 1, -1)
            by_rank[ends] = self.flows
            source = by_rank[following.step.src]
            edges.append(np.stack([source, following.flows], axis=1)[source >= 0])
        return np.concatenate(edges)


def lower(
    pattern: Pattern,
    topology: Topology,
    members: Ints,
    *,
    rule: RoutingRule | None = None,
    step_latency_s: float = 0.0,
    lane: int = 0,
) -> Flows:
    """The flows of one or several groups that run a pattern at once, on the links of a cluster.

    Args:
        pattern: what each group does.
        topology: the cluster.
        members: ``[n_ranks]`` or ``[n_groups, n_ranks]``, the vertex of every rank.
        rule: how flows find their way; the cluster's own if left out.
        step_latency_s: what software adds to every flow between two ranks. [s]
        lane: virtual lane of the flows.

    Returns:
        Group by group, in the order of the pattern.
    """
    groups = np.atleast_2d(members)
    routes = topology.routes(groups[:, pattern.src].ravel(), groups[:, pattern.dst].ravel(), rule)
    n_groups, n_pairs, n = len(groups), len(pattern.src), pattern.n_flows
    start, links, weight = routes.lists()
    latency = routes.latency_s + step_latency_s * (np.diff(start) > 0)
    if n_pairs != n or (pattern.pair != np.arange(n)).any():
        pair = (np.arange(n_groups)[:, None] * n_pairs + pattern.pair).ravel()
        first, hops, latency = start[pair], np.diff(start)[pair], latency[pair]
        start = np.zeros(len(pair) + 1, dtype=np.int64)
        np.cumsum(hops, out=start[1:])
        place = np.repeat(first - start[:-1], hops) + np.arange(start[-1])
        links, weight = links[place], None if weight is None else weight[place]
    offsets = np.repeat(np.arange(n_groups) * n, len(pattern.edges))[:, None]
    return Flows(
        links=Csr(start, links),
        size_bytes=np.tile(pattern.bytes_, n_groups),
        weight=weight,
        latency_s=latency if pattern.steps is None else latency * np.tile(pattern.steps, n_groups),
        edges=np.tile(pattern.edges, (n_groups, 1)) + offsets,
        lane=np.full(n_groups * n, lane) if lane else None,
    )
