"""A question: a workload on a cluster, with what is to be different."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from ffsim._version import __version__
from ffsim.config import Override
from ffsim.errors import Problem, ScenarioError
from ffsim.topology import SHELF as CLUSTERS
from ffsim.topology import ClusterSpec, load_cluster
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
    """

    cluster: str
    workload: str
    overrides: tuple[str, ...] = ()
    depth: Depth = "folded"
    seed: int = 0


def load(scenario: Scenario) -> Inputs:
    """Look up everything a scenario names.

    Raises:
        ScenarioError: everything wrong with its files and overrides.
    """
    for_cluster, for_workload = _sorted_overrides(scenario.overrides)
    problems: list[Problem] = []
    cluster = document = None
    try:
        cluster = load_cluster(scenario.cluster, for_cluster)
    except ScenarioError as error:
        problems += error.problems
    try:
        document = workload_document(scenario.workload, for_workload)
    except ScenarioError as error:
        problems += error.problems
    if cluster is None or document is None:
        if scenario.cluster in SHELF.names() and scenario.workload in CLUSTERS.names():
            problems = [Problem(what="the first name is a workload, the second a cluster", fix="swap the two")]
        raise ScenarioError(problems)
    return load_inputs(cluster, document)


def _sorted_overrides(texts: Sequence[str]) -> tuple[list[Override], list[Override]]:
    """Give each override to the file whose keys its path starts with."""
    found: tuple[list[Override], list[Override]] = ([], [])
    problems: list[Problem] = []
    for text in texts:
        override = Override.parse(text)
        first = str(override.path[0])
        if first in {"cluster", "workload"} and len(override.path) > 1:
            rest = Override(override.path[1:], override.value, override.text)
            found[first == "workload"].append(rest)
            continue
        owners = (first in CLUSTER_KEYS, first in WORKLOAD_KEYS)
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
    everything = {
        "version": __version__,
        "depth": scenario.depth,
        "seed": scenario.seed,
        "parts": [
            _plain(part)
            for part in (
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
        ],
        "expert_tokens": None if inputs.expert_tokens is None else inputs.expert_tokens.loads.tolist(),
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
