"""Collectives asked about directly: time, bandwidth and what holds them up, by algorithm, nodes and size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ffsim._version import __version__
from ffsim.collectives.catalogue import Built, Request, build
from ffsim.collectives.data import Detail
from ffsim.config import Document, Mark, Override
from ffsim.engine import Flows, FlowTimes, joined, link_use, simulate_flows
from ffsim.errors import ModelDomainError, Problem, ScenarioError
from ffsim.study.background import background_flows, lasting
from ffsim.study.collective_result import Case, CollectiveResult, Measured, Question
from ffsim.study.collective_spec import (
    BARRIER_SIZES,
    CollectiveSpec,
    CollectiveSubject,
    OpSpec,
    algorithm_problem,
    build_question,
)
from ffsim.study.critical_path import busiest_s, critical_path
from ffsim.study.flows import in_lanes, lane_weights, seeded
from ffsim.study.result import Provenance
from ffsim.study.scenario import Scenario, cluster_parts, digest, plain_document, read
from ffsim.topology import TRAFFIC_CLASSES, build_topology, load_cluster, place_groups

Path_ = tuple[str | int, ...]
Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]
KEYS = frozenset(CollectiveSpec.__slots__)  # type: ignore[attr-defined]
MAX_TRIES = 40


def run_collective(scenario: Scenario) -> CollectiveResult:
    """Answer a workload file of ``kind: collective``.

    Raises:
        ScenarioError: everything wrong with its files.
        ModelDomainError: an operation that its algorithm does not do, a placement that the fabric does not have.
        InfeasiblePlan: more nodes than there are.
    """
    cluster, document = read(scenario, KEYS, plain_document("collective"))
    question = Question(
        cluster=cluster,
        topology=build_topology(cluster),
        spec=build_question(document),
        depth=scenario.depth,
        seed=scenario.seed,
        near=Path(document.file).parent,
    )
    return answer_question(question, scenario)


def ask(scenario: Scenario, data: Mapping[str, Any], places: Mapping[Path_, str]) -> Question:
    """A question from data that are no file.

    Args:
        scenario: what else was asked; its overrides go to the cluster.
        data: as a workload file has it.
        places: what messages call the place of a value.

    Raises:
        ScenarioError: everything wrong with the cluster and the data.
    """
    document = Document("", dict(data), {path: Mark(place) for path, place in places.items()})
    problems: list[Problem] = []
    try:
        spec = build_question(document)
    except ScenarioError as error:
        problems += error.problems
    try:
        texts = [text.removeprefix("cluster.") for text in scenario.overrides]
        cluster = load_cluster(scenario.cluster, [Override.parse(text) for text in texts])
    except ScenarioError as error:
        problems += error.problems
    if problems:
        raise ScenarioError(problems)
    return Question(
        cluster=cluster, topology=build_topology(cluster), spec=spec, depth=scenario.depth, seed=scenario.seed
    )


def answer_question(
    question: Question, scenario: Scenario, progress: Callable[[str], None] = lambda _: None
) -> CollectiveResult:
    """Measure every case of a question.

    Args:
        question: what is asked.
        scenario: the same as it was asked.
        progress: told what is being done.
    """
    cases = list(each_case(question))
    for nodes in dict.fromkeys(case.nodes for case in cases):  # refuse before the first is simulated
        placed(question, nodes)
    measured = []
    for number, case in enumerate(cases, start=1):
        progress(f"{case.op} by {case.algorithm}, {case.nodes} nodes, row {number} of {len(cases)}")
        measured.append(measure(question, case))
    parts = [*cluster_parts(question.cluster), question.spec, _background_text(question)]
    sha256 = digest(parts, depth=question.depth, seed=question.seed)
    return CollectiveResult(
        scenario=scenario,
        question=question,
        measured=tuple(measured),
        provenance=Provenance(version=__version__, sha256=sha256, seed=question.seed),
        warnings=_warnings(question),
    )


def each_case(question: Question) -> Iterator[Case]:
    """Every case: by operation, algorithm, nodes, size."""
    listed = question.spec.placement
    each = len(listed) // question.spec.groups if not isinstance(listed, str) else 0
    for op in question.spec.ops:
        for algorithm in op.algorithms:
            for nodes in op.nodes or (each,):
                for size in op.sizes or BARRIER_SIZES:
                    yield Case(op=op.op, algorithm=algorithm, nodes=nodes, size_bytes=size)


def placed(question: Question, n_nodes: int) -> Ints:
    """``[n_groups, n_nodes]`` nodes of every group.

    Raises:
        ScenarioError: a listed node that is not there, one rank alone, more GPUs than a node has.
        InfeasiblePlan: more nodes than there are.
    """
    spec, cluster = question.spec, question.cluster
    if question.gpus_per_node > cluster.gpus_per_node:
        what = f"{question.gpus_per_node} GPUs of each node are wanted and it has {cluster.gpus_per_node}"
        raise ScenarioError(Problem(where=cluster.name, path="gpus_per_node", what=what, fix="use fewer"))
    if n_nodes * question.gpus_per_node < 2:
        raise ScenarioError(Problem(path="nodes", what="one rank alone exchanges nothing", fix="use at least two"))
    if isinstance(spec.placement, str):
        return place_groups(question.topology, n_nodes, spec.groups, spec.placement)
    missing = [node for node in spec.placement if node >= cluster.n_nodes]
    if missing:
        what = f"there is no node {missing[0]}: they are 0 to {cluster.n_nodes - 1:,}"
        raise ScenarioError(Problem(where=cluster.name, path="placement", what=what, fix="name others"))
    return np.array(spec.placement).reshape(spec.groups, -1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """A case ready to run.

    Attributes:
        groups: what each group does; their flows stand first, in order.
        flows: of all groups.
        background: of everything else.
        lanes: weights of the virtual lanes, none where traffic is not kept apart.
    """

    groups: list[Built]
    flows: Flows
    background: Flows | None
    lanes: tuple[float, ...]


def _prepared(question: Question, case: Case, *, every_link: bool = False) -> _Prepared:
    """The flows of a case: all of them, or where nothing else uses their links what stands for them by symmetry."""
    spec, topology, cluster = question.spec, question.topology, question.cluster
    nodes = placed(question, case.nodes)
    rule = seeded(spec.routing or cluster.spec.routing, question.seed)
    shared = spec.groups > 1 or spec.background is not None or every_link
    detail: Detail = "flows" if question.depth == "full" else "links" if shared else "steps"
    lane = TRAFFIC_CLASSES.index(traffic_class(case.algorithm))
    groups = []
    for group in nodes.tolist():
        request = Request(
            op=case.op,
            algorithm=case.algorithm,
            size_bytes=case.size_bytes,
            nodes=tuple(group),
            gpus_per_node=question.gpus_per_node,
            rule=rule,
            lane=lane,
            options=spec.options,
        )
        groups.append(build(topology, cluster, request, detail=detail))
    background = None
    if spec.background is not None:
        background = background_flows(spec.background, topology, nodes.ravel(), rule, question.near)
    return _Prepared(
        groups=groups,
        flows=joined([group.flows for group in groups]),
        background=background,
        lanes=lane_weights(cluster, wanted=spec.lanes == "on"),
    )


def traffic_class(algorithm: str) -> str:
    """The class of traffic, and so the virtual lane, of an algorithm."""
    return "hfreduce" if algorithm.startswith("hfreduce") else "nccl"


def measure(question: Question, case: Case) -> Measured:
    """Simulate one case."""
    ready = _prepared(question, case)
    lower, upper = _bounds(question, ready)
    one = ready.groups[0]
    if question.depth == "bounds":
        times, path_name, held_by, seconds, n_events = None, one.limit, {}, lower, 0
    else:
        flows, times = _simulated(question, ready, lower)
        ends = times.end_s[: len(ready.flows)]
        last, seconds = int(ends.argmax()), float(ends.max(initial=0.0))
        path = critical_path(question.topology, flows, times, last)
        path_name, held_by, n_events = path.name, path.seconds, times.n_events
    return Measured(
        case=case,
        n_ranks=one.n_ranks,
        time_s=seconds,
        lower_s=lower,
        upper_s=upper,
        bottleneck=path_name,
        held_by=held_by,
        limit=one.limit,
        n_events=n_events,
    )


def _bounds(question: Question, ready: _Prepared) -> tuple[float, float | None]:
    """Closed forms of the slowest group: on links of its own, or on those that all groups fill."""
    lower = max(group.lower_s for group in ready.groups)
    if len(ready.groups) == 1 and ready.background is None:
        return lower, ready.groups[0].upper_s
    return max(lower, busiest_s(ready.flows, question.topology.bandwidth_bytes_per_s)), None


def _simulated(question: Question, ready: _Prepared, lower_s: float) -> tuple[Flows, FlowTimes]:
    """Run the groups, with reads in the background that go on until the last group has ended."""
    capacity, background = question.topology.bandwidth_bytes_per_s, question.spec.background
    horizon = 4 * lower_s
    for _ in range(MAX_TRIES):
        flows = ready.flows
        if ready.background is not None and background is not None:
            flows = joined([flows, lasting(ready.background, background, horizon)])
        flows, lanes = in_lanes(flows, ready.lanes)
        times = simulate_flows(flows, capacity, lanes=lanes)
        end = float(times.end_s[: len(ready.flows)].max(initial=0.0))
        if background is None or background.file is not None or end <= horizon:
            return flows, times
        horizon = 2 * end
    raise ModelDomainError(
        Problem(path="background", what="it leaves the collective no bandwidth", fix="lower its rate or turn lanes on")
    )


def use_over_time(question: Question, bins: int) -> tuple[float, Floats]:
    """How full every link is while the only case of a question runs.

    Returns:
        Seconds from its start to its end, and ``[bins, n_links]`` mean use of each stretch.

    Raises:
        ScenarioError: the question has more than one case.
    """
    cases = list(each_case(question))
    if len(cases) != 1:
        what = f"use over time is shown of one row, and there are {len(cases)}"
        raise ScenarioError(Problem(where="--use", what=what, fix="give one algorithm, number of nodes and size"))
    ready = _prepared(question, cases[0], every_link=True)
    flows, times = _simulated(question, ready, _bounds(question, ready)[0])
    end = float(times.end_s[: len(ready.flows)].max(initial=0.0))
    capacity = question.topology.bandwidth_bytes_per_s
    return end, link_use(flows, capacity, end, bins=bins, lanes=in_lanes(flows, ready.lanes)[1])


def subject_quantities(subject: CollectiveSubject) -> dict[str, float]:
    """The quantities of a validation row about a collective.

    Raises:
        ScenarioError: an unknown cluster or algorithm.
    """
    problem = algorithm_problem(subject.algorithm, subject.op)
    if problem is not None:
        raise ScenarioError(Problem(path="collective.algorithm", what=problem[0], fix=problem[1]))
    overrides = [Override.parse(f"{path}={value}") for path, value in (subject.set or {}).items()]
    cluster = load_cluster(subject.cluster, overrides)
    op = OpSpec(op=subject.op, algorithms=(subject.algorithm,), nodes=subject.nodes, sizes=subject.size)
    spec = CollectiveSpec(
        kind="collective",
        ops=(op,),
        gpus_per_node=subject.gpus_per_node,
        placement=subject.placement,
        groups=subject.groups,
    )
    question = Question(cluster=cluster, topology=build_topology(cluster), spec=spec)
    return measure(question, next(each_case(question))).quantities


def _background_text(question: Question) -> str:
    """What stands in the file of the background, empty where there is none."""
    background = question.spec.background
    if background is None or background.file is None:
        return ""
    return (question.near / background.file).read_text(encoding="utf-8-sig")


def _warnings(question: Question) -> tuple[str, ...]:
    if question.spec.background is not None and question.spec.lanes == "on" and question.cluster.spec.lanes is None:
        name = question.cluster.name
        return (f"{name} has no virtual lanes: the background shares links alike; add lanes: to the cluster file",)
    return ()
