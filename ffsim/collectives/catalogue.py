"""Every operation by every algorithm, on the nodes of a cluster: what `ffsim collective` asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal, cast, get_args

import numpy as np

from ffsim.collectives.chains import dissemination_barrier, ring_broadcast
from ffsim.collectives.data import Collective, Detail, Ints
from ffsim.collectives.exchange import direct_all_to_all, hierarchical_all_to_all
from ffsim.collectives.fold import idle_s
from ffsim.collectives.hfreduce import hfreduce, hfreduce_bounds, load_hfreduce
from ffsim.collectives.hierarchical import hierarchical_all_reduce
from ffsim.collectives.nccl import Algorithm, Operation
from ffsim.collectives.nccl_flows import library_of, links_of, nccl_flows
from ffsim.collectives.pattern import Pattern, lower, unroll
from ffsim.collectives.point_to_point import send_recv
from ffsim.collectives.rings import ring_all_gather, ring_all_reduce, ring_reduce_scatter
from ffsim.collectives.steps import bounds_of, fold_steps
from ffsim.collectives.trees import depths, double_tree_all_reduce, double_tree_broadcast, parents, second_parents
from ffsim.engine import Flows, simulate_flows
from ffsim.errors import InfeasiblePlan, ModelDomainError, Problem
from ffsim.topology import Cluster, RoutingRule, Topology

Op = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv", "barrier"]
OPS: tuple[Op, ...] = get_args(Op)
DEFAULT_CHUNKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one group does.

    Attributes:
        op: operation.
        algorithm: one of `ALGORITHMS`.
        size_bytes: the whole buffer of a rank: input of a reduce-scatter, output of an all-gather, what a rank sends to
            all ranks together in an all-to-all.
        nodes: of the cluster, in the order of the ranks.
        gpus_per_node: ranks on each, from its first GPU on.
        rule: how flows find their way; the cluster's own if left out.
        lane: virtual lane of the flows.
        options: of the algorithm (``chunks``).
    """

    op: Op
    algorithm: str
    size_bytes: float
    nodes: tuple[int, ...]
    gpus_per_node: int
    rule: RoutingRule | None = None
    lane: int = 0
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Built:
    """What a request comes to.

    Attributes:
        flows: what runs.
        n_ranks: ranks of the group.
        size_bytes: as requested.
        lower_s: what no run can be faster than: the busiest link without a pause, or the longest chain.
        upper_s: closed form with a barrier after every step, or of the pipeline; none where there is none.
        limit: the link whose load gives the lower bound.
        chosen: algorithm and protocol, where a library chooses.
    """

    flows: Flows
    n_ranks: int
    size_bytes: float
    lower_s: float
    upper_s: float | None
    limit: str
    chosen: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """A request with its cluster looked up.

    Attributes:
        members: ``[n_ranks]``, the GPU of every rank.
        detail: a flow a step on the busiest links, flows on every link with the runs of a step together, or every flow.
    """

    topology: Topology
    cluster: Cluster
    request: Request
    members: Ints
    detail: Detail

    @property
    def n(self) -> int:
        """Ranks."""
        return len(self.members)

    @property
    def chunks(self) -> int:
        """Pieces that pipelines cut the buffer into."""
        return int(str(self.request.options.get("chunks", DEFAULT_CHUNKS)))


def build(topology: Topology, cluster: Cluster, request: Request, *, detail: Detail = "steps") -> Built:
    """Look up what a request comes to.

    Args:
        topology: the cluster, wired.
        cluster: its parts.
        request: what is wanted.
        detail: ``flows``: every flow of every rank; ``links``: all on their links, but the runs of a step as one flow;
            ``steps``: folded by symmetry to one flow a step, on the busiest links, for groups that share links with
            nobody. Pipelines do not fold.

    Raises:
        ModelDomainError: no such algorithm, it does not do this operation on these nodes, or it is too many flows.
        InfeasiblePlan: more nodes or GPUs than there are.
    """
    _refuse(cluster, request)
    nodes = np.asarray(request.nodes, dtype=np.int64)
    members = (nodes[:, None] * cluster.gpus_per_node + np.arange(request.gpus_per_node)).ravel()
    group = Group(topology=topology, cluster=cluster, request=request, members=members, detail=detail)
    return ALGORITHMS[request.algorithm][request.op](group)


def bus_factor(op: Op, n_ranks: int) -> float:
    """Bus bandwidth over algorithm bandwidth, by the convention of nccl-tests.

    >>> bus_factor("all_reduce", 8), bus_factor("all_gather", 8), bus_factor("broadcast", 8)
    (1.75, 0.875, 1.0)
    """
    if op == "all_reduce":
        return 2 * (n_ranks - 1) / n_ranks
    return (n_ranks - 1) / n_ranks if op in {"all_gather", "reduce_scatter", "all_to_all"} else 1.0


def _refuse(cluster: Cluster, request: Request) -> None:
    algorithm = request.algorithm
    if algorithm not in ALGORITHMS:
        near = get_close_matches(algorithm, ALGORITHMS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(ALGORITHMS)}"
        raise ModelDomainError(Problem(what=f"unknown algorithm {algorithm!r}", fix=fix))
    if request.op not in ALGORITHMS[algorithm]:
        others = [name for name, ops in ALGORITHMS.items() if request.op in ops]
        raise ModelDomainError(
            Problem(
                what=f"{algorithm} does no {request.op}", fix=f"use one of {', '.join(others) or 'other operations'}"
            )
        )
    if len(set(request.nodes)) < len(request.nodes) or min(request.nodes, default=0) < 0:
        raise ModelDomainError(Problem(what="a node is named twice, or below 0", fix="name every node once, from 0"))
    wanted = max(len(request.nodes), max(request.nodes) + 1)
    if wanted > cluster.n_nodes:
        raise InfeasiblePlan(
            Problem(
                where=cluster.name,
                what=f"{wanted:,} nodes are wanted and {cluster.n_nodes:,} are there",
                fix="use fewer nodes or a larger cluster",
            )
        )
    if not 1 <= request.gpus_per_node <= cluster.gpus_per_node:
        raise InfeasiblePlan(
            Problem(
                where=cluster.name,
                what=f"{request.gpus_per_node} GPUs of a node are wanted and it has {cluster.gpus_per_node}",
                fix=f"use 1 to {cluster.gpus_per_node}",
            )
        )


def _built(group: Group, flows: Flows, upper_s: float | None) -> Built:
    topology = group.topology
    bounds = bounds_of(flows, topology.bandwidth_bytes_per_s)
    return Built(
        flows=flows,
        n_ranks=group.n,
        size_bytes=group.request.size_bytes,
        lower_s=max(bounds.busy_s, bounds.chain_s),
        upper_s=upper_s,
        limit=topology.link_name(bounds.link),
    )


def _in_steps(make: Callable[[Group], Collective]) -> Callable[[Group], Built]:
    """A collective of steps: folded to a flow a step, or every flow in its own order."""

    def built(group: Group) -> Built:
        collective, request = make(group), group.request
        if group.detail != "steps":
            pattern = unroll(collective, together=group.detail == "links")
            flows = lower(pattern, group.topology, group.members, rule=request.rule, lane=request.lane)
            return _built(group, flows, idle_s(collective, group.topology, group.members, request.rule))
        flows = fold_steps(collective, group.topology, group.members, request.rule, lane=request.lane)
        bounds = bounds_of(flows, group.topology.bandwidth_bytes_per_s)
        return Built(
            flows=flows,
            n_ranks=group.n,
            size_bytes=request.size_bytes,
            lower_s=bounds.busy_s,
            upper_s=bounds.chain_s,
            limit=group.topology.link_name(bounds.link),
        )

    return built


def _in_a_pipeline(make: Callable[..., Pattern], n_steps: Callable[[int, int], int]) -> Callable[[Group], Built]:
    """A pipeline of chunks between ranks, which does not fold: all flows are run."""

    def built(group: Group) -> Built:
        request = group.request
        pattern = make(group.n, request.size_bytes, chunks=group.chunks)
        flows = lower(pattern, group.topology, group.members, rule=request.rule, lane=request.lane)
        return _built(group, flows, n_steps(group.n, group.chunks) * _step_s(group, pattern))

    return built


def _step_s(group: Group, pattern: Pattern) -> float:
    """A step in which every pair of a pipeline sends a piece at once: the latency, and the busiest link."""
    if not pattern.n_flows:
        return 0.0
    routes = group.topology.routes(group.members[pattern.src], group.members[pattern.dst], group.request.rule)
    busy = group.topology.busy_s(group.topology.loads(routes, float(pattern.bytes_[0])))
    return float(routes.latency_s.max() + busy.max(initial=0.0))


def _tree_steps(n_ranks: int, chunks: int, ways: int) -> int:
    """Steps until the last chunk is up and down (2 ways) both trees, or only down (1)."""
    trees = (parents(n_ranks), second_parents(n_ranks)) if n_ranks > 1 else ()
    return chunks + ways * max((int(depths(tree).max()) for tree in trees), default=0)


def _fastest_of_nccl(group: Group) -> Built:
    """NCCL's own choice for an allreduce between nodes: the ring or the tree, whichever these links let end first."""
    built = [_by_nccl(algorithm)(group) for algorithm in ("ring", "tree")]
    capacity = group.topology.bandwidth_bytes_per_s
    return min(built, key=lambda each: simulate_flows(replace(each.flows, lane=None), capacity).makespan_s)


def _by_nccl(algorithm: Algorithm | None) -> Callable[[Group], Built]:
    """NCCL: the algorithm asked for or the fastest, with the protocol that is fastest."""

    def built(group: Group) -> Built:
        request, topology = group.request, group.topology
        if request.op == "send_recv" and group.n != 2:
            raise _not_two(group.n)
        if algorithm is None and request.op == "all_reduce" and len(request.nodes) > 1:
            return _fastest_of_nccl(group)
        nodes = np.asarray(request.nodes, dtype=np.int64)
        if algorithm == "tree" and len(nodes) == 1:
            raise ModelDomainError(Problem(what="nccl-tree joins nodes, got 1", fix="use nccl, or more nodes"))
        found = nccl_flows(
            cast(Operation, request.op),
            request.size_bytes,
            topology,
            group.members,
            links_of(group.cluster, topology, nodes, np.arange(request.gpus_per_node)),
            library_of(group.cluster),
            ranks_per_node=request.gpus_per_node,
            algorithm=algorithm,
            rule=request.rule,
            lane=request.lane,
            detail=group.detail,
        )
        bounds = bounds_of(found.flows, topology.bandwidth_bytes_per_s)
        tree = found.time.algorithm == "tree"
        lower = bounds.busy_s if tree else max(bounds.busy_s, found.time.transfer_s)
        return Built(
            flows=found.flows,
            n_ranks=group.n,
            size_bytes=request.size_bytes,
            lower_s=lower,
            upper_s=None if tree else max(found.time.seconds, bounds.chain_s),
            limit=topology.link_name(bounds.link),
            chosen=f"{found.time.algorithm} {found.time.protocol}",
        )

    return built


def _by_hfreduce(*, nvlink: bool) -> Callable[[Group], Built]:
    """HFReduce over all GPUs of the nodes."""

    def built(group: Group) -> Built:
        request, topology, per_node = group.request, group.topology, group.cluster.gpus_per_node
        name = "hfreduce-nvlink" if nvlink else "hfreduce"
        if request.gpus_per_node != per_node:
            what = f"{name} adds up all {per_node} GPUs of a node, {request.gpus_per_node} are asked for"
            raise ModelDomainError(Problem(what=what, fix=f"use --gpus-per-node {per_node}"))
        interconnect = group.cluster.spec.nodes.interconnect
        if interconnect == "nvswitch" or (nvlink and interconnect != "nvlink_pairs"):
            lacks = "PCIe nodes with NVLink bridges" if nvlink else "nodes whose GPUs meet on PCIe"
            what = f"{name} is for {lacks}, {group.cluster.name} has {interconnect}"
            raise ModelDomainError(Problem(what=what, fix="use nccl, or another cluster"))
        figures = load_hfreduce()
        ruled = replace(topology, rule=request.rule) if request.rule else topology
        operation = hfreduce(
            ruled, request.nodes, request.size_bytes, figures, nvlink=nvlink, fold=group.detail != "flows"
        )
        bounds = hfreduce_bounds(operation, topology)
        lane = np.full(len(operation.flows), request.lane) if request.lane else None
        return Built(
            flows=replace(operation.flows, lane=lane),
            n_ranks=group.n,
            size_bytes=request.size_bytes,
            lower_s=bounds.lower_s,
            upper_s=bounds.upper_s,
            limit=topology.link_name(bounds.link),
        )

    return built


def _per_node(make: Callable[..., Collective]) -> Callable[[Group], Collective]:
    return lambda group: make(group.n, group.request.size_bytes, ranks_per_node=group.request.gpus_per_node)


def _two_ranks(group: Group) -> Collective:
    if group.n != 2:
        raise _not_two(group.n)
    return send_recv(group.request.size_bytes)


def _not_two(n: int) -> ModelDomainError:
    return ModelDomainError(Problem(what=f"send_recv has two ranks, got {n}", fix="use 2 nodes with 1 GPU each"))


NCCL_OPS: tuple[Op, ...] = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv")


ALGORITHMS: dict[str, dict[Op, Callable[[Group], Built]]] = {
    "ring": {
        "all_reduce": _in_steps(_per_node(ring_all_reduce)),
        "all_gather": _in_steps(_per_node(ring_all_gather)),
        "reduce_scatter": _in_steps(_per_node(ring_reduce_scatter)),
        "broadcast": _in_a_pipeline(ring_broadcast, lambda n, chunks: chunks + n),
    },
    "double-tree": {
        "all_reduce": _in_a_pipeline(double_tree_all_reduce, lambda n, chunks: _tree_steps(n, chunks, 2)),
        "broadcast": _in_a_pipeline(double_tree_broadcast, lambda n, chunks: _tree_steps(n, chunks, 1)),
    },
    "hierarchical": {
        "all_reduce": _in_steps(_per_node(hierarchical_all_reduce)),
        "all_to_all": _in_steps(_per_node(hierarchical_all_to_all)),
    },
    "direct": {
        "all_to_all": _in_steps(lambda group: direct_all_to_all(group.n, group.request.size_bytes)),
        "send_recv": _in_steps(_two_ranks),
    },
    "hfreduce": {"all_reduce": _by_hfreduce(nvlink=False)},
    "hfreduce-nvlink": {"all_reduce": _by_hfreduce(nvlink=True)},
    "nccl": {op: _by_nccl(None) for op in NCCL_OPS},
    "nccl-ring": {op: _by_nccl("ring") for op in NCCL_OPS if op not in {"all_to_all", "send_recv"}},
    "nccl-tree": {"all_reduce": _by_nccl("tree")},
    "dissemination": {"barrier": _in_steps(lambda group: dissemination_barrier(group.n))},
}
