"""Everything a training simulation starts from, looked up and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ffsim.collectives import ExpertKernels, Routing, load_expert_kernels
from ffsim.compute import OperatorProfile, load_profile
from ffsim.config import Document, Override, build, expect_kind, load_document, merge, nest
from ffsim.errors import ScenarioError
from ffsim.model.precision import Precision, load_precision
from ffsim.model.spec import CnnSpec, ModelSpec, load_any_model
from ffsim.schedules import SCHEDULES
from ffsim.topology import Cluster, Topology, build_topology, with_faults
from ffsim.training.expert_loads import ExpertLoad, ExpertTokens, expert_load, load_expert_tokens
from ffsim.training.software import Software, load_software
from ffsim.training.spec import ASSUMPTIONS, SHELF, Overlap, PretrainSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A workload on a cluster, with every name resolved.

    Attributes:
        document: the workload file, for messages that name a place in it.
        expert_tokens: how tokens go to experts, where the workload says so.
    """

    cluster: Cluster
    topology: Topology
    spec: PretrainSpec
    model: ModelSpec | CnnSpec
    precision: Precision
    profile: OperatorProfile
    kernels: ExpertKernels
    software: Software
    document: Document = field(repr=False)
    expert_tokens: ExpertTokens | None = None

    @property
    def sms_for_communication(self) -> int:
        """SMs set aside for expert traffic: the plan's, else what its kernels take; none without expert parallelism."""
        plan = self.spec.plan
        if plan.sms_for_communication is not None:
            return plan.sms_for_communication
        return self.kernels.sms.value if plan.ep > 1 else 0

    @property
    def overlap(self) -> Overlap:
        """What runs beside computing: as the plan says, else as the software does."""
        plan, software = self.spec.plan.overlap, self.software
        return Overlap(
            gradients=software.overlap_gradients if plan.gradients is None else plan.gradients,
            parameters=software.overlap_parameters if plan.parameters is None else plan.parameters,
            tensor=software.overlap_tensor if plan.tensor is None else plan.tensor,
        )

    @property
    def overlaps_nccl(self) -> bool:
        """Whether anything is computed beside kernels of NCCL."""
        plan, overlap = self.spec.plan, self.overlap
        inside = plan.tp > 1 or plan.cp > 1 or plan.etp > 1
        return bool(inside or overlap.gradients or overlap.parameters or plan.zero == 3)

    def bucket_bytes(self, n_ranks: int) -> float:
        """Gradients that so many data-parallel ranks reduce in one go where that is overlapped."""
        wanted, software = self.spec.plan.bucket, self.software
        return max(software.bucket.value, software.bucket_per_rank.value * n_ranks) if wanted is None else wanted

    @property
    def redundant_experts(self) -> int:
        """Copies of experts per layer."""
        return self.spec.expert_loads.redundant_experts if self.spec.expert_loads else 0

    def expert_load(self, ep: int, per_node: int | None = None) -> ExpertLoad:
        """How unevenly the experts on ``ep`` ranks, so many on every node, are used: by the loads, else as assumed.

        The assumption stands for rows and bytes alike; its reach is that of balanced experts, and bytes are counted in
        units of it (`ffsim.training.traffic.Message.unit`).
        """
        moe, placing = self.model.moe, self.spec.expert_loads
        assert moe is not None
        best = 2 if moe.bias else 1  # as `choose_experts` judges groups
        routing = Routing(experts=moe.routed, top_k=moe.top_k, groups=moe.groups, top_groups=moe.top_groups, best=best)
        per_node = per_node or min(ep, self.cluster.gpus_per_node)
        if self.expert_tokens is None or placing is None:
            assumed = self.spec.assumptions.expert_load.value
            reach = routing.reach(ep // per_node, per_node)
            return ExpertLoad(busiest_over_mean=assumed, fullest_over_mean=assumed, reach=reach)
        plan = self.spec.plan
        n_stages = plan.pp * SCHEDULES[plan.schedule].stages(plan.vpp)
        per_stage = max(1, self.model.layers // n_stages)
        return expert_load(self.expert_tokens, placing, routing, ep // per_node, per_node, per_stage)


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


def wire(cluster: Cluster, spec: PretrainSpec) -> Topology:
    """The links of a cluster as they are on the day.

    Raises:
        ScenarioError: every slow link that is none.
    """
    topology, slow = build_topology(cluster), spec.perturbations.slow_links
    return with_faults(topology, slow, "perturbations.slow_links") if slow else topology


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
    for key, load in (("model", load_any_model), ("precision", load_precision), ("software", load_software)):
        try:
            found[key] = load(getattr(spec, key), near=near)
        except ScenarioError as error:
            _relocate(document, key, error)
    try:
        found["kernels"] = load_expert_kernels(spec.expert_kernels)
    except ScenarioError as error:
        _relocate(document, "expert_kernels", error)
    try:
        topology = wire(cluster, spec)
    except ScenarioError as error:
        _relocate_links(document, error)
    tokens = _expert_tokens(document, spec, found.get("model"), near)
    if problems:
        document.raise_problems()
    model, precision, kernels, software = (found[key] for key in ("model", "precision", "kernels", "software"))
    assert isinstance(model, ModelSpec | CnnSpec)
    assert isinstance(precision, Precision)
    assert isinstance(kernels, ExpertKernels)
    assert isinstance(software, Software)
    return Inputs(
        cluster=cluster,
        topology=topology,
        spec=spec,
        model=model,
        precision=precision,
        profile=load_profile(cluster.gpu.profile),
        kernels=kernels,
        software=software,
        document=document,
        expert_tokens=tokens,
    )


def _expert_tokens(document: Document, spec: PretrainSpec, model: object, near: Path) -> ExpertTokens | None:
    """The loads of the experts if the workload states any; what is wrong with them is reported."""
    if spec.expert_loads is None or not isinstance(model, ModelSpec | CnnSpec):
        return None
    try:
        return load_expert_tokens(spec.expert_loads, model, near)
    except ScenarioError as error:
        _relocate(document, "expert_loads", error)
    return None


def _relocate_links(document: Document, error: ScenarioError) -> None:
    """Report links that are none where the workload names them; what is wrong with the cluster is the cluster's."""
    for problem in error.problems:
        path = tuple(int(part) if part.isdigit() else part for part in problem.path.split("."))
        if path[0] == "perturbations":
            document.report(path, problem.what, problem.fix)
        else:
            document.problems.append(problem)


def _relocate(document: Document, key: str, error: ScenarioError) -> None:
    """Report an unknown name where the workload mentions it; mistakes inside the named file keep their own place."""
    for problem in error.problems:
        if problem.where:
            document.problems.append(problem)
        else:
            document.report((key,), problem.what, problem.fix)
