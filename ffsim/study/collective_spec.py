"""What a question about collectives says: a workload file of ``kind: collective``, or the options of the command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from difflib import get_close_matches
from typing import Literal

from ffsim.collectives.catalogue import ALGORITHMS, OPS, Op
from ffsim.config import Bandwidth, Count, Counts, Document, Natural, Sizes, build, spec
from ffsim.topology import RoutingRule, Spreading

BARRIER_SIZES = (0.0,)


@spec
class OpSpec:
    """One operation, by every algorithm on every number of nodes with every size.

    Attributes:
        algorithms: names (see `ffsim.collectives.catalogue.ALGORITHMS`).
        nodes: of each group; as many as are placed if left out.
        sizes: of the buffer on each rank; a barrier has none. [bytes]
    """

    op: Op
    algorithms: tuple[str, ...]
    nodes: Counts | None = None
    sizes: Sizes | None = None

    def __post_init__(self) -> None:
        if not self.algorithms:
            raise ValueError("no algorithms: name at least one")
        if self.op != "barrier" and self.sizes is None:
            raise ValueError(f"{self.op} needs sizes: add such as sizes: 1MiB:1GiB")
        if self.op == "barrier" and self.sizes not in {None, BARRIER_SIZES}:
            raise ValueError("a barrier moves nothing: leave sizes out")


@spec
class BackgroundSpec:
    """What else uses the links meanwhile.

    Attributes:
        read_per_node: every node of every group reads from storage at this rate, as 3FS clients do, all the while.
            [bytes/s]
        servers: storage nodes that each reads from at once; 16 is the stripe of the 3FS setup guide (deepseek-ai/3FS,
            deploy/README.md).
        file: instead, a CSV of flows (as ``kind: flows`` has it), seen from the folder of the workload file.
    """

    read_per_node: Bandwidth | None = None
    servers: Count = 16
    file: str | None = None

    def __post_init__(self) -> None:
        if (self.read_per_node is None) == (self.file is None):
            raise ValueError("a background needs exactly one of read_per_node and file: name a rate or a list of flows")


@spec
class CollectiveSpec:
    """A question about collectives.

    Attributes:
        ops: what is run, one after the other on an otherwise idle cluster.
        gpus_per_node: GPUs of each node that take part, the first ones; all if left out.
        placement: which nodes a group gets (`ffsim.topology.place_groups`), or their numbers.
        groups: groups that run the same at once on nodes of their own; each row is the slowest.
        background: what else uses the links.
        routing: how flows find their way; the cluster's rule if left out.
        lanes: whether virtual lanes keep classes of traffic apart, where the cluster has them.
        options: of the algorithms (`ffsim.collectives.catalogue.Request`).
    """

    kind: Literal["collective"]
    title: str = ""
    ops: tuple[OpSpec, ...]
    gpus_per_node: Count | None = None
    placement: Spreading | tuple[Natural, ...] = "in-zone"
    groups: Count = 1
    background: BackgroundSpec | None = None
    routing: RoutingRule | None = None
    lanes: Literal["on", "off"] = "on"
    options: Mapping[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.ops:
            raise ValueError("no ops: name at least one")
        if isinstance(self.placement, tuple):
            self._check_listed(self.placement)
        elif any(op.nodes is None for op in self.ops):
            raise ValueError("ops do not say how many nodes: add nodes, or list them under placement")

    def _check_listed(self, placement: tuple[int, ...]) -> None:
        if len(set(placement)) < len(placement):
            twice = next(node for node in placement if placement.count(node) > 1)
            raise ValueError(f"placement lists node {twice} twice: name each once")
        if not placement or len(placement) % self.groups:
            raise ValueError(f"{len(placement)} listed nodes do not make {self.groups} groups: list a multiple")
        each = len(placement) // self.groups
        for op in self.ops:
            if op.nodes not in {None, (each,)}:
                raise ValueError(f"placement lists {each} nodes a group, nodes says otherwise: leave nodes out")


@spec
class CollectiveSubject:
    """A collective, for validation rows.

    Quantities: ``time_s``, ``algbw_bytes_per_s``, ``busbw_bytes_per_s``.
    """

    cluster: str
    op: Op
    algorithm: str
    nodes: Counts
    size: Sizes | None = None
    gpus_per_node: Count | None = None
    placement: Spreading = "in-zone"
    groups: Count = 1
    set: dict[str, str | int | float | bool] | None = None

    def __post_init__(self) -> None:
        if len(self.nodes) != 1 or (self.size is not None and len(self.size) != 1):
            raise ValueError("a row asks for one number of nodes and one size: give one of each")
        if (self.op == "barrier") != (self.size is None):
            raise ValueError(f"{self.op} {'has no' if self.size else 'needs a'} size: change it")


def build_question(document: Document) -> CollectiveSpec:
    """Build the question from a workload file or from options.

    Raises:
        ScenarioError: everything that is wrong with it, also algorithms that do not do their operation.
    """
    ops = document.data.get("ops")
    for number, op in enumerate(ops if isinstance(ops, list) else []):
        names = op.get("algorithms") if isinstance(op, dict) else None
        for place, name in enumerate(names if isinstance(names, list) else []):
            problem = algorithm_problem(name, op.get("op")) if isinstance(name, str) else None
            if problem is not None:
                document.report(("ops", number, "algorithms", place), *problem)
    return build(document, CollectiveSpec)


def algorithm_problem(name: str, op: object) -> tuple[str, str] | None:
    """What is wrong with an algorithm for an operation and how to mend it, if anything is."""
    if name not in ALGORITHMS:
        near = get_close_matches(name, ALGORITHMS, n=1)
        fix = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(ALGORITHMS)}"
        return f"no algorithm named {name!r}", fix
    if op in OPS and op not in ALGORITHMS[name]:
        others = [other for other, ops in ALGORITHMS.items() if op in ops]
        return f"{name} does no {op}", f"use one of {', '.join(others)}"
    return None
