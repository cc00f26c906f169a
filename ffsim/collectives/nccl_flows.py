"""NCCL's collectives on the links of a cluster: what `nccl_time` chooses, as flows that share links with others.

The chosen algorithm runs as flows; what its protocol leaves of the links' rate is made up for by more bytes, launch and
steps by latency. Alone on its links the collective takes what `nccl_time` says, or longer where a link of the cluster
gives less than the library would use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import numpy as np

from ffsim.collectives.data import Collective, Detail, Floats, Ints, Step
from ffsim.collectives.exchange import direct_all_to_all
from ffsim.collectives.nccl import Algorithm, NcclLibrary, NcclTime, NodeLinks, Operation, load_nccl, nccl_time
from ffsim.collectives.pattern import Pattern, lower, unroll
from ffsim.collectives.point_to_point import send_recv
from ffsim.collectives.rings import channel_orders, ring_all_gather, ring_all_reduce, ring_reduce_scatter
from ffsim.collectives.steps import bounds_of, fold_steps
from ffsim.collectives.trees import chained_tree_all_reduce
from ffsim.engine import Flows
from ffsim.topology import Cluster, RoutingRule, Topology

OVER_PCIE = "nccl-pcie4"
MAX_CHUNKS = 64  # more pieces change the time by less than a percent


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NcclFlows:
    """A collective of NCCL as flows.

    Attributes:
        flows: for the engine.
        time: algorithm, protocol, and what they take alone.
    """

    flows: Flows
    time: NcclTime


def library_of(cluster: Cluster) -> NcclLibrary:
    """The figures of NCCL over a cluster's links inside nodes."""
    switched = cluster.spec.nodes.interconnect == "nvswitch" and cluster.gpu.nccl is not None
    return load_nccl(cluster.gpu.nccl if switched and cluster.gpu.nccl else OVER_PCIE)


def links_of(cluster: Cluster, topology: Topology, nodes: Ints, places: Ints) -> NodeLinks:
    """What the links of some nodes offer NCCL: line rates, or less where GPUs and NICs meet a lower limit.

    Args:
        cluster: whose nodes they are.
        topology: its links.
        nodes: those that take part.
        places: GPUs of each that take part, counted from 0; only their NICs count.
    """
    spec, gpu = cluster.spec.nodes, cluster.gpu
    switched = spec.interconnect == "nvswitch" and gpu.scale_up is not None
    inside = gpu.scale_up.value if switched and gpu.scale_up else gpu.host_link.value
    port = min(cluster.nic.bandwidth.value, cluster.fabric_port_bytes_per_s, gpu.host_link.value)
    if not switched and cluster.cpu is not None and cluster.cpu.peer_to_peer is not None:
        port = min(port, cluster.cpu.peer_to_peer.value)
    nics = len(np.unique(places // (spec.gpus // spec.nics)))
    latency = 0.0
    if len(nodes) > 1:
        gpus = nodes * cluster.gpus_per_node
        latency = float(topology.routes(gpus, np.roll(gpus, -1)).latency_s.max())
    return NodeLinks(
        inside_bytes_per_s=inside,
        between_bytes_per_s=port * nics if len(nodes) > 1 else inf,
        between_latency_s=latency,
        nics=nics,
    )


def nccl_flows(
    op: Operation,
    size_bytes: float,
    topology: Topology,
    members: Ints,
    links: NodeLinks,
    library: NcclLibrary,
    *,
    ranks_per_node: int,
    algorithm: Algorithm | None = None,
    rule: RoutingRule | None = None,
    lane: int = 0,
    detail: Detail = "steps",
) -> NcclFlows:
    """Spell out a collective as NCCL would run it.

    Args:
        op: what is done.
        size_bytes: as for `nccl_time`.
        topology: the cluster.
        members: ``[n_ranks]``, GPU of every rank, node by node.
        links: what the links offer.
        library: its figures.
        ranks_per_node: ranks on each node.
        algorithm: take this one instead of the fastest.
        rule: how flows find their way; the cluster's own if left out.
        lane: virtual lane of the flows.
        detail: see `ffsim.collectives.catalogue.build`.

    Raises:
        ValueError: no such algorithm for the operation.
    """
    n = len(members)
    time = nccl_time(op, size_bytes, n, ranks_per_node, links, library, algorithm)
    made = _made(op, size_bytes, n, ranks_per_node, time, library, links)
    if isinstance(made, Pattern):
        flows = lower(made, topology, members, rule=rule, lane=lane)
    elif detail != "steps":
        flows = lower(unroll(made, together=detail == "links"), topology, members, rule=rule, lane=lane)
    else:
        flows = fold_steps(made, topology, members, rule, lane=lane)
    folded = flows if isinstance(made, Pattern) or detail == "steps" else fold_steps(made, topology, members, rule)
    bounds = bounds_of(replace(folded, latency_s=None), topology.bandwidth_bytes_per_s)
    wire_s = bounds.busy_s if isinstance(made, Pattern) else bounds.chain_s
    stretch = max(time.transfer_s / wire_s, 1.0) if wire_s else 1.0
    latency = _latencies(flows, time, topology.bandwidth_bytes_per_s)
    return NcclFlows(flows=replace(flows, size_bytes=flows.size_bytes * stretch, latency_s=latency), time=time)


def _made(
    op: Operation,
    size_bytes: float,
    n: int,
    ranks_per_node: int,
    time: NcclTime,
    library: NcclLibrary,
    links: NodeLinks,
) -> Collective | Pattern:
    if time.algorithm == "tree":
        channels = min(links.nics, ranks_per_node)
        chunks = round(size_bytes / (2 * channels * library.chunk.value))
        return chained_tree_all_reduce(
            n, size_bytes, ranks_per_node=ranks_per_node, channels=channels, chunks=min(max(chunks, 1), MAX_CHUNKS)
        )
    if time.algorithm in {"nvls", "one_shot"}:  # every rank to the switch and back, once
        rank = np.arange(n)
        return Collective(time.algorithm, n, (Step.of(rank, (rank + 1) % n, size_bytes),), size_bytes)
    if op in {"send_recv", "send_recv_bidir"}:
        return send_recv(size_bytes)
    if op == "all_to_all":
        return direct_all_to_all(n, size_bytes)
    if op == "broadcast":  # along the ring of every channel, its part of the buffer over each link
        orders = channel_orders(n, ranks_per_node)
        chains = np.array([np.roll(order, -int(np.flatnonzero(order == 0)[0])) for order in orders])
        step = Step.of(chains[:, :-1].ravel(), chains[:, 1:].ravel(), size_bytes / len(chains))
        return Collective("ring broadcast", n, (step,), size_bytes)
    ring = {"all_reduce": ring_all_reduce, "all_gather": ring_all_gather, "reduce_scatter": ring_reduce_scatter}[op]
    return ring(n, size_bytes, ranks_per_node=ranks_per_node)


def _latencies(flows: Flows, time: NcclTime, capacity_bytes_per_s: Floats) -> Floats:
    """The latency of all steps along the longest chain, spread as the network's is; the launch where flows begin."""
    n = len(flows)
    latency = np.zeros(n) if flows.latency_s is None else flows.latency_s
    longest = bounds_of(replace(flows, size_bytes=np.zeros(n), latency_s=latency), capacity_bytes_per_s).chain_s
    spread = latency * (time.latency_s / longest) if longest else latency
    begins = np.ones(n, dtype=np.bool_)
    if flows.edges is not None:
        begins[flows.edges[:, 1]] = False
    return spread + time.launch_s * begins
