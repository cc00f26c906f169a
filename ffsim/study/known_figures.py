"""What shipped validation rows say about an answer that somebody asked for."""

from __future__ import annotations

from pathlib import Path

from ffsim.study.collective_result import CollectiveResult
from ffsim.study.collective_spec import BARRIER_SIZES
from ffsim.study.flows import is_list
from ffsim.study.kinds import Answered
from ffsim.study.row_units import unit_of
from ffsim.study.scenario import Scenario
from ffsim.study.validation import SHELF, Verdict, look_up, read_rows, scenarios_of, shipped_rows, validate
from ffsim.topology import SHELF as CLUSTERS
from ffsim.training import SHELF as WORKLOADS
from ffsim.training import Depth


def verdicts_about(result: Answered) -> list[Verdict]:
    """What shipped rows say about a run: the same files, overrides and depth; or about collectives of its answer."""
    if isinstance(result, CollectiveResult):
        return _about_collectives(result)
    mine = _identity(result.scenario)
    files = [path for path in map(SHELF.find, SHELF.names()) if mine[1].stem in path.read_text(encoding="utf-8")]
    rows = [row for path in files for row in read_rows(path)]
    asked = [(row, scenarios_of(row.run)[0]) for row in rows if row.run is not None and not row.run.also]
    same = [(row, scenario) for row, scenario in asked if _identity(scenario) == mine]
    return validate([row for row, _ in same], {scenario: result for _, scenario in same})


def _identity(scenario: Scenario) -> tuple[Path, Path, tuple[str, ...], Depth]:
    """What two ways to write the same question have in common."""
    name = scenario.workload
    cluster, workload = CLUSTERS.find(scenario.cluster), Path(name) if is_list(name) else WORKLOADS.find(name)
    return cluster.resolve(), workload.resolve(), tuple(sorted(scenario.overrides)), scenario.depth


def _about_collectives(result: CollectiveResult) -> list[Verdict]:
    """Rows that ask about a case of the answer, on the same cluster as its file has it."""
    question, scenario = result.question, result.scenario
    spec = question.spec
    alone = spec.groups == 1 and spec.background is None and spec.routing is None and not scenario.overrides
    if not alone or scenario.depth == "bounds":
        return []
    cluster = CLUSTERS.find(scenario.cluster).resolve()
    answers = {
        (one.case.op, one.case.algorithm, one.case.nodes, one.case.size_bytes): one.quantities
        for one in result.measured
    }
    verdicts = []
    for row in shipped_rows():
        asked = row.collective
        if asked is None or asked.set or asked.groups > 1 or CLUSTERS.find(asked.cluster).resolve() != cluster:
            continue
        found = answers.get((asked.op, asked.algorithm, asked.nodes[0], (asked.size or BARRIER_SIZES)[0]))
        gpus = asked.gpus_per_node or question.cluster.gpus_per_node
        if found is not None and asked.placement == spec.placement and gpus == question.gpus_per_node:
            value = look_up(row, found) / unit_of(row.quantity).factors[row.unit]
            verdicts.append(Verdict(row=row, simulated=value))
    return verdicts
