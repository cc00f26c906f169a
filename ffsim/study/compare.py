"""Clusters, workloads and plans side by side: every combination run, measured and set against the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ffsim._version import __version__
from ffsim.errors import InfeasiblePlan, ModelDomainError, Problem
from ffsim.study.answer import run
from ffsim.study.compare_measure import FIGURES, Measured, measure
from ffsim.study.compare_question import Candidate, Question, candidates
from ffsim.study.compare_verdicts import Pairing, best_of, pairings, winners
from ffsim.study.known_figures import verdicts_about

SCHEMA = "ffsim.comparison/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A candidate, and what came of it.

    Attributes:
        measured: none where it cannot run.
        refused: why it cannot, in one line; empty where it ran.
    """

    candidate: Candidate
    measured: Measured | None
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The candidates with one workload: those that may be set against each other.

    Attributes:
        title: of the workload.
    """

    workload: str
    title: str
    outcomes: tuple[Outcome, ...]

    @property
    def ran(self) -> dict[str, Measured]:
        """What ran, by name, in order."""
        return {one.candidate.name: one.measured for one in self.outcomes if one.measured is not None}

    @property
    def first(self) -> str:
        """The candidate that the others are set against; empty where none ran."""
        return next(iter(self.ran), "")

    @property
    def best(self) -> dict[str, tuple[str, ...]]:
        """The candidates that are best by each figure that has a better end and that not all share."""
        return best_of(self.ran)

    @property
    def pairings(self) -> tuple[Pairing, ...]:
        """The best candidates by time and memory, two at a time."""
        return pairings(self.ran)

    def explain(self) -> str:
        """One sentence: who is fastest, cheapest to rent and to buy, and uses least energy."""
        return winners(self.ran)

    def relative(self, name: str) -> dict[str, float]:
        """Figures of a candidate over those of the first, where both have them and they may be set in relation."""
        mine, base = self.ran[name], self.ran[self.first]
        return {
            figure: value / base.figures[figure]
            for figure, value in mine.figures.items()
            if base.figures.get(figure, 0.0) > 0
            and not (figure.startswith("relative_price") and mine.price_unit != base.price_unit)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The answer to a comparison."""

    question: Question
    groups: tuple[Group, ...]

    @property
    def any_ran(self) -> bool:
        """Whether anything could be simulated at all."""
        return any(group.ran for group in self.groups)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about answers, each under the name of its candidate."""
        return tuple(
            f"{group.workload}: {name}: {doubt}"
            for group in self.groups
            for name, measured in group.ran.items()
            for doubt in measured.warnings
        )

    def explain(self) -> str:
        """One sentence a workload: who wins."""
        return " ".join(f"{group.title}: {group.explain()}" for group in self.groups)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a candidate: who, whether it ran, and every figure with its range."""
        settings = [vary.path for vary in self.question.varied()]
        causes = self.causes()
        found = []
        for group in self.groups:
            for outcome in group.outcomes:
                measured = outcome.measured
                row: dict[str, Any] = {
                    "workload": group.workload,
                    "cluster": outcome.candidate.scenario.cluster,
                    **{path: dict(outcome.candidate.settings)[path] for path in settings},
                    "ran": measured is not None,
                    "refused": outcome.refused,
                }
                for name in FIGURES:
                    low, high = (None, None) if measured is None else measured.ranges.get(name, (None, None))
                    row[name] = None if measured is None else measured.figures.get(name)
                    row |= {f"{name}_low": low, f"{name}_high": high}
                seconds = {} if measured is None else measured.exposed
                found.append(row | {f"{cause}_s": seconds.get(cause) for cause in causes})
        return found

    def causes(self) -> list[str]:
        """Kinds of exposed communication that any candidate has, in the order of the breakdown."""
        ran = [measured for group in self.groups for measured in group.ran.values()]
        return list(dict.fromkeys(cause for one in ran for cause in one.exposed if cause.startswith("exposed/")))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data: what ``--format json`` prints."""
        question = self.question
        return {
            "schema": SCHEMA,
            "question": {
                "clusters": list(question.clusters),
                "workloads": list(question.workloads),
                "vary": {vary.path: list(vary.values) for vary in question.varied()},
                "set": list(question.overrides),
                "depth": question.depth,
                "seed": question.seed,
            },
            "comparisons": [_group_data(group) for group in self.groups],
            "prices": self._prices(),
            "provenance": {"ffsim_version": __version__, "seed": question.seed},
        }

    def _prices(self) -> list[dict[str, Any]]:
        """Every dated figure that money and energy rest on, by cluster, once."""
        found: dict[tuple[Any, ...], None] = {}
        for group in self.groups:
            for measured in group.ran.values():
                for price in measured.prices:
                    one = price.figure
                    ends = (None, None) if one.low is None else one.bounds
                    found[measured.cluster_name, price.name, one.value, *ends, one.source.date, str(one.source)] = None
        keys = ("cluster", "figure", "value", "low", "high", "date", "source")
        return [dict(zip(keys, row, strict=True)) for row in found]


def compare(
    question: Question, progress: Callable[[str], None] = lambda _: None, *, published: bool = False
) -> Comparison:
    """Run every candidate.

    Args:
        question: what to compare.
        progress: told what is being done.
        published: also look up what is published about each candidate.

    Raises:
        ScenarioError: something wrong with the question or any of its files, before anything is run.

    >>> found = compare(Question(clusters=("h800-2048",), workloads=("deepseek-v3-pretrain",), depth="bounds"))
    >>> list(found.groups[0].ran)
    ['h800-2048']
    """
    progress("reading files")
    found, titles = candidates(question)
    outcomes: dict[str, list[Outcome]] = {}
    for number, candidate in enumerate(found, 1):
        progress(f"{number} of {len(found)}: {candidate.scenario.workload}, {candidate.name}")
        outcomes.setdefault(candidate.scenario.workload, []).append(_outcome(candidate, published=published))
    groups = tuple(
        Group(workload=workload, title=titles[workload], outcomes=tuple(members))
        for workload, members in outcomes.items()
    )
    return Comparison(question=question, groups=groups)


def _outcome(candidate: Candidate, *, published: bool) -> Outcome:
    try:
        result = run(candidate.scenario)
    except (InfeasiblePlan, ModelDomainError) as error:
        return Outcome(candidate=candidate, measured=None, refused=one_line(error.problems))
    return Outcome(candidate=candidate, measured=measure(result, verdicts_about(result) if published else ()))


def one_line(problems: Sequence[Problem]) -> str:
    """Why something was refused, without places and without what is in brackets.

    >>> one_line([Problem(where="a:1", what="rank 0 needs 41 GB of 40 GB (weights 7 GB, ...)", fix="use more GPUs")])
    'rank 0 needs 41 GB of 40 GB; use more GPUs'
    """
    parts = [part for problem in problems for part in (problem.what.partition(" (")[0], problem.fix) if part]
    return "; ".join(dict.fromkeys(parts))


def _group_data(group: Group) -> dict[str, Any]:
    best = group.best
    return {
        "workload": group.workload,
        "title": group.title,
        "answer": group.explain(),
        "candidates": [_outcome_data(group, outcome, best) for outcome in group.outcomes],
        "which_wins": [pairing.to_dict() for pairing in group.pairings],
    }


def _outcome_data(group: Group, outcome: Outcome, best: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    candidate, measured = outcome.candidate, outcome.measured
    data: dict[str, Any] = {
        "name": candidate.name,
        "cluster": candidate.scenario.cluster,
        "settings": dict(candidate.settings),
        "ran": measured is not None,
        "refused": outcome.refused,
    }
    if measured is None:
        return data
    relative = group.relative(candidate.name)
    figures = {}
    for name, value in measured.figures.items():
        figures[name] = {"value": value, "relative_to_first": relative.get(name)}
        if name in measured.ranges:
            low, high = measured.ranges[name]
            figures[name] |= {"low": low, "high": high}
        figures[name]["best"] = candidate.name in best.get(name, ())
    return data | {
        "figures": figures,
        "price_unit": measured.price_unit,
        "exposed_s": measured.exposed,
        "memory_bytes": measured.memory,
        "capacity_bytes": measured.capacity_bytes,
        "warnings": list(measured.warnings),
        "scenario_sha256": measured.sha256,
    }
