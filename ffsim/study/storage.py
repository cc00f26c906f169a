"""A storage workload on a cluster and its answer: rates, latencies, what binds, how sure it is, as plain rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ffsim._version import __version__
from ffsim.storage import (
    RESOURCES,
    ReadSpec,
    Sample,
    StorageDoubt,
    StorageInputs,
    StorageRun,
    doubt_reads,
    find_paths,
    load_storage_inputs,
    simulate_storage,
    storage_document,
    unloaded_s,
    upper_bounds,
)
from ffsim.study.result import SCHEMA, Provenance
from ffsim.study.scenario import Scenario, cluster_parts, digest, read
from ffsim.units import BANDWIDTH, TIME, percent, significant

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
KEYS = frozenset(ReadSpec.__slots__)  # type: ignore[attr-defined]
IN_FLIGHT = "reads in flight"  # binds where too few are under way to fill any link


def run_storage(scenario: Scenario) -> StorageResult:
    """Simulate a storage scenario; at depth ``bounds`` only closed forms are worked out.

    Raises:
        ScenarioError: something wrong with its files, or a cluster without storage.
        ModelDomainError: something in it is not modelled.
        InfeasiblePlan: more clients or copies than nodes.
    """
    inputs = load_storage_inputs(*read(scenario, KEYS, storage_document))
    simulated = scenario.depth != "bounds"
    return StorageResult(
        scenario=scenario,
        inputs=inputs,
        bounds=_bounds(inputs),
        run=simulate_storage(inputs, scenario.seed) if simulated else None,
        doubt=doubt_reads(inputs, scenario.seed) if simulated and scenario.ranges else None,
        provenance=Provenance(version=__version__, sha256=_fingerprint(inputs, scenario), seed=scenario.seed),
    )


def _bounds(inputs: StorageInputs) -> dict[str, float]:
    """The most that all clients can read, by what would bind; lowest first."""
    paths, spec = find_paths(inputs), inputs.spec
    bounds = upper_bounds(paths)
    bounds[IN_FLIGHT] = spec.clients * spec.reads_in_flight * spec.size / unloaded_s(inputs, paths)
    return dict(sorted(bounds.items(), key=lambda item: item[1]))


def _fingerprint(inputs: StorageInputs, scenario: Scenario) -> str:
    """SHA-256 over everything that determines the answer."""
    parts = [*cluster_parts(inputs.cluster), inputs.spec, inputs.ssd]
    return digest(parts, depth=scenario.depth, seed=scenario.seed)


@dataclass(frozen=True, kw_only=True)
class StorageResult:
    """Simulated reads.

    Attributes:
        bounds: the most that all clients can read, by what would bind and ``all`` links together; lowest first.
        run: what was simulated; none at depth ``bounds``.
        doubt: ranges over values; none at depth ``bounds`` or where no ranges are wanted.
    """

    scenario: Scenario
    inputs: StorageInputs
    bounds: dict[str, float]
    run: StorageRun | None
    doubt: StorageDoubt | None
    provenance: Provenance

    @property
    def upper_bytes_per_s(self) -> float:
        """The least of all bounds."""
        return min(self.bounds.values())

    @cached_property
    def headline(self) -> dict[str, float]:
        """The figures people ask for, in SI units with the unit in the name; an upper bound at depth ``bounds``."""
        spec = self.inputs.spec
        counts = {"clients": float(spec.clients), "storage_nodes": float(self.inputs.storage.nodes)}
        if self.run is None:
            rate = self.upper_bytes_per_s
            return {"read_bytes_per_s": rate, "reads_per_s": rate / spec.size} | counts
        sample = self.run.alone
        figures = {"read_bytes_per_s": sample.bytes_per_s, "reads_per_s": sample.bytes_per_s / spec.size}
        figures |= _spread("client", sample.client_bytes_per_s) | _spread("node", sample.server_bytes_per_s)
        figures |= _latencies(sample)
        figures |= {"senders_mean": sample.senders[0], "senders_most": float(sample.senders[1])}
        disturbed = self.run.disturbed
        if disturbed is not None:
            figures |= {
                "disturbed_read_bytes_per_s": disturbed.reads.bytes_per_s,
                "disturbed_latency_mean_s": float(disturbed.reads.latency_s.mean()),
                "allreduce_alone_bytes_per_s": disturbed.alone_bytes_per_s,
                "allreduce_disturbed_bytes_per_s": disturbed.beside_bytes_per_s,
                "allreduce_slowdown": disturbed.slowdown,
            }
        return figures | counts

    @cached_property
    def range(self) -> dict[str, dict[str, float]]:
        """Low and high of the figures that rest on inputs with ranges; empty at depth ``bounds``."""
        if self.doubt is None:
            return {}
        rates = ("read_bytes_per_s", "reads_per_s", "client_mean_bytes_per_s", "node_mean_bytes_per_s")
        ends = dict.fromkeys(rates, self.doubt.rate) | {"latency_mean_s": self.doubt.latency}
        return {
            name: {"low": self.headline[name] * low, "high": self.headline[name] * high}
            for name, (low, high) in ends.items()
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about this answer that its range does not cover."""
        if self.run is None or self.inputs.spec.request_to_send:
            return ()
        mean, most = self.run.alone.senders
        slowdown = self.inputs.spec.file_system.victim_slowdown
        low, high = slowdown.bounds
        text = (
            f"request-to-send is off: {mean:.0f} services send to a client at a time on average, {most} at most, and "
            "nothing holds them back; on a lossless fabric without congestion control, flows that share a switch with "
            f"such an incast take {low:g} to {high:g} times as long as simulated here: use request_to_send"
        )
        return (text,)

    def risk(self) -> Row:
        """What bursts towards one client may do to others' flows, which fluid rates do not show."""
        if self.run is None:
            return {}
        mean, most = self.run.alone.senders
        row: Row = {"senders_mean": mean, "senders_most": most, "request_to_send": self.inputs.spec.request_to_send}
        if not self.inputs.spec.request_to_send:
            low, high = self.inputs.spec.file_system.victim_slowdown.bounds
            row["victim_latency_s"] = {
                end: self.headline["latency_mean_s"] * by for end, by in (("low", low), ("high", high))
            }
        return row

    def resources(self) -> list[Row]:
        """What each resource would let pass and how much of it was used; lowest bound first."""
        rows = []
        for name, bound in self.bounds.items():
            if name == "all":
                continue
            row: Row = {"resource": name, "bound_bytes_per_s": bound}
            if self.run is not None and name in RESOURCES:
                row["mean_use_frac"], row["busiest_use_frac"] = self.run.alone.use[name]
            rows.append(row)
        return rows

    def parts(self) -> list[Row]:
        """Where the time of a read goes, on average; the rows sum to the mean latency."""
        if self.run is None:
            return []
        parts = self.run.alone.parts
        total = sum(parts.values())
        return [
            {"part": name, "seconds": seconds, "frac": seconds / total} for name, seconds in parts.items() if seconds
        ]

    def clients(self) -> list[Row]:
        """Every client's node and rate."""
        if self.run is None:
            return []
        nodes, rates = self.run.paths.client_node, self.run.alone.client_bytes_per_s
        return [{"node": node, "bytes_per_s": rate} for node, rate in zip(nodes.tolist(), rates.tolist(), strict=True)]

    def sensitivities(self) -> list[Row]:
        """What the rate and the mean latency become when each uncertain input moves to the ends of its range."""
        if self.doubt is None:
            return []
        rate, latency = self.headline["read_bytes_per_s"], self.headline["latency_mean_s"]
        return [
            {
                "input": row.name,
                "value": row.value,
                "low": row.low,
                "high": row.high,
                "read_at_low_bytes_per_s": rate * row.at_low,
                "read_at_high_bytes_per_s": rate * row.at_high,
                "latency_at_low_s": latency * row.latency_at_low,
                "latency_at_high_s": latency * row.latency_at_high,
                "source": str(row.source),
            }
            for row in self.doubt.sensitivities
        ]

    @property
    def limits(self) -> tuple[str, str]:
        """What binds and what would bind next."""
        first, second = [row["resource"] for row in self.resources()][:2]
        return first, second

    def explain(self) -> str:
        """One sentence: what binds, how close to it the reads come, and by how much it is ahead of the next."""
        first, second = self.limits
        text = f"Reads are bound first by {first} ({BANDWIDTH.format(self.bounds[first])} at most"
        if self.run is not None:
            text += f", {percent(self.run.alone.bytes_per_s / self.bounds[first])} of it reached"
        return f"{text}), then by {second} ({BANDWIDTH.format(self.bounds[second])})."

    def sources(self) -> list[Row]:
        """Sources of the main inputs."""
        figures, cluster, ssd = self.inputs.spec.file_system, self.inputs.cluster, self.inputs.ssd
        nic = cluster.storage_nic or cluster.nic
        named = {
            "reads in flight": figures.in_flight.source,
            "replicas": figures.replicas.source,
            "software latency": figures.software_latency.source,
            "SSD rate": ssd.read.source,
            "SSD latency": ssd.read_latency.source,
            "NIC usable share": nic.usable_share.source,
            "NIC latency": nic.latency.source,
        }
        if cluster.switch is not None:
            named["switch latency"] = cluster.switch.latency.source
        if self.inputs.spec.in_flight is not None:
            del named["reads in flight"]
        if self.inputs.spec.background is not None and self.inputs.lanes and cluster.spec.lanes is not None:
            named["shares of lanes"] = cluster.spec.lanes.hfreduce.source
        return [{"input": name, "source": str(source)} for name, source in named.items()]

    def to_dict(self) -> Row:
        """Everything as plain data: what ``--format json`` prints."""
        return {
            "schema": SCHEMA,
            "scenario": {
                "cluster": self.inputs.cluster.name,
                "workload": self.scenario.workload,
                "set": list(self.scenario.overrides),
                "depth": self.scenario.depth,
                "seed": self.scenario.seed,
            },
            "headline": self.headline,
            "bounds": {"read_bytes_per_s": {"upper": self.upper_bytes_per_s}},
            "range": self.range,
            "warnings": list(self.warnings),
            "breakdown": {"latency": self.parts()},
            "resources": self.resources(),
            "limits": {"bottleneck": self.limits[0], "runner_up": self.limits[1]},
            "incast": self.risk(),
            "clients": self.clients(),
            "sensitivity": self.sensitivities(),
            "events": 0 if self.run is None else self.run.n_events,
            "provenance": {
                "ffsim_version": self.provenance.version,
                "scenario_sha256": self.provenance.sha256,
                "seed": self.provenance.seed,
                "sources": self.sources(),
            },
        }

    def frame(self, table: str) -> pd.DataFrame:
        """One of the tables as a frame: resources, parts, clients, sensitivities."""
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks need

        return pd.DataFrame(getattr(self, table)())

    def __repr__(self) -> str:
        rate = BANDWIDTH.format(self.headline["read_bytes_per_s"])
        latency = self.headline.get("latency_mean_s")
        after = "" if latency is None else f", {TIME.format(latency)} a read"
        return f"StorageResult({self.scenario.workload} on {self.inputs.cluster.name}: {rate}{after})"

    def _repr_html_(self) -> str:
        import pandas as pd  # noqa: PLC0415

        rows = [{"figure": name, "value": significant(value)} for name, value in self.headline.items()]
        table: str = pd.DataFrame(rows).to_html(index=False)
        return f"<p><code>{escape(repr(self))}</code></p>{table}"


def _spread(of: str, rates: np.ndarray[Any, Any]) -> dict[str, float]:
    return {
        f"{of}_{name}_bytes_per_s": float(value)
        for name, value in (("mean", rates.mean()), ("min", rates.min()), ("max", rates.max()))
    }


def _latencies(sample: Sample) -> dict[str, float]:
    median, tail = np.percentile(sample.latency_s, [50, 99]).tolist()
    return {"latency_mean_s": float(sample.latency_s.mean()), "latency_p50_s": median, "latency_p99_s": tail}
