"""What a stretch of simulated time, the sample, says about reads: rates, latencies and what held them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.engine import FlowTimes
from ffsim.storage.paths import RESOURCES, ReadPaths
from ffsim.storage.reads import Reads

Floats = np.ndarray[Any, Any]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

RUN_DRY = 0.01  # the sample ends when so large a share of places for reads has had its last one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """Reads between two instants of a run in which all clients read.

    Attributes:
        start_s, end_s: the instants.
        client_bytes_per_s, server_bytes_per_s: ``[n_clients]``, ``[n_servers]``.
        latency_s: of the reads that arrived, from their request to their last byte.
        parts: means over the same reads, by cause; they sum to the mean latency.
        use: mean and largest share of the capacity that the links of each resource carry.
        senders: mean and most services that send to one client at a time.
    """

    start_s: float
    end_s: float
    client_bytes_per_s: Floats
    server_bytes_per_s: Floats
    latency_s: Floats
    parts: dict[str, float]
    use: dict[str, tuple[float, float]]
    senders: tuple[float, int]

    @property
    def bytes_per_s(self) -> float:
        """Of all clients together."""
        return float(self.client_bytes_per_s.sum())


def steady(reads: Reads, times: FlowTimes, warm_up_share: float, begin_s: float = 0.0) -> tuple[float, float]:
    """The instants between which all clients have their reads under way.

    Their first ones are spread over the time that reads in flight take: that passes first, or half of a short run.

    Args:
        reads: what was read.
        times: of their flows (others may follow).
        warm_up_share: of the time until reads run out, left out at the start.
        begin_s: when the first were made.
    """
    n = len(reads)
    end_s = float(np.quantile(times.end_s[n : 2 * n][reads.last], RUN_DRY))
    lasted_s = end_s - begin_s
    return begin_s + max(lasted_s * warm_up_share, min(reads.round_s, lasted_s / 2)), end_s


def overlap_bytes(
    times: FlowTimes, flows: slice, idle_s: Floats, size_bytes: Floats, span: tuple[float, float]
) -> Floats:
    """What each flow moves between two instants, taken to stream evenly from the end of its latency."""
    first, end = times.start_s[flows] + idle_s, times.end_s[flows]
    inside = np.minimum(end, span[1]) - np.maximum(first, span[0])
    streamed: Floats = size_bytes * np.clip(inside / np.maximum(end - first, np.finfo(float).tiny), 0.0, 1.0)
    return streamed


def take_sample(reads: Reads, paths: ReadPaths, times: FlowTimes, span: tuple[float, float]) -> Sample:
    """Measure the reads of a run between two instants."""
    n, flows = len(reads), reads.flows
    assert flows.latency_s is not None
    moved = [
        overlap_bytes(times, part, flows.latency_s[part], flows.size_bytes[part], span)
        for part in (slice(0, n), slice(n, 2 * n))
    ]
    seconds = span[1] - span[0]
    arrived = (times.end_s[n : 2 * n] > span[0]) & (times.end_s[n : 2 * n] <= span[1])
    return Sample(
        start_s=span[0],
        end_s=span[1],
        client_bytes_per_s=np.bincount(reads.client, moved[1], minlength=paths.n_clients) / seconds,
        server_bytes_per_s=np.bincount(reads.server, moved[1], minlength=paths.n_servers) / seconds,
        latency_s=(times.end_s[n : 2 * n] - times.start_s[:n])[arrived],
        parts=_parts(reads, paths, times, arrived),
        use=_use(reads, paths, moved[0] / seconds, moved[1] / seconds),
        senders=_senders(reads, times, span, paths.n_clients),
    )


def _parts(reads: Reads, paths: ReadPaths, times: FlowTimes, arrived: Bools) -> dict[str, float]:
    """Mean time of the reads that arrived, by cause.

    A transfer's streaming counts as that of the resource that held it back when it ended.
    """
    n, idle = len(reads), reads.flows.latency_s
    assert idle is not None
    parts = {name: float(seconds[arrived].mean()) for name, seconds in reads.fixed_s.items()}
    parts["SSDs"] = float((times.end_s[:n] - times.start_s[:n] - idle[:n])[arrived].mean())
    parts["waiting for grant"] = float((times.start_s[n : 2 * n] - times.end_s[:n])[arrived].mean())
    streaming = (times.end_s[n : 2 * n] - times.start_s[n : 2 * n] - idle[n:])[arrived]
    held = paths.resource[times.bottleneck[n : 2 * n][arrived]]
    by_resource = np.bincount(held, streaming, minlength=len(RESOURCES)) / len(streaming)
    return parts | {name: float(seconds) for name, seconds in zip(RESOURCES[1:], by_resource[1:], strict=True)}


def _use(reads: Reads, paths: ReadPaths, from_ssds: Floats, over_network: Floats) -> dict[str, tuple[float, float]]:
    """Mean and largest use of the links of each resource that reads cross at all.

    Flows do not stream quite evenly, so a full link may seem overfull by a percent or two: it counts as full.

    Args:
        reads: what was read.
        paths: its ways.
        from_ssds: ``[n_reads]``, mean rate of each SSD flow in the sample. [bytes/s]
        over_network: ``[n_reads]``, likewise of each transfer.
    """
    ways, n_links = paths.ways, len(paths.resource)
    by_way = np.bincount(reads.way, over_network, minlength=len(ways.start) - 1)
    carried = np.bincount(ways.values, np.repeat(by_way, np.diff(ways.start)) * paths.weight, minlength=n_links)
    carried += np.bincount(reads.ssd, from_ssds * paths.ssd_weight, minlength=n_links)
    crossed = np.bincount(np.append(ways.values, reads.ssd), minlength=n_links) > 0
    found = {}
    for number, name in enumerate(RESOURCES):
        links = crossed & (paths.resource == number)
        found[name] = np.minimum(carried[links] / paths.capacity_bytes_per_s[links], 1.0)
    return {name: (float(values.mean()), float(values.max())) for name, values in found.items() if len(values)}


def _senders(reads: Reads, times: FlowTimes, span: tuple[float, float], n_clients: int) -> tuple[float, int]:
    """Mean and most transfers to one client at a time, within the span."""
    n, idle = len(reads), reads.flows.latency_s
    assert idle is not None
    first = np.maximum(times.start_s[n : 2 * n] + idle[n:], span[0])
    end = np.minimum(times.end_s[n : 2 * n], span[1])
    inside = end > first
    first, end, client = first[inside], end[inside], reads.client[inside]
    mean = float((end - first).sum()) / (span[1] - span[0]) / n_clients
    change = np.repeat([-1, 1], len(client))  # who ends makes room for who begins at the same instant
    order = np.lexsort((change, np.append(end, first), np.tile(client, 2)))
    return mean, int(change[order].cumsum().max(initial=0))
