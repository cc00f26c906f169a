"""Everything a storage simulation starts from, looked up, put together and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ffsim.config import Document, Override, build, expect_kind, load_document, merge, nest
from ffsim.errors import InfeasiblePlan, ModelDomainError, Problem, ScenarioError
from ffsim.hardware import Ssd
from ffsim.storage.chains import chain_nodes
from ffsim.storage.spec import FILE_SYSTEM, ReadSpec
from ffsim.topology import Cluster, StorageSpec, Topology, build_topology
from ffsim.training import SHELF


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageInputs:
    """A storage workload on a cluster that has storage.

    Attributes:
        document: the workload file, for messages that name a place in it.
    """

    cluster: Cluster
    topology: Topology
    spec: ReadSpec
    storage: StorageSpec
    ssd: Ssd
    document: Document = field(repr=False)

    @property
    def lanes(self) -> tuple[float, ...]:
        """Weights of the virtual lanes; none where everything shares one."""
        lanes = self.cluster.spec.lanes
        return lanes.weights if lanes is not None and self.spec.lanes == "on" else ()


def storage_document(name: str, overrides: Sequence[Override] = ()) -> Document:
    """Read a workload file over the shipped figures of the file system.

    Raises:
        ScenarioError: the file cannot be read, or is not a storage workload.
    """
    document = load_document(SHELF, name)
    expect_kind(document, "storage")
    document = merge(nest(load_document(FILE_SYSTEM, "threefs"), "file_system"), document)
    for override in overrides:
        override.apply(document)
    return document


def load_storage_inputs(cluster: Cluster, document: Document) -> StorageInputs:
    """Build a workload and check it against its cluster.

    Args:
        cluster: where it runs.
        document: from `storage_document`.

    Raises:
        ScenarioError: everything wrong with the workload file, or a cluster without storage.
        ModelDomainError: clients whose hosts are not on the way of their traffic.
        InfeasiblePlan: more nodes, or copies, than there are.
    """
    spec = build(document, ReadSpec)
    storage, ssd = cluster.spec.storage, cluster.storage_ssd
    if storage is None or ssd is None:
        what, fix = "it has no storage nodes to read from", "add `storage:` to it, or choose fire-flyer-2"
        raise ScenarioError(Problem(where=cluster.name, what=what, fix=fix))
    if spec.background is not None and spec.lanes == "on" and cluster.spec.lanes is None:
        document.report(("lanes",), f"{cluster.name} has no virtual lanes", "set it to `off`, or add `lanes:` there")
        document.raise_problems()
    if cluster.spec.nodes.interconnect == "nvswitch":
        what = "nodes with an NVSwitch are not modelled as readers: their NICs hang on GPUs, not on the host"
        raise ModelDomainError(Problem(where=cluster.name, path="nodes.interconnect", what=what, fix="use `pcie`"))
    problems = _too_many(spec, cluster)
    figures = spec.file_system
    try:
        chain_nodes(storage.nodes, figures.replicas.value, figures.targets_per_ssd.value)
    except ValueError as error:
        what, _, fix = str(error).partition(": ")
        problems.append(Problem(where=document.file, path="file_system", what=what, fix=fix))
    if problems:
        raise InfeasiblePlan(problems)
    topology = build_topology(cluster)
    return StorageInputs(cluster=cluster, topology=topology, spec=spec, storage=storage, ssd=ssd, document=document)


def _too_many(spec: ReadSpec, cluster: Cluster) -> list[Problem]:
    """More clients, or nodes of the background, than the cluster has."""
    wanted, there = {"clients": spec.clients}, {"clients": cluster.n_nodes}
    if spec.background is not None:
        wanted["background.nodes"] = spec.background.nodes
        others = max(cluster.n_nodes - spec.clients, 0)
        there["background.nodes"] = min(spec.clients, cluster.n_nodes) if spec.background.on == "clients" else others
    return [
        Problem(
            where=cluster.name,
            path=name,
            what=f"{count:,} nodes are wanted and there are {there[name]:,}",
            fix="use fewer, or a larger cluster",
        )
        for name, count in wanted.items()
        if count > there[name]
    ]
