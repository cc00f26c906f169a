"""What is to be compared: clusters, workloads and what varies; every combination is one candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ffsim.errors import Problem, ScenarioError
from ffsim.study.kinds import kind_of
from ffsim.study.scenario import Scenario, load
from ffsim.topology import SHELF as CLUSTERS
from ffsim.training import SHELF as WORKLOADS
from ffsim.training import Depth

MAX_CANDIDATES = 1000
OPENING, CLOSING = "[{", "]}"


@dataclass(frozen=True, slots=True)
class Vary:
    """One ``--vary path=value,value``: what the path is set to, one candidate each."""

    path: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Vary:
        """Read ``plan.pp=8,16``; commas inside brackets belong to a value.

        Raises:
            ScenarioError: no path or no values.

        >>> Vary.parse("plan.recompute=[],[norm,swiglu]")
        Vary(path='plan.recompute', values=('[]', '[norm,swiglu]'))
        """
        path, _, right = text.partition("=")
        values = tuple(_split(right))
        if not path.strip() or not all(values):
            raise ScenarioError(
                Problem(where=f"--vary {text}", what="cannot be read", fix="write --vary path.to.key=value,value")
            )
        return cls(path.strip(), values)


def _split(text: str) -> Iterator[str]:
    """The parts between commas that stand outside brackets."""
    depth, part = 0, ""
    for letter in text:
        depth += (letter in OPENING) - (letter in CLOSING)
        if letter == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += letter
    yield part.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to compare.

    Attributes:
        clusters, workloads: names or paths.
        vary: what else differs between candidates.
        overrides: of all candidates, as ``--set`` takes them.
        depth, seed: see `Scenario`.
        ranges: whether the ranges of the answers are worked out.
    """

    clusters: tuple[str, ...]
    workloads: tuple[str, ...]
    vary: tuple[Vary, ...] = ()
    overrides: tuple[str, ...] = ()
    depth: Depth = "folded"
    seed: int = 0
    ranges: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One cluster with one workload and one choice of everything that varies.

    Attributes:
        name: what tells it from the other candidates with the same workload.
        settings: (path, value) of what varies.
    """

    name: str
    settings: tuple[tuple[str, str], ...]
    scenario: Scenario


def candidates(question: Question) -> tuple[Candidate, ...]:
    """Every candidate: workload by workload, on each the clusters, on each what varies, last fastest.

    Raises:
        ScenarioError: nothing to compare, something named twice, too many; all of them at once.
    """
    problems = list(_problems(question))
    if problems:
        raise ScenarioError(problems)
    found = []
    for workload, cluster, *values in product(
        question.workloads, question.clusters, *(vary.values for vary in question.vary)
    ):
        settings = tuple(zip((vary.path for vary in question.vary), values, strict=True))
        scenario = Scenario(
            cluster=cluster,
            workload=workload,
            overrides=(*question.overrides, *(f"{path}={value}" for path, value in settings)),
            depth=question.depth,
            seed=question.seed,
            ranges=question.ranges,
        )
        found.append(Candidate(name=_name(question, cluster, settings), settings=settings, scenario=scenario))
    return tuple(found)


def _problems(question: Question) -> Iterator[Problem]:
    if not question.clusters:
        yield Problem(what="no cluster to compare", fix="name one or more, before --workload")
    if not question.workloads:
        yield Problem(what="no workload to compare with", fix="add --workload NAME")
    sorts = [("cluster", question.clusters), ("workload", question.workloads)]
    sorts.append(("--vary", tuple(vary.path for vary in question.vary)))
    sorts += [(f"--vary {vary.path}", vary.values) for vary in question.vary]
    for sort, names in sorts:
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem(where=sort, what=f"{name!r} is named twice", fix="name it once")
    stems: dict[str, str] = {}
    for cluster in dict.fromkeys(question.clusters):
        if stems.setdefault(Path(cluster).stem, cluster) != cluster:
            what = f"{stems[Path(cluster).stem]!r} and {cluster!r} have one name"
            yield Problem(where="cluster", what=what, fix="rename one of the files")
    fixed = {text.partition("=")[0].strip() for text in question.overrides}
    for vary in question.vary:
        if vary.path in fixed:
            yield Problem(where=f"--vary {vary.path}", what="is given by --set, too", fix="leave one of them out")
    size = len(question.clusters) * len(question.workloads)
    for vary in question.vary:
        size *= len(vary.values)
    if size > MAX_CANDIDATES:
        yield Problem(what=f"{size:,} candidates are too many", fix=f"compare at most {MAX_CANDIDATES:,} at once")


def _name(question: Question, cluster: str, settings: Sequence[tuple[str, str]]) -> str:
    """The cluster where there are several or nothing varies, and the values of what varies."""
    words = [Path(cluster).stem] if len(question.clusters) > 1 or not settings else []
    words += [f"{path.rpartition('.')[2]}={value}" for path, value in settings]
    return " ".join(words)


def check(found: Sequence[Candidate]) -> dict[str, str]:
    """Read every file of every candidate before anything is run.

    Returns:
        The title of every workload.

    Raises:
        ScenarioError: everything wrong with any of them, each mistake once.
    """
    problems: dict[Problem, None] = {}
    titles: dict[str, str] = {}
    for candidate in found:
        try:
            _expect_pretraining(candidate.scenario.workload)
            titles.setdefault(candidate.scenario.workload, load(candidate.scenario).spec.title)
        except ScenarioError as error:
            problems |= dict.fromkeys(_replaced(problem, candidate) for problem in error.problems)
    if problems:
        raise ScenarioError(list(problems))
    return titles


def _expect_pretraining(workload: str) -> None:
    kind = kind_of(workload)
    if kind != "pretrain":
        raise ScenarioError(
            Problem(where=workload, what=f"is a workload of kind {kind}", fix="compare takes kind pretrain: use run")
        )
    if workload in CLUSTERS.names() and workload not in WORKLOADS.names():
        fix = "name clusters before --workload"
        raise ScenarioError(Problem(where=workload, what="is a cluster, not a workload", fix=fix))


def _replaced(problem: Problem, candidate: Candidate) -> Problem:
    """A problem with an option that varies, under the name of the option."""
    for path, value in candidate.settings:
        if problem.where == f"--set {path}={value}":
            return replace(problem, where=f"--vary {path}={value}")
    return problem
