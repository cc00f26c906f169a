"""Everything a training simulation starts from, looked up and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ffsim.collectives import ExpertKernels, load_expert_kernels
from ffsim.compute import OperatorProfile, load_profile
from ffsim.config import Document, Override, build, expect_kind, load_document, merge, nest
from ffsim.errors import ScenarioError
from ffsim.model.precision import Precision, load_precision
from ffsim.model.spec import ModelSpec, load_model
from ffsim.topology import Cluster, Topology, build_topology
from ffsim.training.spec import ASSUMPTIONS, SHELF, PretrainSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A workload on a cluster, with every name resolved.

    Attributes:
        document: the workload file, for messages that name a place in it.
    """

    cluster: Cluster
    topology: Topology
    spec: PretrainSpec
    model: ModelSpec
    precision: Precision
    profile: OperatorProfile
    kernels: ExpertKernels
    document: Document = field(repr=False)

    @property
    def sms_for_communication(self) -> int:
        """SMs set aside for expert traffic: the plan's, else what its kernels take; none without expert parallelism."""
        plan = self.spec.plan
        if plan.sms_for_communication is not None:
            return plan.sms_for_communication
        return self.kernels.sms.value if plan.ep > 1 else 0


def workload_document(name: str, overrides: Sequence[Override] = ()) -> Document:
    """Read a workload file over the shipped assumptions.

    Raises:
        ScenarioError: the file cannot be read, or is not a workload.
    """
    document = load_document(SHELF, name)
    expect_kind(document, "pretrain")
    document = merge(nest(load_document(ASSUMPTIONS, "assumptions"), "assumptions"), document)
    for override in overrides:
        override.apply(document)
    return document


def load_inputs(cluster: Cluster, document: Document) -> Inputs:
    """Build a workload and look up what it names.

    Args:
        cluster: where it runs.
        document: from `workload_document`.

    Raises:
        ScenarioError: everything wrong with the workload file and the files it names.
    """
    spec = build(document, PretrainSpec)
    near = Path(document.file).parent
    problems = document.problems
    found: dict[str, object] = {}
    for key, load in (("model", load_model), ("precision", load_precision)):
        try:
            found[key] = load(getattr(spec, key), near=near)
        except ScenarioError as error:
            _relocate(document, key, error)
    try:
        found["kernels"] = load_expert_kernels(spec.expert_kernels)
    except ScenarioError as error:
        _relocate(document, "expert_kernels", error)
    if problems:
        document.raise_problems()
    model, precision, kernels = found["model"], found["precision"], found["kernels"]
    assert isinstance(model, ModelSpec)
    assert isinstance(precision, Precision)
    assert isinstance(kernels, ExpertKernels)
    return Inputs(
        cluster=cluster,
        topology=build_topology(cluster),
        spec=spec,
        model=model,
        precision=precision,
        profile=load_profile(cluster.gpu.profile),
        kernels=kernels,
        document=document,
    )


def _relocate(document: Document, key: str, error: ScenarioError) -> None:
    """Report an unknown name where the workload mentions it; mistakes inside the named file keep their own place."""
    for problem in error.problems:
        if problem.where:
            document.problems.append(problem)
        else:
            document.report((key,), problem.what, problem.fix)
