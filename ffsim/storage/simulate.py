"""Reads, alone and with other traffic, on one clock over one set of links."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ffsim.engine import Flows, FlowTimes, joined, simulate_flows
from ffsim.storage.background import Background, allreduce_stream
from ffsim.storage.inputs import StorageInputs
from ffsim.storage.paths import ReadPaths, find_paths
from ffsim.storage.reads import Reads, draw_reads, links_of
from ffsim.storage.sample import Sample, overlap_bytes, steady, take_sample
from ffsim.storage.spec import BackgroundSpec, ReadSpec
from ffsim.topology import TRAFFIC_CLASSES

Floats = np.ndarray[Any, Any]

WINDOW = 0.01  # completions within so much of the time of a client's reads in flight share one solution
LONGER = 2  # a job's traffic, by itself, lasts so many times as long as the reads, so that it does not end before them
PIPELINE_FILLED = 0.25  # share of a lone stream of allreduces that is left out at either end


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Reads and a training job on the same links.

    Attributes:
        reads: beside the job.
        alone_bytes_per_s, beside_bytes_per_s: allreduced bytes per second of the job, alone and beside the reads.
    """

    reads: Sample
    alone_bytes_per_s: float
    beside_bytes_per_s: float

    @property
    def slowdown(self) -> float:
        """Of the job's allreduces."""
        return self.alone_bytes_per_s / self.beside_bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageRun:
    """What was simulated.

    Attributes:
        alone: the reads by themselves.
        disturbed: with the background, where there is one.
        n_events, n_reallocations: of the engine, all runs together.
    """

    paths: ReadPaths
    alone: Sample
    disturbed: Disturbance | None
    n_events: int
    n_reallocations: int


def simulate_storage(inputs: StorageInputs, seed: int = 0, *, window: float = WINDOW) -> StorageRun:
    """Simulate a storage workload.

    Args:
        inputs: from `load_storage_inputs`.
        seed: of everything drawn.
        window: bounded completion window as a share of the time that a client's reads in flight take; 0 is exact.

    Domain: steady reads of random chunks, no failures, no writes. Fluid: transfers share links at max-min fair rates,
    as working congestion control (or request-to-send) makes them; see `ffsim.engine.simulate_flows`.
    """
    spec, paths = inputs.spec, find_paths(inputs)
    reads = draw_reads(inputs, paths, seed, spec.warm_up + spec.sample)
    window_s = window * reads.round_s
    times = simulate_flows(reads.flows, paths.capacity_bytes_per_s, window_s=window_s)
    span = steady(reads, times, _warm_up_share(spec))
    runs, disturbed = [times], None
    if spec.background is not None:
        disturbed, more = _disturb(inputs, spec.background, paths, reads, span, window_s)
        runs += more
    return StorageRun(
        paths=paths,
        alone=take_sample(reads, paths, times, span),
        disturbed=disturbed,
        n_events=sum(run.n_events for run in runs),
        n_reallocations=sum(run.n_reallocations for run in runs),
    )


def _warm_up_share(spec: ReadSpec) -> float:
    """Share of a run that is left out before the sample."""
    return spec.warm_up / (spec.warm_up + spec.sample)


def _disturb(
    inputs: StorageInputs,
    spec: BackgroundSpec,
    paths: ReadPaths,
    reads: Reads,
    span: tuple[float, float],
    window_s: float,
) -> tuple[Disturbance, list[FlowTimes]]:
    """Run a job by itself, then reads beside it, from when its trees are full for as long as the reads last."""
    assert reads.flows.start_s is not None
    capacity, lanes = paths.capacity_bytes_per_s, inputs.lanes
    job = allreduce_stream(inputs, spec, paths.client_node, 1)
    once_s = simulate_flows(job.flows, capacity, lanes=lanes, window_s=window_s).makespan_s
    job = allreduce_stream(inputs, spec, paths.client_node, 1 + int(np.ceil(LONGER * span[1] / once_s)))
    alone = simulate_flows(job.flows, capacity, lanes=lanes, window_s=window_s)
    middle = (PIPELINE_FILLED * alone.makespan_s, (1 - PIPELINE_FILLED) * alone.makespan_s)
    mine = np.full(len(reads.flows), TRAFFIC_CLASSES.index("storage") if lanes else 0)
    kept = paths.can_bind | np.isin(paths.ways.values, job.flows.links.values)
    links, weight = links_of(paths, reads.way, reads.ssd, kept)
    later = replace(reads.flows, links=links, weight=weight, lane=mine, start_s=reads.flows.start_s + once_s)
    beside = simulate_flows(joined([later, job.flows]), capacity, lanes=lanes, window_s=window_s)
    together = steady(reads, beside, _warm_up_share(inputs.spec), begin_s=once_s)
    disturbed = Disturbance(
        reads=take_sample(reads, paths, beside, together),
        alone_bytes_per_s=_allreduced(job, alone, 0, middle),
        beside_bytes_per_s=_allreduced(job, beside, len(reads.flows), together),
    )
    return disturbed, [alone, beside]


def _allreduced(job: Background, times: FlowTimes, first: int, span: tuple[float, float]) -> float:
    """Rate at which buffers are allreduced between two instants."""
    flows: Flows = job.flows
    assert flows.latency_s is not None
    moved = overlap_bytes(times, slice(first, first + len(flows)), flows.latency_s, flows.size_bytes, span)
    return float(moved.sum()) * job.payload / (span[1] - span[0])
