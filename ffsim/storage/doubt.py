"""How sure the answer is: what reads become when each uncertain input moves to the ends of its stated range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ffsim.config import Figure, Source
from ffsim.storage.inputs import StorageInputs
from ffsim.storage.paths import find_paths
from ffsim.storage.reads import fixed_parts
from ffsim.storage.simulate import simulate_storage
from ffsim.topology import build_topology
from ffsim.training import combined_range

# Inputs by the name users see, and where `StorageInputs` keeps them.
LATENCIES = {
    "ssd.read_latency": ("ssd", "read_latency"),
    "file_system.software_latency": ("spec", "file_system", "software_latency"),
    "nic.latency": ("cluster", "nic", "latency"),
    "switch.latency": ("cluster", "switch", "latency"),
}
OTHERS = {
    "nic.usable_share": ("cluster", "nic", "usable_share"),
    "ssd.read": ("ssd", "read"),
    "ssd.read_io_rate": ("ssd", "read_io_rate"),
    "file_system.in_flight": ("spec", "file_system", "in_flight"),
}
COARSE = 0.04  # completion window of the runs behind a range: ratios move by less than one percent
FEW_READS = 2000  # under way at once: to begin with, a short sample of so few is not steady
FEW = 4  # clients are enough to tell the mean latency of the network


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What one uncertain input does to the reads.

    Attributes:
        name: of the input.
        value, low, high: its figure and range, in base units.
        at_low, at_high: rate of all reads at the ends of the range over that at the value.
        latency_at_low, latency_at_high: mean latency, likewise.
    """

    name: str
    value: float
    low: float
    high: float
    at_low: float
    at_high: float
    latency_at_low: float
    latency_at_high: float
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageDoubt:
    """Ranges of rate and mean latency, over their values; the inputs are taken as independent.

    Attributes:
        rate, latency: low and high.
        sensitivities: largest effect on the rate first; inputs without any are left out.
    """

    rate: tuple[float, float]
    latency: tuple[float, float]
    sensitivities: tuple[Sensitivity, ...]


def doubt_reads(inputs: StorageInputs, seed: int = 0) -> StorageDoubt:
    """Move every uncertain input to both ends of its range.

    Short, coarse simulations with the same draws give ratios; few reads are simulated as long as the answer itself.
    What passes while nothing streams is one sum, whatever it is made of: it is simulated at its least and its most, and
    its parts are told by interpolation.
    """
    short = replace(inputs.spec, background=None)
    if short.clients * short.reads_in_flight > FEW_READS:
        short = replace(short, warm_up=1, sample=1)
    quick = replace(inputs, spec=short)
    value = _rate(quick, seed)
    rows = [_row(quick, name, place, value, seed) for name, place in OTHERS.items() if _ranged(quick, name, place)]
    rows += _latency_rows(quick, value, seed)
    rows = [row for row in rows if row.at_low != 1 or row.at_high != 1]
    return StorageDoubt(
        rate=combined_range(1.0, [(row.at_low, row.at_high) for row in rows]),
        latency=combined_range(1.0, [(row.latency_at_low, row.latency_at_high) for row in rows]),
        sensitivities=tuple(sorted(rows, key=lambda row: (-abs(row.at_high - row.at_low), row.name))),
    )


def _rate(inputs: StorageInputs, seed: int) -> float:
    return simulate_storage(inputs, seed, window=COARSE).alone.bytes_per_s


def _figure(inputs: StorageInputs, place: Sequence[str]) -> Figure[Any]:
    value: Any = inputs
    for name in place:
        value = getattr(value, name)
    assert isinstance(value, Figure)
    return value


def _ranged(inputs: StorageInputs, name: str, place: Sequence[str]) -> bool:
    """Whether an input has a range and can matter."""
    if name == "file_system.in_flight" and inputs.spec.in_flight is not None:
        return False
    if name == "ssd.read_io_rate" and inputs.ssd.read_io_rate.bounds[0] * inputs.spec.size >= inputs.ssd.read.value:
        return False
    return _figure(inputs, place).low is not None


def _turned(inputs: StorageInputs, place: Sequence[str], value: Any) -> StorageInputs:
    """The inputs with another value of one figure; storage nodes share their NIC's figures with compute nodes."""

    def changed(holder: Any, path: Sequence[str]) -> Any:
        inner = getattr(holder, path[0])
        return replace(holder, **{path[0]: changed(inner, path[1:]) if path[1:] else replace(inner, value=value)})

    result: StorageInputs = changed(inputs, place)
    if place[0] != "cluster":
        return result
    cluster = result.cluster
    if place[1] == "nic" and inputs.cluster.nic == inputs.cluster.storage_nic:
        cluster = replace(cluster, storage_nic=cluster.nic)
    return replace(result, cluster=cluster, topology=build_topology(cluster))


def _row(inputs: StorageInputs, name: str, place: Sequence[str], rate: float, seed: int) -> Sensitivity:
    """Simulate both ends of one range."""
    figure = _figure(inputs, place)
    ends = [_turned(inputs, place, end) for end in figure.bounds]
    ratios = [_rate(end, seed) / rate for end in ends]
    reads = [end.spec.reads_in_flight / inputs.spec.reads_in_flight for end in ends]
    return _sensitivity(name, figure, ratios, [n / ratio for n, ratio in zip(reads, ratios, strict=True)])


def _latency_rows(inputs: StorageInputs, rate: float, seed: int) -> list[Sensitivity]:
    """Every latency by itself, from two runs with all of them at the same end."""
    places = {name: place for name, place in LATENCIES.items() if name != "switch.latency" or inputs.cluster.switch}
    ends = [inputs, inputs]
    for place in places.values():
        ends = [_turned(end, place, at) for end, at in zip(ends, _figure(inputs, place).bounds, strict=True)]
    fixed, (least, most) = _fixed_s(inputs), map(_fixed_s, ends)
    if least == most:
        return []
    known = [_rate(ends[0], seed) / rate, 1.0, _rate(ends[1], seed) / rate]
    rows = []
    for name, place in places.items():
        figure = _figure(inputs, place)
        at = [_fixed_s(_turned(inputs, place, end)) for end in figure.bounds]
        ratios = np.interp(at, [least, fixed, most], known).tolist()
        rows.append(_sensitivity(name, figure, ratios, [1 / ratio for ratio in ratios]))
    return rows


def _fixed_s(inputs: StorageInputs) -> float:
    """Mean time of a read in which nothing streams."""
    few = replace(inputs, spec=replace(inputs.spec, clients=min(FEW, inputs.spec.clients)))
    return float(sum(part.mean() for part in fixed_parts(few, find_paths(few).latency_s).values()))


def _sensitivity(name: str, figure: Figure[Any], rates: Sequence[float], latencies: Sequence[float]) -> Sensitivity:
    low, high = figure.bounds
    return Sensitivity(
        name=name,
        value=float(figure.value),
        low=float(low),
        high=float(high),
        at_low=rates[0],
        at_high=rates[1],
        latency_at_low=latencies[0],
        latency_at_high=latencies[1],
        source=figure.source,
    )
