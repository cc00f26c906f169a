"""Published figures against ours: rows of data, ours or a user's, run and judged.

A row names a subject (a run, a model, a cluster, a network or a schedule), a quantity of it, and the published value
with its tolerance and source. Nothing in ffsim is fitted to these rows, but for the two unit prices of a network, which
come from the cost of two of five.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ffsim.config import Shelf, TaggedBy, build, read_document, spec
from ffsim.economics import network_cost
from ffsim.errors import Problem, ScenarioError
from ffsim.hardware import Switch, load_part
from ffsim.model.parameters import count_parameters, kv_elements_per_token, train_flop_per_token
from ffsim.model.spec import ModelSpec, load_any_model
from ffsim.schedules import SCHEDULES, OpTimes, replay
from ffsim.study.collective import subject_quantities
from ffsim.study.collective_result import CollectiveResult
from ffsim.study.collective_spec import BARRIER_SIZES, CollectiveSubject
from ffsim.study.flows import is_list
from ffsim.study.kinds import Answered, answer
from ffsim.study.row_units import unit_of
from ffsim.study.scenario import Scenario
from ffsim.topology import SHELF as CLUSTERS
from ffsim.topology import FabricOfSwitches, build_topology, full_network, load_cluster
from ffsim.training import SHELF as WORKLOADS
from ffsim.training import Depth
from ffsim.training.spec import ScheduleName

BF16_BYTES = 2
Answer = dict[str, Any]


@spec
class RunSubject:
    """A workload of any kind, run; quantities are paths into its JSON (``headline.step_s``, ``rows.0.time_s``)."""

    cluster: str
    workload: str
    set: dict[str, str | int | float | bool] | None = None
    depth: Depth = "folded"


@spec
class ModelSubject:
    """A model.

    Quantities: ``total_parameters``, ``activated_parameters``, ``activated_parameters_without_embedding``,
    ``mtp_parameters``, ``kv_elements``, ``kv_bytes`` (BF16, per token), ``train_flop_per_token``.
    """

    name: str
    sequence_length: int = 4096
    causal: bool = True


@spec
class ClusterSubject:
    """A cluster.

    Quantities: the counts of `ffsim.topology.Counts`, ``bisection_bytes_per_s``, and ``network_cost_usd`` where its
    switch has prices.
    """

    name: str


@spec
class ScheduleSubject:
    """A schedule with durations per operation on one stage.

    Quantities: ``bubble`` (replayed from the start of the step, largest of a rank), ``span_bubble`` (replayed, of a
    rank from its own first operation to its last), ``makespan``, ``formula_bubble``; ``peak_activations`` and, held
    until the weight gradient and in shares of a rank, ``held_activations`` and ``formula_activations``.
    """

    name: ScheduleName
    pp: int
    micro_batches: int
    forward: float
    input_gradient: float
    weight_gradient: float
    pair: float | None = None
    chunks: int = 1
    message: float = 0.0


@spec
class Row:
    """One published figure.

    Attributes:
        id: unique name.
        run, model, cluster, network, schedule, collective: the subject; exactly one. A network is written like
            ``fabric`` in a cluster file and stands for the largest of its kind; its quantities are ``endpoints``,
            ``switches``, ``interswitch_links``, ``cost_usd`` and ``cost_per_endpoint_usd``.
        quantity: of the subject.
        value, unit: as published.
        rel_tol: largest relative error that passes; 0 for exact.
        family: what the row is summarised under.
    """

    id: str
    family: str = ""
    run: RunSubject | None = None
    collective: CollectiveSubject | None = None
    model: ModelSubject | None = None
    cluster: ClusterSubject | None = None
    network: Annotated[FabricOfSwitches, TaggedBy("kind")] | None = None
    schedule: ScheduleSubject | None = None
    quantity: str
    value: float
    unit: str = ""
    rel_tol: float
    source: str
    note: str = ""

    def __post_init__(self) -> None:
        subjects = (self.run, self.model, self.cluster, self.network, self.schedule, self.collective)
        if sum(subject is not None for subject in subjects) != 1:
            raise ValueError(
                "a row needs exactly one of run, model, cluster, network, schedule, collective: name its subject"
            )
        if not 0 <= self.rel_tol < 10:
            raise ValueError(f"rel_tol {self.rel_tol:g} is not a tolerance: use a fraction such as 0.1")


@spec
class RowFile:
    """A file of rows."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A row and what we get for it, in the row's own unit."""

    row: Row
    simulated: float

    @property
    def error(self) -> float:
        """Relative error, signed; the plain difference where zero is published."""
        return (self.simulated - self.row.value) / self.row.value if self.row.value else self.simulated

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (with room for rounding where it is zero)."""
        return abs(self.error) <= self.row.rel_tol + 1e-9


SHELF = Shelf("validation", "validation", Path(__file__).parent / "rows")


def read_rows(path: Path) -> tuple[Row, ...]:
    """Read a file of rows: a list, or a mapping with the list under ``rows``.

    Raises:
        ScenarioError: everything wrong with it.
    """
    document = read_document(path, sequence_key="rows")
    rows = build(document, RowFile).rows
    seen: set[str] = set()
    for number, row in enumerate(rows):
        if row.id in seen:
            document.report(("rows", number, "id"), f"duplicate id {row.id!r}", "give every row its own")
        seen.add(row.id)
        problem = _unit_problem(row)
        if problem:
            document.report(("rows", number, "unit"), *problem)
    document.raise_problems()
    return rows


def shipped_rows() -> tuple[Row, ...]:
    """All rows that ship with ffsim."""
    return tuple(row for name in SHELF.names() for row in read_rows(SHELF.find(name)))


def verdicts_about(result: Answered) -> list[Verdict]:
    """What shipped rows say about a run: the same files, overrides and depth; or about collectives of its answer."""
    if isinstance(result, CollectiveResult):
        return _about_collectives(result)
    mine = _identity(result.scenario)
    files = [path for path in map(SHELF.find, SHELF.names()) if mine[1].stem in path.read_text(encoding="utf-8")]
    rows = [row for path in files for row in read_rows(path)]
    asked = [(row, _scenario(row.run)) for row in rows if row.run is not None]
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
            value = _look_up(row, found) / unit_of(row.quantity).factors[row.unit]
            verdicts.append(Verdict(row=row, simulated=value))
    return verdicts


def validate(rows: Iterable[Row], runs: dict[Scenario, Answered] | None = None) -> list[Verdict]:
    """Run rows; runs that several rows ask about are simulated once.

    Args:
        rows: what to check.
        runs: results that are there already.

    Raises:
        ScenarioError: a row names something that does not exist.
    """
    answers = {scenario: result.to_dict() for scenario, result in (runs or {}).items()}
    verdicts = []
    for row in rows:
        try:
            value = _quantity(row, answers)
        except ScenarioError as error:
            raise ScenarioError(
                [replace(problem, where=problem.where or row.id) for problem in error.problems]
            ) from None
        verdicts.append(Verdict(row=row, simulated=value / unit_of(row.quantity).factors[row.unit]))
    return verdicts


def _quantity(row: Row, answers: dict[Scenario, Answer]) -> float:
    """The quantity of a row in base units."""
    if row.run is not None:
        return _run_quantity(row, row.run, answers)
    if row.collective is not None:
        return _look_up(row, subject_quantities(row.collective))
    if row.model is not None:
        return _look_up(row, _model_quantities(row.model))
    if row.cluster is not None:
        return _look_up(row, _cluster_quantities(row.cluster))
    if row.network is not None:
        return _look_up(row, _network_quantities(row.network))
    assert row.schedule is not None
    try:
        return _look_up(row, _schedule_quantities(row.schedule))
    except ValueError as error:
        raise ScenarioError(Problem(where=row.id, path="schedule", what=str(error))) from None


def _look_up(row: Row, quantities: dict[str, float]) -> float:
    name = row.quantity.rpartition(".")[2]
    if name not in quantities:
        raise ScenarioError(
            Problem(
                where=row.id,
                path="quantity",
                what=f"unknown quantity {row.quantity!r}",
                fix=f"use one of {', '.join(quantities)}",
            )
        )
    return quantities[name]


def _scenario(subject: RunSubject) -> Scenario:
    overrides = tuple(f"{path}={value}" for path, value in (subject.set or {}).items())
    return Scenario(
        cluster=subject.cluster, workload=subject.workload, overrides=overrides, depth=subject.depth, ranges=False
    )


def _run_quantity(row: Row, subject: RunSubject, answers: dict[Scenario, Answer]) -> float:
    scenario = _scenario(subject)
    if scenario not in answers:
        answers[scenario] = answer(scenario).to_dict()
    found: Any = answers[scenario]
    for step in row.quantity.split("."):
        if isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        else:
            found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, int | float):
        known = ", ".join(f"headline.{name}" for name in answers[scenario].get("headline", {})) or "rows.0.time_s"
        raise ScenarioError(
            Problem(where=row.id, path="quantity", what=f"no number at {row.quantity!r}", fix=f"for example {known}")
        )
    return float(found)


def _cluster_quantities(subject: ClusterSubject) -> dict[str, float]:
    cluster = load_cluster(subject.name)
    topology = build_topology(cluster)
    counts = topology.counts()
    found = {name: float(getattr(counts, name)) for name in counts.__slots__}
    found["bisection_bytes_per_s"] = topology.bisection_bytes_per_s()
    if cluster.switch is not None and cluster.switch.price is not None and cluster.switch.link_price is not None:
        found["network_cost_usd"] = network_cost(counts.network, cluster.switch).cost_usd
    return found


def _network_quantities(fabric: FabricOfSwitches) -> dict[str, float]:
    switch = load_part(Switch, fabric.switch)
    counts = full_network(fabric, switch.ports.value)
    found = {name: float(getattr(counts, name)) for name in counts.__slots__}
    if switch.price is not None and switch.link_price is not None:
        cost = network_cost(counts, switch)
        found |= {"cost_usd": cost.cost_usd, "cost_per_endpoint_usd": cost.cost_per_endpoint_usd}
    return found


def _model_quantities(subject: ModelSubject) -> dict[str, float]:
    model = load_any_model(subject.name)
    if not isinstance(model, ModelSpec):
        return {"total_parameters": float(model.parameters)}
    counts = count_parameters(model)
    kv = kv_elements_per_token(model)
    return {
        "total_parameters": float(counts.total),
        "activated_parameters": float(counts.activated),
        "activated_parameters_without_embedding": float(counts.activated_without_embedding),
        "mtp_parameters": float(counts.mtp),
        "kv_elements": float(kv),
        "kv_bytes": float(kv * BF16_BYTES),
        "train_flop_per_token": train_flop_per_token(model, subject.sequence_length, causal=subject.causal),
    }


def _schedule_quantities(subject: ScheduleSubject) -> dict[str, float]:
    times = OpTimes(
        forward=subject.forward,
        input_gradient=subject.input_gradient,
        weight_gradient=subject.weight_gradient,
        pair=subject.pair,
    )
    family, counts = SCHEDULES[subject.name], (subject.pp, subject.micro_batches)
    schedule = family.build(*counts, chunks=subject.chunks, times=times, message_s=subject.message)
    played = replay(schedule, times, latency=subject.message)
    chunks = len(schedule.placement[0])
    held = max(schedule.peak_activations(until_weight_gradient=True))
    quantities = {
        "bubble": max(played.bubble),
        "span_bubble": max(played.span_bubble),
        "makespan": played.makespan,
        "peak_activations": float(max(schedule.peak_activations())),
        "held_activations": held / family.stages(chunks),
    }
    if (bubble := family.bubble(*counts, chunks, times)) is not None:
        quantities["formula_bubble"] = bubble
    if (peak := family.activations(*counts, chunks)) is not None:
        quantities["formula_activations"] = max(peak)
    return quantities


def _unit_problem(row: Row) -> tuple[str, str] | None:
    unit = unit_of(row.quantity)
    if row.unit in unit.factors:
        return None
    known = ", ".join(spelling or "nothing" for spelling in unit.factors)
    return f"cannot read {row.unit!r} as {unit.dimension}", f"use one of {known}"


def summary(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """By family: rows, those within tolerance, median and largest absolute error."""
    families: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        families.setdefault(verdict.row.family or "other", []).append(verdict)
    table = []
    for family, members in families.items():
        errors = sorted(abs(verdict.error) for verdict in members)
        table.append(
            {
                "family": family,
                "rows": len(members),
                "within_tolerance": sum(verdict.passed for verdict in members),
                "median_abs_error_frac": errors[len(errors) // 2]
                if len(errors) % 2
                else sum(errors[len(errors) // 2 - 1 :][:2]) / 2,
                "worst_abs_error_frac": errors[-1],
            }
        )
    return table
