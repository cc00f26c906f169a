"""Flows as arrays: what is sent over which links, after what, and when everything ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ffsim.engine.graph import Csr, Floats, Ints

NO_LINK = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flows:
    """Flows with their order, as columns.

    A flow may begin at ``start_s`` and once every predecessor has ended; it is idle for ``latency_s``, then streams its
    bytes over all its links at once, and ends with the last byte. One without links or without bytes only takes its
    latency.

    Attributes:
        links: links of each flow, each link at most once.
        size_bytes: ``[n_flows]``.
        weight: ``[len(links.values)]``, bytes on that link per byte of the flow; 1 everywhere if left out. A flow of
            some memory traffic crosses its memory with the number of times that every byte is read or written.
        latency_s: ``[n_flows]``; 0 if left out.
        start_s: ``[n_flows]``; 0 if left out.
        edges: ``[n_edges, 2]``, predecessor, successor.
        cap_bytes_per_s: ``[n_flows]``, the most that each reaches by itself; none if left out.
        share: ``[n_flows]``, what each counts for where links are shared (weighted max-min); 1 if left out.
        lane: ``[n_flows]``, virtual lane of each; all in lane 0 if left out.
    """

    links: Csr
    size_bytes: Floats
    weight: Floats | None = None
    latency_s: Floats | None = None
    start_s: Floats | None = None
    edges: Ints | None = None
    cap_bytes_per_s: Floats | None = None
    share: Floats | None = None
    lane: Ints | None = None

    def __len__(self) -> int:
        return len(self.size_bytes)

    def picked(self, which: Ints) -> Flows:
        """Some of the flows, each as often as named: what they move, without when."""
        hops = np.diff(self.links.start)[which]
        start = np.zeros(len(which) + 1, dtype=np.int64)
        np.cumsum(hops, out=start[1:])
        place = np.repeat(self.links.start[which] - start[:-1], hops) + np.arange(start[-1])
        return Flows(
            links=Csr(start, self.links.values[place]),
            size_bytes=self.size_bytes[which],
            weight=None if self.weight is None else self.weight[place],
            share=None if self.share is None else self.share[which],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlowTimes:
    """When every flow ran and what held it back.

    Attributes:
        start_s: ``[n_flows]``, when it was free to begin (its latency comes after).
        end_s: ``[n_flows]``.
        bottleneck: ``[n_flows]``, the link that held it back when it ended; `NO_LINK` where it was its own cap.
        link_bytes: ``[n_links]``, carried by each link.
        n_events: flow starts and ends.
        n_reallocations: how often rates were worked out.
    """

    start_s: Floats
    end_s: Floats
    bottleneck: Ints
    link_bytes: Floats
    n_events: int
    n_reallocations: int

    @property
    def makespan_s(self) -> float:
        """From zero to the last end."""
        return float(self.end_s.max(initial=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Flows with every column filled in."""

    size_bytes: Floats
    weight: Floats
    latency_s: Floats
    start_s: Floats
    edges: Ints
    cap: Floats
    share: Floats
    lane: Ints

    def link_bytes(self, flows: Flows, n_links: int) -> Floats:
        """``[n_links]`` bytes that every link carries, all flows together."""
        hops = np.diff(flows.links.start)
        moved = np.repeat(self.size_bytes, hops) * self.weight
        return np.bincount(flows.links.values, moved, minlength=n_links).astype(np.float64)


def columns(flows: Flows) -> Columns:
    """Fill in what was left out."""
    n = len(flows)

    def filled(values: Floats | None, default: float, length: int = n) -> Floats:
        if values is None:
            return np.broadcast_to(np.float64(default), length)
        return np.asarray(values, dtype=np.float64)

    return Columns(
        size_bytes=np.asarray(flows.size_bytes, dtype=np.float64),
        weight=filled(flows.weight, 1.0, len(flows.links.values)),
        latency_s=filled(flows.latency_s, 0.0),
        start_s=filled(flows.start_s, 0.0),
        edges=np.zeros((0, 2), dtype=np.int64) if flows.edges is None else flows.edges,
        cap=filled(flows.cap_bytes_per_s, np.inf),
        share=filled(flows.share, 1.0),
        lane=np.zeros(n, dtype=np.int64) if flows.lane is None else flows.lane,
    )


def joined(parts: Sequence[Flows]) -> Flows:
    """Several lists of flows as one, in order; their edges keep pointing to their own."""
    filled = [columns(part) for part in parts]
    hops = np.concatenate([np.diff(part.links.start) for part in parts])
    offsets = np.cumsum([0, *map(len, parts)])
    return Flows(
        links=Csr(np.append(0, np.cumsum(hops)), np.concatenate([part.links.values for part in parts])),
        size_bytes=np.concatenate([part.size_bytes for part in filled]),
        weight=np.concatenate([part.weight for part in filled]),
        latency_s=np.concatenate([part.latency_s for part in filled]),
        start_s=np.concatenate([part.start_s for part in filled]),
        edges=np.concatenate([part.edges + first for part, first in zip(filled, offsets, strict=False)]),
        cap_bytes_per_s=np.concatenate([part.cap for part in filled]),
        share=np.concatenate([part.share for part in filled]),
        lane=np.concatenate([part.lane for part in filled]),
    )
