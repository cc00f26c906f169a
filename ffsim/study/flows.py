"""``kind: flows``: a user's own flows over the links of a cluster, all at once or one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ffsim._version import __version__
from ffsim.config import Document, build, expect_kind, load_document, parse_document, spec
from ffsim.engine import NO_LINK, Flows, FlowTimes, simulate_flows
from ffsim.errors import Problem, ScenarioError
from ffsim.study.critical_path import OWN_CAP, alone_rate, busiest_s, critical_path, earliest, serial_s
from ffsim.study.flow_list import FlowList, read_flow_list
from ffsim.study.result import Provenance
from ffsim.study.scenario import Scenario, cluster_parts, digest, read
from ffsim.topology import TRAFFIC_CLASSES, Cluster, RoutingRule, Topology, build_topology
from ffsim.training import SHELF

Row = dict[str, Any]
SCHEMA = "ffsim.flows/1"
N_HEAVIEST = 10


@spec
class FlowsSpec:
    """A workload file of flows.

    Attributes:
        file: CSV of the flows, seen from the folder of the workload file.
        routing: how flows find their way; the cluster's rule if left out.
        lanes: whether virtual lanes keep classes of traffic apart, where the cluster has them.
    """

    kind: Literal["flows"]
    title: str = ""
    file: str
    routing: RoutingRule | None = None
    lanes: Literal["on", "off"] = "on"


KEYS = frozenset(FlowsSpec.__slots__)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class FlowsResult:
    """What a list of flows came to.

    Attributes:
        times: of every flow.
        warnings: doubts about the answer, each with what to do.
    """

    scenario: Scenario
    spec: FlowsSpec
    cluster: Cluster
    topology: Topology
    listed: FlowList
    times: FlowTimes
    provenance: Provenance
    warnings: tuple[str, ...] = ()

    @cached_property
    def makespan_s(self) -> float:
        """From zero to the last end."""
        simulated = self.times.makespan_s
        return max(simulated, self.bounds[0]) if self.scenario.depth == "bounds" else simulated

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Closed forms of the makespan: the busiest link or the longest chain alone; all flows one by one."""
        flows, capacity = self.listed.flows, self.topology.bandwidth_bytes_per_s
        longest = float(earliest(flows, capacity)[1].max(initial=0.0))
        return max(longest, busiest_s(flows, capacity)), serial_s(flows, capacity)

    @cached_property
    def headline(self) -> dict[str, float]:
        """Makespan, flows and bytes."""
        return {
            "makespan_s": self.makespan_s,
            "flows": float(len(self.listed)),
            "total_bytes": float(self.listed.flows.size_bytes.sum()),
        }

    @cached_property
    def bottleneck(self) -> str:
        """What the chain of flows that ends last spends most of its time on."""
        last = int(self.times.end_s.argmax())
        return critical_path(self.topology, self.listed.flows, self.times, last).name

    def rows(self) -> list[Row]:
        """One row a flow, in the order of the file."""
        listed, times = self.listed, self.times
        size, latency = listed.flows.size_bytes, listed.flows.latency_s
        assert latency is not None
        names = {
            link: self.topology.link_name(link) for link in np.unique(times.bottleneck).tolist() if link != NO_LINK
        }
        rows = []
        for flow, id_ in enumerate(listed.ids):
            start, end = float(times.start_s[flow]), float(times.end_s[flow])
            streaming = end - start - float(latency[flow])
            rows.append(
                {
                    "id": id_,
                    "src": listed.src[flow],
                    "dst": listed.dst[flow],
                    "bytes": float(size[flow]),
                    "start_s": start,
                    "end_s": end,
                    "rate_bytes_per_s": float(size[flow]) / streaming if streaming > 0 else 0.0,
                    "bottleneck": names.get(int(times.bottleneck[flow]), OWN_CAP) if size[flow] else "",
                }
            )
        return rows

    def heaviest_links(self) -> list[Row]:
        """Links by how long they would be busy with their bytes at full rate, most first."""
        busy = self.topology.busy_s(self.times.link_bytes)
        order = np.argsort(-busy, kind="stable")[:N_HEAVIEST]
        span = self.makespan_s
        return [
            {
                "link": self.topology.link_name(link),
                "bytes": float(self.times.link_bytes[link]),
                "use_frac": float(busy[link]) / span if span else 0.0,
            }
            for link in order.tolist()
            if busy[link] > 0
        ]

    def to_dict(self) -> Row:
        """Everything as plain data: what ``--format json`` prints."""
        low, high = self.bounds
        return {
            "schema": SCHEMA,
            "scenario": {
                "cluster": self.cluster.name,
                "workload": self.scenario.workload,
                "set": list(self.scenario.overrides),
                "depth": self.scenario.depth,
                "seed": self.scenario.seed,
            },
            "headline": self.headline,
            "bounds": {"makespan_s": {"lower": low, "upper": high}},
            "bottleneck": self.bottleneck,
            "warnings": list(self.warnings),
            "rows": self.rows(),
            "links": self.heaviest_links(),
            "events": self.times.n_events,
            "provenance": {
                "ffsim_version": self.provenance.version,
                "scenario_sha256": self.provenance.sha256,
                "seed": self.provenance.seed,
            },
        }

    def __repr__(self) -> str:
        return f"FlowsResult({len(self.listed):,} flows on {self.cluster.name}: {self.makespan_s:.6g} s)"


def run_flows(scenario: Scenario) -> FlowsResult:
    """Simulate a user's flows.

    Raises:
        ScenarioError: everything wrong with the cluster, the workload and its list.
        InfeasiblePlan: nothing but broken links leads to an end.
    """
    cluster, document = read(scenario, KEYS, _document)
    question = build(document, FlowsSpec)
    topology = build_topology(cluster)
    path = Path(document.file).parent / question.file
    rule = seeded(question.routing or cluster.spec.routing, scenario.seed)
    listed = read_flow_list(path, topology, rule, default_lane=TRAFFIC_CLASSES.index("other"))
    times = _simulated(listed, topology, scenario, lane_weights(cluster, wanted=question.lanes == "on"))
    content = path.read_text(encoding="utf-8-sig")
    sha256 = digest([*cluster_parts(cluster), question], depth=scenario.depth, seed=scenario.seed, flows=content)
    return FlowsResult(
        scenario=scenario,
        spec=question,
        cluster=cluster,
        topology=topology,
        listed=listed,
        times=times,
        provenance=Provenance(version=__version__, sha256=sha256, seed=scenario.seed),
        warnings=_warnings(listed, cluster, question),
    )


def is_list(workload: str) -> bool:
    """Whether a workload is a list of flows itself, and no file that names one."""
    return workload.endswith(".csv")


def _document(name: str, overrides: Any) -> Document:
    """A workload file, or the list itself as a workload that says nothing else."""
    if not is_list(name):
        document = load_document(SHELF, name, overrides=overrides)
        expect_kind(document, "flows")
        return document
    if not Path(name).is_file():
        raise ScenarioError(Problem(where=name, what="no such file", fix="check the path"))
    document = parse_document("kind: flows", name)
    document.data |= {"title": Path(name).name, "file": Path(name).name}
    for override in overrides:
        override.apply(document)
    return document


def _simulated(listed: FlowList, topology: Topology, scenario: Scenario, lanes: tuple[float, ...]) -> FlowTimes:
    flows, capacity = listed.flows, topology.bandwidth_bytes_per_s
    if scenario.depth != "bounds":
        flows, lanes = in_lanes(flows, lanes)
        return simulate_flows(flows, capacity, lanes=lanes)
    start, end = earliest(flows, capacity)
    moved = np.repeat(flows.size_bytes, np.diff(flows.links.start)) * (1.0 if flows.weight is None else flows.weight)
    return FlowTimes(
        start_s=start,
        end_s=end,
        bottleneck=alone_rate(flows, capacity)[1],
        link_bytes=np.bincount(flows.links.values, moved, minlength=len(capacity)).astype(float),
        n_events=0,
        n_reallocations=0,
    )


def seeded(rule: RoutingRule, seed: int) -> RoutingRule:
    """A rule whose hashes change with the seed of the question."""
    return RoutingRule(kind=rule.kind, queue_pairs=rule.queue_pairs, seed=rule.seed + seed)


def lane_weights(cluster: Cluster, *, wanted: bool) -> tuple[float, ...]:
    """Weights of the virtual lanes, in the order of the classes of traffic; none where there are no lanes."""
    return cluster.spec.lanes.weights if wanted and cluster.spec.lanes is not None else ()


def in_lanes(flows: Flows, weights: tuple[float, ...]) -> tuple[Flows, tuple[float, ...]]:
    """Flows and the weights of their lanes; all in one lane where lanes make no difference, which is faster."""
    lane = np.zeros(len(flows), dtype=np.int64) if flows.lane is None else flows.lane
    if not weights or len(np.unique(lane)) < 2:
        return replace(flows, lane=None), ()
    return flows, weights


def _warnings(listed: FlowList, cluster: Cluster, question: FlowsSpec) -> tuple[str, ...]:
    lane = listed.flows.lane
    apart = lane is not None and len(np.unique(lane)) > 1
    if apart and question.lanes == "on" and cluster.spec.lanes is None:
        return (f"{cluster.name} has no virtual lanes: classes of traffic share alike; add lanes: to the cluster file",)
    return ()
