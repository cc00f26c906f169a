"""Questions about collectives with every name resolved, and their answers as plain rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ffsim.collectives.catalogue import Op, bus_factor
from ffsim.study.collective_spec import CollectiveSpec
from ffsim.study.result import Provenance
from ffsim.study.scenario import Scenario
from ffsim.topology import Cluster, Topology
from ffsim.training import Depth

Row = dict[str, Any]
SCHEMA = "ffsim.collective/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Collectives on a cluster, with every name resolved.

    Attributes:
        near: folder that files of the background are seen from.
    """

    cluster: Cluster
    topology: Topology
    spec: CollectiveSpec
    depth: Depth = "folded"
    seed: int = 0
    near: Path = Path()

    @property
    def gpus_per_node(self) -> int:
        """GPUs of each node that take part."""
        return self.spec.gpus_per_node or self.cluster.gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the answer: an operation by one algorithm on so many nodes with one size."""

    op: Op
    algorithm: str
    nodes: int
    size_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a case came to.

    Attributes:
        n_ranks: of one group.
        time_s: of the slowest group; at depth ``bounds`` its lower bound.
        lower_s, upper_s: closed forms; the upper one only of a group that has the links to itself.
        bottleneck: what its slowest chain of flows spends most of its time on.
        held_by: seconds of that chain by what took them.
        limit: the resource that binds by the closed form.
        n_events: of the simulation.
    """

    case: Case
    n_ranks: int
    time_s: float
    lower_s: float
    upper_s: float | None
    bottleneck: str
    held_by: dict[str, float]
    limit: str
    n_events: int

    @property
    def algbw_bytes_per_s(self) -> float:
        """Size over time."""
        return self.case.size_bytes / self.time_s if self.time_s > 0 else 0.0

    @property
    def busbw_bytes_per_s(self) -> float:
        """As nccl-tests has it: what each rank's link would carry under an optimal algorithm."""
        return self.algbw_bytes_per_s * bus_factor(self.case.op, self.n_ranks)

    @property
    def quantities(self) -> dict[str, float]:
        """What validation rows can ask about."""
        return {
            "time_s": self.time_s,
            "algbw_bytes_per_s": self.algbw_bytes_per_s,
            "busbw_bytes_per_s": self.busbw_bytes_per_s,
        }


@dataclass(frozen=True, kw_only=True)
class CollectiveResult:
    """The answer to a question about collectives.

    Attributes:
        scenario: the question as it was asked; its workload is empty where options asked it.
        measured: one for each case, in order.
        warnings: doubts about the answer, each with what to do.
    """

    scenario: Scenario
    question: Question
    measured: tuple[Measured, ...]
    provenance: Provenance
    warnings: tuple[str, ...] = ()

    def rows(self) -> list[Row]:
        """One row a case, in SI units."""
        spec = self.question.spec
        return [
            {
                "op": one.case.op,
                "algorithm": one.case.algorithm,
                "nodes": one.case.nodes,
                "gpus_per_node": self.question.gpus_per_node,
                "ranks": one.n_ranks,
                "groups": spec.groups,
                "size_bytes": one.case.size_bytes,
                "time_s": one.time_s,
                "algbw_bytes_per_s": one.algbw_bytes_per_s,
                "busbw_bytes_per_s": one.busbw_bytes_per_s,
                "bottleneck": one.bottleneck,
                "lower_s": one.lower_s,
                "upper_s": one.upper_s,
                "limit": one.limit,
            }
            for one in self.measured
        ]

    def to_dict(self) -> Row:
        """Everything as plain data: what ``--format json`` prints."""
        rows = [row | {"held_by": one.held_by} for row, one in zip(self.rows(), self.measured, strict=True)]
        return {
            "schema": SCHEMA,
            "scenario": {
                "cluster": self.question.cluster.name,
                "workload": self.scenario.workload,
                "set": list(self.scenario.overrides),
                "depth": self.scenario.depth,
                "seed": self.scenario.seed,
            },
            "question": self._asked(),
            "warnings": list(self.warnings),
            "rows": rows,
            "events": sum(one.n_events for one in self.measured),
            "provenance": {
                "ffsim_version": self.provenance.version,
                "scenario_sha256": self.provenance.sha256,
                "seed": self.provenance.seed,
            },
        }

    def _asked(self) -> Row:
        """What holds for every row."""
        spec = self.question.spec
        rule = spec.routing or self.question.cluster.spec.routing
        return {
            "placement": spec.placement if isinstance(spec.placement, str) else list(spec.placement),
            "groups": spec.groups,
            "background": None if spec.background is None else asdict(spec.background),
            "routing": asdict(rule),
            "lanes": spec.lanes,
        }

    def __repr__(self) -> str:
        return f"CollectiveResult({len(self.measured)} rows on {self.question.cluster.name})"
