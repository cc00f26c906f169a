"""Published figures against ours: rows of data, ours or a user's, run and judged.

A row names a subject (a run, a model, a cluster, a network or a schedule), a quantity of it, and the published value
with its tolerance and source; a file may say what a family of rows is to reach as a whole. Nothing in ffsim is fitted
to these rows, but for the two unit prices of a network, which come from the cost of two of five.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from ffsim.config import Shelf, TaggedBy, build, read_document, spec
from ffsim.economics import network_cost
from ffsim.errors import Problem, ScenarioError
from ffsim.hardware import Switch, load_part
from ffsim.model.parameters import count_parameters, kv_elements_per_token, train_flop_per_token
from ffsim.model.spec import ModelSpec, load_any_model
from ffsim.schedules import SCHEDULES, OpTimes, replay
from ffsim.study.collective import subject_quantities
from ffsim.study.collective_spec import CollectiveSubject
from ffsim.study.families import FamilyGoal, FamilySummary, Judged, summarise
from ffsim.study.kinds import Answered
from ffsim.study.outcomes import FITS, Outcome, Progress, ask_all, number_at
from ffsim.study.row_units import unit_of
from ffsim.study.scenario import Scenario
from ffsim.topology import FabricOfSwitches, build_topology, full_network, load_cluster
from ffsim.training import Depth
from ffsim.training.spec import ScheduleName

BF16_BYTES = 2


@spec
class RunSubject:
    """A workload of any kind, run.

    Quantities: paths into its JSON (``headline.step_s``, ``rows.0.time_s``), kinds of memory of a pipeline rank
    (``memory.0.weights+optimizer_bytes``), and ``fits``: 1, or 0 where it is refused for want of memory.

    Attributes:
        also: further workloads, run alike, whose quantity is added: the phases of one published total.
    """

    cluster: str
    workload: str
    also: tuple[str, ...] = ()
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
    """A file of rows.

    Attributes:
        families: what families of its rows are to reach as a whole.
    """

    rows: tuple[Row, ...]
    families: dict[str, FamilyGoal] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A row and what we get for it, in the row's own unit; or why we get nothing.

    Attributes:
        simulated: none where the question was refused.
        refusal: the reason.
    """

    row: Row
    simulated: float | None
    refusal: str = ""

    @property
    def error(self) -> float | None:
        """Relative error, signed; the plain difference where zero is published; none without an answer."""
        if self.simulated is None:
            return None
        return (self.simulated - self.row.value) / self.row.value if self.row.value else self.simulated

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (with room for rounding where it is zero)."""
        return self.error is not None and abs(self.error) <= self.row.rel_tol + 1e-9

    @property
    def miss(self) -> str:
        """What is wrong where it has not passed."""
        if self.error is None:
            return f"has no answer: {self.refusal}"
        return f"error {self.error:+.2%} is outside the tolerance of {self.row.rel_tol:.2%}"


SHELF = Shelf("validation", "validation", Path(__file__).parent / "rows")


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a file; see `read_row_file`."""
    return read_row_file(path).rows


def read_row_file(path: Path) -> RowFile:
    """Read a file of rows: a list, or a mapping with the list under ``rows``.

    Raises:
        ScenarioError: everything wrong with it.
    """
    document = read_document(path, sequence_key="rows")
    file = build(document, RowFile)
    rows = file.rows
    seen: set[str] = set()
    known = {row.family for row in rows}
    for name in file.families or {}:
        if name not in known:
            fix = f"name one of {', '.join(sorted(known))}"
            document.report(("families", name), "no row of this file is of this family", fix, key=True)
    for number, row in enumerate(rows):
        if row.id in seen:
            document.report(("rows", number, "id"), f"duplicate id {row.id!r}", "give every row its own")
        seen.add(row.id)
        problem = _unit_problem(row)
        if problem:
            document.report(("rows", number, "unit"), *problem)
    document.raise_problems()
    return file


def shipped_row_files() -> tuple[RowFile, ...]:
    """All files of rows that ship with ffsim."""
    return tuple(read_row_file(SHELF.find(name)) for name in SHELF.names())


def shipped_rows() -> tuple[Row, ...]:
    """All rows that ship with ffsim."""
    return tuple(row for file in shipped_row_files() for row in file.rows)


def family_goals(files: Iterable[RowFile]) -> dict[str, FamilyGoal]:
    """What families are to reach; a goal of a later file replaces that of an earlier one."""
    return {name: goal for file in files for name, goal in (file.families or {}).items()}


def validate(
    rows: Iterable[Row],
    runs: dict[Scenario, Answered] | None = None,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Run rows; runs that several rows ask about are simulated once.

    Args:
        rows: what to check.
        runs: results that are there already.
        jobs: processes that simulate.
        progress: told about every run, see `ask_all`.

    Raises:
        ScenarioError: everything that rows name and that does not exist.
    """
    rows = list(rows)
    known = {scenario: Outcome(answer=result.to_dict()) for scenario, result in (runs or {}).items()}
    asked = [scenario for row in rows if row.run for scenario in scenarios_of(row.run) if scenario not in known]
    known |= ask_all(asked, jobs, progress)
    verdicts: list[Verdict] = []
    problems: list[Problem] = []
    for row in rows:
        try:
            verdicts.append(_verdict(row, known))
        except ScenarioError as error:
            problems += [replace(problem, where=problem.where or row.id) for problem in error.problems]
    if problems:
        raise ScenarioError(list(dict.fromkeys(problems)))
    return verdicts


def _verdict(row: Row, outcomes: dict[Scenario, Outcome]) -> Verdict:
    if row.run is not None:
        value, refusal = _run_quantity(row, [outcomes[scenario] for scenario in scenarios_of(row.run)])
    else:
        value, refusal = _quantity(row), ""
    scale = unit_of(row.quantity).factors[row.unit]
    return Verdict(row=row, simulated=None if value is None else value / scale, refusal=refusal)


def _quantity(row: Row) -> float:
    """The quantity of a row that asks for no run, in base units."""
    if row.collective is not None:
        return look_up(row, subject_quantities(row.collective))
    if row.model is not None:
        return look_up(row, _model_quantities(row.model))
    if row.cluster is not None:
        return look_up(row, _cluster_quantities(row.cluster))
    if row.network is not None:
        return look_up(row, _network_quantities(row.network))
    assert row.schedule is not None
    try:
        return look_up(row, _schedule_quantities(row.schedule))
    except ValueError as error:
        raise ScenarioError(Problem(where=row.id, path="schedule", what=str(error))) from None


def look_up(row: Row, quantities: dict[str, float]) -> float:
    """What the last step of a row's quantity names.

    Raises:
        ScenarioError: there is nothing of that name.
    """
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


def scenarios_of(subject: RunSubject) -> list[Scenario]:
    """What a row asks to be run: one scenario for each of its workloads."""
    overrides = tuple(f"{path}={value}" for path, value in (subject.set or {}).items())
    return [
        Scenario(cluster=subject.cluster, workload=workload, overrides=overrides, depth=subject.depth, ranges=False)
        for workload in (subject.workload, *subject.also)
    ]


def _run_quantity(row: Row, outcomes: Sequence[Outcome]) -> tuple[float | None, str]:
    """The quantity of a row in base units, summed over its runs; or none, and why."""
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    if problems:
        raise ScenarioError(problems)
    refusals = [outcome for outcome in outcomes if outcome.answer is None]
    if row.quantity == FITS and all(outcome.too_large for outcome in refusals):
        return float(not refusals), ""
    if refusals:
        return None, refusals[0].refusal
    found = [number_at(outcome.answer, row.quantity) for outcome in outcomes]
    if None in found:
        answered = outcomes[found.index(None)].answer or {}
        known = ", ".join(f"headline.{name}" for name in answered.get("headline", {})) or "rows.0.time_s"
        raise ScenarioError(
            Problem(where=row.id, path="quantity", what=f"no number at {row.quantity!r}", fix=f"for example {known}")
        )
    return sum(number for number in found if number is not None), ""


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


def summary(verdicts: Sequence[Verdict], goals: dict[str, FamilyGoal] | None = None) -> tuple[FamilySummary, ...]:
    """How well every family is met, and its goals."""
    judged = [
        Judged(one.row.id, one.row.family or "other", one.row.value, one.simulated, one.error, one.passed)
        for one in verdicts
    ]
    return summarise(judged, goals or {})
