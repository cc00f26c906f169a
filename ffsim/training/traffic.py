"""Who sends how much over which links: the messages of a plan, folded to what one rank's links carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from ffsim.collectives import (
    N_CLASSES,
    Collective,
    Demand,
    expert_exchange,
    fold,
    link_class,
    send_recv,
)
from ffsim.topology import LinkKind
from ffsim.training.blocks import (
    ComputeSlot,
    ExchangeSlot,
    GroupSlot,
    HostSlot,
    OptimizerSlot,
    SendSlot,
    Slot,
    SyncSlot,
)
from ffsim.training.costs import tokens_dispatched
from ffsim.training.host_reduce import HostReduction
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.nccl_costs import GroupOperation, Nccl, ranks_per_node, unit_collective
from ffsim.training.sync_traffic import host_reduction, sync_collective, sync_groups

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]
Unit = Literal["bytes", "expert load", "gradient bytes", "weight bytes"]

EXPERT_COPY, EXPERT_CAP = N_CLASSES, N_CLASSES + 1  # links of a rank beyond those of the cluster
LINKS_PER_RANK = N_CLASSES + 2
PORTS = {
    link_class(kind, back=back)
    for kind in (LinkKind.NIC_PCIE, LinkKind.ACCESS, LinkKind.PEER_TO_PEER)
    for back in (False, True)
}

BOTH_WAYS = {link_class(kind) for kind in (LinkKind.ROOT_PORT_BUS, LinkKind.MEMORY)}


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the links see it.

    Attributes:
        hops: links of each kind that its latency is made of.
        links: links of the ranks' representatives (rank times `LINKS_PER_RANK` plus class).
        amounts: on each link, in ``unit``.
        unit: what one is: a byte, a byte at balanced load, a byte per byte of a gradient or of a weight on the wire.
        imbalance: how much more its busiest link carries than the mean; 1 where the symmetry is exact.
        copied: what the SMs of expert kernels copy, in ``unit``; none for other messages.
        sharing: how much longer its links are busy with all groups at once than with one alone.
        groups: ``[n_groups, n_ranks]`` GPUs that reduce or gather together; none for other messages.
        host: HFReduce, where it reduces.
    """

    hops: tuple[float, ...]
    links: tuple[int, ...]
    amounts: tuple[float, ...]
    unit: Unit
    imbalance: float = 1.0
    copied: float = 0.0
    sharing: float = 1.0
    groups: Ints | None = None
    host: HostReduction | None = None


Messages = dict[Slot, Message]


def trace_messages(inputs: Inputs, layout: Layout, slots: tuple[Slot, ...]) -> Messages:
    """Find the links of every message of a program; both conditions of an exchange share the entry of ``alone``."""
    tracer = _Tracer(inputs, layout)
    messages: Messages = {}
    for given in slots:
        slot = given._replace(condition="alone") if isinstance(given, ExchangeSlot) else given
        if slot in messages or isinstance(slot, ComputeSlot | HostSlot | OptimizerSlot | None):
            continue
        source, target = (slot.source, slot.target) if isinstance(slot, SendSlot) else (slot.rank, slot.rank)
        if isinstance(slot, SyncSlot):
            messages[slot] = tracer.sync(inputs, layout, slot)
            continue
        done = talk(inputs, layout, slot)
        message = tracer.message(done, source, target)
        if isinstance(slot, GroupSlot):
            message = replace(
                message,
                amounts=tuple(amount * slot.size_bytes for amount in message.amounts),
                sharing=tracer.sharing(done),
            )
        messages[slot] = message
    return messages


class Talk(NamedTuple):
    """What some groups of GPUs do at the same time.

    Attributes:
        collective: what each group does, sizes in ``unit``.
        groups: ``[n_groups, n_ranks]`` GPUs.
        unit: see `Message`.
        copied: see `Message`.
    """

    collective: Collective
    groups: Ints
    unit: Unit
    copied: float = 0.0


def talk(inputs: Inputs, layout: Layout, slot: SendSlot | SyncSlot | ExchangeSlot | GroupSlot) -> Talk:
    """What a message slot stands for, in all data-parallel replicas together.

    The collective of a `GroupSlot` is that of one byte of its ``size_bytes``, whatever its part; that of a `SyncSlot`
    is a ring even where HFReduce reduces (`ffsim.training.sync_traffic.sync_member_loads`).
    """
    if isinstance(slot, SendSlot):
        pairs = np.stack([layout.gpus_of(slot.source), layout.gpus_of(slot.target)], axis=1)
        if inputs.software.staggered_sends:
            pairs = pairs[_one_replica_a_nic(inputs, layout, slot.source)]
        return Talk(_send(inputs, layout), pairs, "bytes")
    if isinstance(slot, ExchangeSlot):
        unit: Unit = "bytes" if inputs.expert_tokens else "expert load"
        collective = _exchange(inputs, layout, slot.name)
        return Talk(collective, layout.groups("expert", slot.rank), unit, _copied(inputs, layout, collective))
    if isinstance(slot, GroupSlot):
        return _group_talk(inputs, layout, slot)
    groups = sync_groups(layout, slot)
    return Talk(sync_collective(inputs, slot, groups), groups, sync_unit(slot))


def sync_unit(slot: SyncSlot) -> Unit:
    """What parameters are moved as."""
    return "weight bytes" if slot.operation == "gather" else "gradient bytes"


def _send(inputs: Inputs, layout: Layout) -> Collective:
    """What a rank sends of the activations (or their gradients) of one micro-batch between two stages.

    Tensor-parallel ranks send a part each: their own tokens under sequence parallelism; else Megatron's
    scatter-gather, after which the receivers gather the whole (`boundary_gather`).
    """
    return send_recv(boundary_bytes(inputs, layout) / layout.tp)


def _one_replica_a_nic(inputs: Inputs, layout: Layout, rank: int) -> Ints:
    """``[members]`` which GPUs of a pipeline rank send at the same time: at each NIC those of one replica.

    Replicas out of step by the time of a send do not meet again, as all of them repeat the same pattern. Domain: the
    sends of all replicas at a NIC leave it idle most of the time.
    """
    nodes = inputs.cluster.spec.nodes
    nic = layout.gpus_of(rank) // (nodes.gpus // nodes.nics)
    place = len(layout.order) - 1 - layout.order.index("dp")
    replica = np.indices([getattr(layout, name) for name in reversed(layout.order)])[place].ravel()
    _, at, of = np.unique(nic, return_index=True, return_inverse=True)
    chosen: Ints = replica == replica[at][of.ravel()]
    return chosen


def boundary_bytes(inputs: Inputs, layout: Layout) -> float:
    """Activations of one micro-batch between two stages, of one context-parallel rank."""
    tokens = layout.micro_batch * inputs.spec.sequence_length / layout.cp
    return tokens * inputs.model.hidden * inputs.precision.activation_bytes


def boundary_gather(inputs: Inputs, layout: Layout, rank: int) -> GroupSlot | None:
    """What the tensor-parallel ranks of a receiver do to have all of a message; nothing where each needs its part."""
    if layout.tp == 1 or inputs.spec.plan.sequence_parallel:
        return None
    return GroupSlot("all-gather", "tensor", rank, boundary_bytes(inputs, layout))


def _group_talk(inputs: Inputs, layout: Layout, slot: GroupSlot) -> Talk:
    assert slot.operation not in {"dispatch", "combine"}
    operation: GroupOperation = slot.operation  # type: ignore[assignment]
    groups = layout.groups(slot.group, slot.rank)
    time = Nccl(inputs).time(operation, slot.size_bytes, groups)
    per_node = ranks_per_node(groups // inputs.cluster.gpus_per_node)
    return Talk(unit_collective(operation, time.algorithm, groups.shape[1], per_node), groups, "bytes")


def _exchange(inputs: Inputs, layout: Layout, name: Literal["dispatch", "combine"]) -> Collective:
    """The tokens of one micro-batch on their way to their experts, or back: at the stated loads, else balanced."""
    per_node = experts_per_node(inputs, layout)
    per_element = inputs.precision.dispatch_bytes if name == "dispatch" else inputs.precision.combine_bytes
    return expert_exchange(
        name,
        layout.ep // per_node,
        per_node,
        inputs.expert_load(layout.ep, per_node).reach,
        inputs.model.hidden * per_element,
        tokens_dispatched(inputs),
    )


def experts_per_node(inputs: Inputs, layout: Layout) -> int:
    """Ranks of an expert group on every node that it reaches."""
    return ranks_per_node(layout.groups("expert", 0) // inputs.cluster.gpus_per_node)


def _copied(inputs: Inputs, layout: Layout, exchange: Collective) -> float:
    """Bytes that the SMs of the busiest rank copy: every token once for each node and rank it reaches."""
    per_node = experts_per_node(inputs, layout)
    reach = inputs.expert_load(layout.ep, per_node).reach
    sent = exchange.size_bytes / reach.nodes
    across = reach.nodes if layout.ep > per_node else 0.0
    return sent * (reach.fullest_rank * layout.ep + across)


class _Tracer:
    """Turns demands into messages on the links of pipeline ranks."""

    def __init__(self, inputs: Inputs, layout: Layout) -> None:
        self._topology = inputs.topology
        self._capacity = class_capacities(inputs)
        self._port_owner = port_owners(inputs, layout)
        self._per_node = inputs.cluster.gpus_per_node
        scale_up = self._topology.bandwidth_bytes_per_s[self._topology.link_kind == LinkKind.SCALE_UP]
        self._nodes_alike = len(scale_up) > 0 and bool((scale_up == scale_up[0]).all())
        self._folded: dict[tuple[object, ...], Demand] = {}

    def message(self, talk: Talk, source: int, target: int) -> Message:
        """Links out belong to the sender, links in to the receiver, and what has no direction to both.

        A slower link of a class counts for more bytes.
        """
        demand = self._demand(talk)
        amounts = demand.bytes_ * self._capacity[:N_CLASSES] / demand.capacity_bytes_per_s
        links, sizes = self._on_links(amounts, source, target)
        hops = tuple(demand.hops.tolist())
        return Message(hops, links, sizes, talk.unit, demand.imbalance, talk.copied)

    def sync(self, inputs: Inputs, layout: Layout, slot: SyncSlot) -> Message:
        """A reduction or a gathering."""
        groups = sync_groups(layout, slot)
        host = host_reduction(inputs, layout, slot)
        if host is not None:
            amounts = slot.parameters * host.bytes_ * self._capacity[:N_CLASSES] / host.capacity_bytes_per_s
            links, sizes = self._on_links(amounts, slot.rank, slot.rank)
            return Message((0.0,) * len(LinkKind), links, sizes, sync_unit(slot), host=host)
        ring = talk(inputs, layout, slot)
        message = self.message(ring, slot.rank, slot.rank)
        return replace(message, groups=groups, sharing=self.sharing(ring)) if message.links else message

    def _on_links(self, amounts: Floats, source: int, target: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        amount_on: dict[int, float] = {}
        for one in np.flatnonzero(amounts).tolist():
            owners = (source, target) if one in BOTH_WAYS else (source if one % 2 == 0 else target,)
            for owner in owners:
                amount_on[self._link(owner, one)] = float(amounts[one])
        return tuple(amount_on), tuple(amount_on.values())

    def sharing(self, talk: Talk) -> float:
        """Time on the links with all groups at once over that of the first group alone."""
        return _wire_s(self._demand(talk)) / _wire_s(self._demand(talk._replace(groups=talk.groups[:1])))

    def _demand(self, talk: Talk) -> Demand:
        """The same for all pipeline ranks that take part in one collective."""
        collective, groups = talk.collective, self._unlike(talk.groups)
        key = (collective.name, collective.size_bytes, collective.n_flows, groups.tobytes())
        if key not in self._folded:
            self._folded[key] = fold(collective, self._topology, groups)
        return self._folded[key]

    def _unlike(self, groups: Ints) -> Ints:
        """Groups within nodes that are alike, down to their groups: those of the first node, for all."""
        nodes, local = np.divmod(groups, self._per_node)
        order = np.argsort(nodes[:, 0], kind="stable")
        n_nodes = len(np.unique(nodes[:, 0]))
        if not self._nodes_alike or (nodes != nodes[:, :1]).any() or len(groups) % n_nodes:
            return groups
        by_node = local[order].reshape(n_nodes, -1, groups.shape[1])
        filled = (nodes[order, 0].reshape(n_nodes, -1) == nodes[order, 0].reshape(n_nodes, -1)[:, :1]).all()
        return by_node[0] if filled and (by_node == by_node[0]).all() else groups

    def _link(self, rank: int, one: int) -> int:
        owner = self._port_owner[rank] if one in PORTS else rank
        return owner * LINKS_PER_RANK + one


def _wire_s(demand: Demand) -> float:
    return float((demand.bytes_ / demand.capacity_bytes_per_s).max())


def port_owners(inputs: Inputs, layout: Layout) -> Sequence[int]:
    """``[pp]`` the first pipeline rank whose representative uses the same NIC."""
    nodes = inputs.cluster.spec.nodes
    nic = [int(layout.gpus_of(rank)[0]) // (nodes.gpus // nodes.nics) for rank in range(layout.pp)]
    return [nic.index(own) for own in nic]


def ranks_per_port(inputs: Inputs, layout: Layout) -> int:
    """Most pipeline ranks that have GPUs at one NIC."""
    nodes = inputs.cluster.spec.nodes
    rank = np.repeat(np.arange(layout.pp), layout.members)
    pairs = np.unique(np.stack([layout.placement.ravel() // (nodes.gpus // nodes.nics), rank]), axis=1)
    return int(np.bincount(pairs[0]).max())


def hop_latencies(inputs: Inputs) -> Floats:
    """``[len(LinkKind)]`` latency of one link of each kind."""
    latency = np.zeros(len(LinkKind))
    np.maximum.at(latency, inputs.topology.link_kind, inputs.topology.latency_s)
    return latency


def class_capacities(inputs: Inputs) -> Floats:
    """``[LINKS_PER_RANK]`` capacity of each class of links."""
    topology = inputs.topology
    capacity = np.full(LINKS_PER_RANK, 1.0)
    classes = topology.link_class
    np.maximum.at(capacity, classes, topology.bandwidth_bytes_per_s)
    # counted in SM-seconds: every kind of kernel brings its own rate per SM
    capacity[EXPERT_COPY] = max(inputs.sms_for_communication, 1)
    capacity[EXPERT_CAP] = inputs.kernels.beside_compute_share.value
    return capacity
