"""A question: a workload on a cluster, with what is to be different."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from ffsim._version import __version__
from ffsim.config import Document, Override, expect_kind, load_document
from ffsim.errors import Problem, ScenarioError
from ffsim.topology import SHELF as CLUSTERS
from ffsim.topology import Cluster, ClusterSpec, load_cluster
from ffsim.training import (
    SHELF,
    Depth,
    Inputs,
    PretrainSpec,
    load_inputs,
    workload_document,
)

CLUSTER_KEYS = frozenset(ClusterSpec.__slots__)  # type: ignore[attr-defined]
WORKLOAD_KEYS = frozenset(PretrainSpec.__slots__)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A workload on a cluster.

    Attributes:
        cluster, workload: names or paths.
        overrides: ``path=value`` texts, as ``--set`` takes them; a path whose first key both files know (``title``)
            needs ``cluster.`` or ``workload.`` in front.
        depth: how the answer is found.
        seed: of everything drawn at random; recorded with the answer.
        ranges: whether the ranges of the answer are worked out, which takes further simulations.
    """

    cluster: str
    workload: str
    overrides: tuple[str, ...] = ()
    depth: Depth = "folded"
    seed: int = 0
    ranges: bool = True


def load(scenario: Scenario) -> Inputs:
    """Look up everything that a pre-training scenario names.

    Raises:
        ScenarioError: everything wrong with its files and overrides.
    """
    return load_inputs(*read(scenario, WORKLOAD_KEYS, workload_document))


def read(
    scenario: Scenario, keys: frozenset[str], read_workload: Callable[[str, Sequence[Override]], Document]
) -> tuple[Cluster, Document]:
    """Read both files of a scenario.

    Args:
        scenario: names them.
        keys: the keys at the top of the workload file, which tell whose an override is.
        read_workload: from a name and its overrides to the file's data.

    Raises:
        ScenarioError: everything wrong with the cluster, and what keeps the workload from being read.
    """
    for_cluster, for_workload = sorted_overrides(scenario.overrides, keys)
    problems: list[Problem] = []
    cluster = document = None
    try:
        cluster = load_cluster(scenario.cluster, for_cluster)
    except ScenarioError as error:
        problems += error.problems
    try:
        document = read_workload(scenario.workload, for_workload)
    except ScenarioError as error:
        problems += error.problems
    if cluster is None or document is None:
        if scenario.cluster in SHELF.names() and scenario.workload in CLUSTERS.names():
            problems = [Problem(what="the first name is a workload, the second a cluster", fix="swap the two")]
        raise ScenarioError(problems)
    return cluster, document


def plain_document(kind: str) -> Callable[[str, Sequence[Override]], Document]:
    """How workload files of a kind are read that rest on no shipped assumptions."""

    def read_workload(name: str, overrides: Sequence[Override]) -> Document:
        document = load_document(SHELF, name, overrides=overrides)
        expect_kind(document, kind)
        return document

    return read_workload


def sorted_overrides(texts: Sequence[str], keys: frozenset[str]) -> tuple[list[Override], list[Override]]:
    """Give each override to the file whose keys its path starts with: cluster first, then workload.

    Raises:
        ScenarioError: one that cannot be read, or that both files could take.
    """
    found: tuple[list[Override], list[Override]] = ([], [])
    problems: list[Problem] = []
    for text in texts:
        override = Override.parse(text)
        first = str(override.path[0])
        if first in {"cluster", "workload"} and len(override.path) > 1:
            rest = Override(override.path[1:], override.value, override.text)
            found[first == "workload"].append(rest)
            continue
        owners = (first in CLUSTER_KEYS, first in keys)
        if owners == (True, True):
            fix = f"write cluster.{first} or workload.{first}"
            problems.append(Problem(where=f"--set {text}", what=f"both files have {first!r}", fix=fix))
        else:  # unknown keys are the workload's to refuse, where most options are
            found[0 if owners[0] else 1].append(override)
    if problems:
        raise ScenarioError(problems)
    return found


def fingerprint(inputs: Inputs, scenario: Scenario) -> str:
    """SHA-256 over everything that determines the answer: resolved inputs, depth, seed and version."""
    cluster = inputs.cluster
    parts = (
        cluster.spec,
        cluster.gpu,
        cluster.nic,
        cluster.switch,
        inputs.spec,
        inputs.model,
        inputs.precision,
        inputs.profile,
        inputs.kernels,
    )
    graph = None if cluster.graph is None else cluster.graph.digest
    loads = None if inputs.expert_tokens is None else inputs.expert_tokens.loads.tolist()
    return digest(parts, depth=scenario.depth, seed=scenario.seed, graph=graph, expert_tokens=loads)


def digest(parts: Iterable[Any], **others: Any) -> str:
    """SHA-256 over frozen values, plain data and the version."""
    everything = {"version": __version__, "parts": [_plain(part) for part in parts], **others}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def cluster_parts(cluster: Cluster) -> list[Any]:
    """A cluster file and every part that it names."""
    others = (cluster.cpu, cluster.storage_nic, cluster.storage_cpu, cluster.storage_ssd)
    graph = None if cluster.graph is None else cluster.graph.digest
    return [cluster.spec, cluster.gpu, cluster.nic, cluster.switch, *others, graph]


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
