"""What is to be compared: clusters, workloads and what varies; every combination is one candidate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path

from ffsim.config import build
from ffsim.errors import Problem, ScenarioError
from ffsim.study.kinds import kind_of
from ffsim.study.scenario import WORKLOAD_KEYS, Scenario, load, sorted_overrides
from ffsim.topology import SHELF as CLUSTERS
from ffsim.training import SHELF as WORKLOADS
from ffsim.training import Depth, PretrainSpec, workload_document

MAX_CANDIDATES = 1000
OPENING, CLOSING = "[{", "]}"
COMPANION = re.compile(r"\+(?=[a-z_][\w.]*=)")


@dataclass(frozen=True, slots=True)
class Vary:
    """One ``--vary path=value,value``: what the path is set to, one candidate each.

    A value may bring others along: ``plan.schedule=1f1b,interleaved+plan.vpp=2`` sets ``plan.vpp`` of the second only.
    """

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

    def overrides(self, value: str) -> list[str]:
        """What one of the values sets, as ``--set`` takes it.

        >>> Vary.parse("plan.schedule=1f1b,interleaved+plan.vpp=2").overrides("interleaved+plan.vpp=2")
        ['plan.schedule=interleaved', 'plan.vpp=2']
        """
        first, *others = COMPANION.split(value)
        return [f"{self.path}={first}", *others]


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
        vary: what else differs between candidates, as ``--vary`` takes it.
        overrides: of all candidates, as ``--set`` takes them; of those on one cluster or with one workload where its
            name and a colon stand in front.
        depth, seed: see `Scenario`.
        ranges: whether the ranges of the answers are worked out.
    """

    clusters: tuple[str, ...]
    workloads: tuple[str, ...]
    vary: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    depth: Depth = "folded"
    seed: int = 0
    ranges: bool = True

    def varied(self) -> tuple[Vary, ...]:
        """What varies, read.

        Raises:
            ScenarioError: all that cannot be read.
        """
        found, problems = _read_vary(self.vary)
        if problems:
            raise ScenarioError(problems)
        return tuple(found)


def _read_vary(texts: Sequence[str]) -> tuple[list[Vary], list[Problem]]:
    found: list[Vary] = []
    problems: list[Problem] = []
    for text in texts:
        try:
            found.append(Vary.parse(text))
        except ScenarioError as error:
            problems += error.problems
    return found, problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One cluster with one workload and one choice of everything that varies.

    Attributes:
        name: what tells it from the other candidates with the same workload.
        settings: (path, value) of what varies.
        options: what each override of the scenario that varies was written as.
    """

    name: str
    settings: tuple[tuple[str, str], ...]
    options: dict[str, str]
    scenario: Scenario


def candidates(question: Question) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """Every candidate, its files read once before anything is run.

    Returns:
        The candidates, workload by workload, on each the clusters, on each what varies, last fastest; and the title of
        every workload.

    Raises:
        ScenarioError: everything wrong with the question or with any file, each mistake once.
    """
    vary, problems = _read_vary(question.vary)
    problems += _problems(question, vary)
    found = list(_combinations(question, vary))
    titles: dict[str, str] = {}
    seen: set[tuple[object, ...]] = set()
    for candidate in found[:MAX_CANDIDATES]:
        halves = _halves(candidate.scenario)
        if not halves <= seen:
            wrong = dict.fromkeys(_read(candidate, titles))
            problems += [problem for problem in wrong if problem not in problems]
        seen |= halves
    if problems:
        raise ScenarioError(problems)
    return tuple(found), titles


def _combinations(question: Question, vary: Sequence[Vary]) -> Iterator[Candidate]:
    once = list({one.path: one for one in vary}.values())
    values = [dict.fromkeys(one.values) for one in once]
    for workload, cluster, *chosen in product(
        dict.fromkeys(question.workloads), dict.fromkeys(question.clusters), *values
    ):
        options = {
            text: f"--vary {one.path}={value}"
            for one, value in zip(once, chosen, strict=True)
            for text in one.overrides(value)
        }
        scenario = Scenario(
            cluster=cluster,
            workload=workload,
            overrides=(*_overrides(question, cluster, workload), *options),
            depth=question.depth,
            seed=question.seed,
            ranges=question.ranges,
        )
        yield Candidate(
            name=_name(question, cluster, list(options)),
            settings=tuple((one.path, value) for one, value in zip(once, chosen, strict=True)),
            options=options,
            scenario=scenario,
        )


def _overrides(question: Question, cluster: str, workload: str) -> list[str]:
    """The overrides that hold for a cluster with a workload."""
    parted = [_owner(text) for text in question.overrides]
    return [rest for owner, rest in parted if owner in {"", cluster, workload}]


def _owner(text: str) -> tuple[str, str]:
    """What an override is limited to (nothing for most), and the override.

    >>> _owner("plan.pp=8"), _owner("dgx-a100-10000:plan.gradient_reduction=nccl")
    (('', 'plan.pp=8'), ('dgx-a100-10000', 'plan.gradient_reduction=nccl'))
    """
    left, equals, right = text.partition("=")
    owner, _, path = left.rpartition(":")
    return owner, f"{path}{equals}{right}"


def _problems(question: Question, vary: Sequence[Vary]) -> Iterator[Problem]:
    """What is wrong with the question by itself."""
    if not question.clusters:
        yield Problem(what="no cluster to compare", fix="name one or more, before --workload")
    if not question.workloads:
        yield Problem(what="no workload to compare with", fix="add --workload NAME")
    sorts = [("cluster", question.clusters), ("--workload", question.workloads)]
    sorts.append(("--vary", tuple(one.path for one in vary)))
    sorts += [(f"--vary {one.path}", one.values) for one in vary]
    for sort, names in sorts:
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem(where=sort, what=f"{name!r} is named twice", fix="name it once")
    stems: dict[str, str] = {}
    for cluster in dict.fromkeys(question.clusters):
        if (other := stems.setdefault(Path(cluster).stem, cluster)) != cluster:
            yield Problem(where="cluster", what=f"{other!r} and {cluster!r} have one name", fix="rename one of them")
    parted = [(text, *_owner(text)) for text in question.overrides]
    for text, owner, _ in parted:
        if owner and owner not in (*question.clusters, *question.workloads):
            fix = "name one of those that are compared, as it is written there"
            yield Problem(where=f"--set {text}", what=f"{owner!r} is neither cluster nor workload here", fix=fix)
    fixed = {rest.partition("=")[0].strip() for _, _, rest in parted}
    for one in vary:
        if one.path in fixed:
            yield Problem(where=f"--vary {one.path}", what="is given by --set, too", fix="leave one of them out")
    size = len(question.clusters) * len(question.workloads) * prod(len(one.values) for one in vary)
    if size > MAX_CANDIDATES:
        yield Problem(what=f"{size:,} candidates are too many", fix=f"compare at most {MAX_CANDIDATES:,} at once")


def _halves(scenario: Scenario) -> set[tuple[object, ...]]:
    """The cluster and the workload, each with its overrides: what one candidate has read need not be read for another.

    An override that cannot be told to belong to either file is part of both.
    """
    try:
        for_cluster, for_workload = sorted_overrides(scenario.overrides, WORKLOAD_KEYS)
    except ScenarioError:
        return {(scenario.cluster, scenario.overrides), (scenario.workload, scenario.overrides)}
    return {
        ("cluster", scenario.cluster, *(one.text for one in for_cluster)),
        ("workload", scenario.workload, *(one.text for one in for_workload)),
    }


def _read(candidate: Candidate, titles: dict[str, str]) -> Iterator[Problem]:
    """Read the files of a candidate; what is wrong with them, options that vary under their own name."""
    scenario = candidate.scenario
    options = {f"--set {text}": option for text, option in candidate.options.items()}
    try:
        _expect_pretraining(scenario.workload)
        titles.setdefault(scenario.workload, load(scenario).spec.title)
    except ScenarioError as error:
        for problem in [*error.problems, *_wrong_with_workload(scenario)]:
            yield replace(problem, where=options.get(problem.where, problem.where))


def _expect_pretraining(workload: str) -> None:
    kind = kind_of(workload)
    if kind != "pretrain":
        what = f"is a workload of kind {kind}, and only those of kind pretrain are compared"
        raise ScenarioError(Problem(where=workload, what=what, fix="ask about it by `ffsim run`"))
    if workload in CLUSTERS.names() and workload not in WORKLOADS.names():
        fix = "name clusters before --workload"
        raise ScenarioError(Problem(where=workload, what="is a cluster, not a workload", fix=fix))


def _wrong_with_workload(scenario: Scenario) -> Sequence[Problem]:
    """What is wrong with the workload file even if its cluster were right."""
    try:
        _expect_pretraining(scenario.workload)
        _, overrides = sorted_overrides(scenario.overrides, WORKLOAD_KEYS)
        build(workload_document(scenario.workload, overrides), PretrainSpec)
    except ScenarioError as error:
        return error.problems
    return ()


def _name(question: Question, cluster: str, overrides: Sequence[str]) -> str:
    """The cluster where there are several or nothing varies, and what varies."""
    words = [Path(cluster).stem] if len(question.clusters) > 1 or not overrides else []
    words += [text.partition("=")[0].rpartition(".")[2] + "=" + text.partition("=")[2] for text in overrides]
    return " ".join(words)
