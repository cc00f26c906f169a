"""Who sends how much over which links: the messages of a plan, folded to what one rank's links carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ffsim.collectives import (
    N_CLASSES,
    Collective,
    Demand,
    expert_exchange,
    fold,
    link_class,
    ring_all_reduce,
    ring_reduce_scatter,
    send_recv,
)
from ffsim.topology import LinkKind
from ffsim.training.blocks import ComputeSlot, ExchangeSlot, OptimizerSlot, SendSlot, Slot, SyncSlot
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import GroupKind, Layout
from ffsim.training.stages import Stage, stage_parameters

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
    """

    hops: tuple[float, ...]
    links: tuple[int, ...]
    amounts: tuple[float, ...]
    unit: Unit
    imbalance: float = 1.0
    copied: float = 0.0


Messages = dict[Slot, Message]


def trace_messages(
    inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces, slots: tuple[Slot, ...]
) -> Messages:
    """Find the links of every message of a program; both conditions of an exchange share the entry of ``alone``."""
    tracer = _Tracer(inputs, layout)
    messages: Messages = {}
    for given in slots:
        slot = given._replace(condition="alone") if isinstance(given, ExchangeSlot) else given
        if slot in messages or isinstance(slot, ComputeSlot | OptimizerSlot | None):
            continue
        source, target = (slot.source, slot.target) if isinstance(slot, SendSlot) else (slot.rank, slot.rank)
        messages[slot] = tracer.message(talk(inputs, layout, stages, pieces, slot), source, target)
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


def talk(
    inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces, slot: SendSlot | SyncSlot | ExchangeSlot
) -> Talk:
    """What a message slot stands for, in all data-parallel replicas together."""
    if isinstance(slot, SendSlot):
        pairs = np.stack([layout.gpus_of(slot.source), layout.gpus_of(slot.target)], axis=1)
        return Talk(_send(inputs, layout), pairs, "bytes")
    if isinstance(slot, ExchangeSlot):
        unit: Unit = "bytes" if inputs.expert_tokens else "expert load"
        collective = _exchange(inputs, layout, slot.name)
        return Talk(collective, layout.groups("expert", slot.rank), unit, _copied(inputs, layout, collective))
    dense, expert = stage_parameters(stages[slot.stage], pieces)
    size = {"dense": dense, "experts": expert, "embedding": pieces.dense_parameters["embedding"]}[slot.what]
    groups = _sync_groups(layout, slot)
    unit = "weight bytes" if slot.operation == "gather" else "gradient bytes"
    return Talk(_sync(slot, groups, size, inputs.cluster.gpus_per_node), groups, unit)


def _sync_groups(layout: Layout, slot: SyncSlot) -> Ints:
    """``[n_groups, n_ranks]`` GPUs that reduce or gather together.

    Dense parameters are shared by every GPU that holds the stage; experts by the GPUs of the same place in every expert
    group; a copied embedding by the GPUs of the first and the last pipeline rank, replica by replica.
    """
    if slot.what == "embedding":
        return np.stack([layout.gpus_of(0), layout.gpus_of(layout.pp - 1)], axis=1)
    kind: GroupKind = "data" if slot.what == "dense" else "expert_data"
    return np.concatenate([layout.groups(kind, rank) for rank in layout.holders(slot.stage)], axis=1)


def _sync(slot: SyncSlot, groups: Ints, parameters: float, gpus_per_node: int) -> Collective:
    """What a group does, at one byte per parameter. A gather sends as much over the same links as a reduce."""
    ring = ring_all_reduce if slot.operation == "all-reduce" else ring_reduce_scatter
    return ring(groups.shape[1], parameters, ranks_per_node=_ranks_per_node(groups // gpus_per_node))


def _ranks_per_node(nodes: Ints) -> int:
    """Consecutive ranks that every node holds; where nodes hold different numbers, in blocks that divide them all."""
    n = nodes.shape[1]
    borders = np.diff(nodes, axis=1, prepend=-1, append=-1) != 0  # both ends of every row, too
    places = np.nonzero(borders)[1]
    return int(np.gcd.reduce(places, initial=n))


def _send(inputs: Inputs, layout: Layout) -> Collective:
    """The activations (or their gradients) of one micro-batch between two stages."""
    tokens = layout.micro_batch * inputs.spec.sequence_length
    return send_recv(tokens * inputs.model.hidden * inputs.precision.activation_bytes)


def _exchange(inputs: Inputs, layout: Layout, name: Literal["dispatch", "combine"]) -> Collective:
    """The tokens of one micro-batch on their way to their experts, or back: at the stated loads, else balanced."""
    per_node = min(layout.ep, inputs.cluster.gpus_per_node)
    per_element = inputs.precision.dispatch_bytes if name == "dispatch" else inputs.precision.combine_bytes
    return expert_exchange(
        name,
        layout.ep // per_node,
        per_node,
        inputs.expert_load(layout.ep).reach,
        inputs.model.hidden * per_element,
        layout.micro_batch * inputs.spec.sequence_length,
    )


def _copied(inputs: Inputs, layout: Layout, exchange: Collective) -> float:
    """Bytes that the SMs of the busiest rank copy: every token once for each node and rank it reaches."""
    reach = inputs.expert_load(layout.ep).reach
    sent = exchange.size_bytes / reach.nodes
    across = reach.nodes if layout.ep > inputs.cluster.gpus_per_node else 0.0
    return sent * (reach.fullest_rank * layout.ep + across)


class _Tracer:
    """Turns demands into messages on the links of pipeline ranks."""

    def __init__(self, inputs: Inputs, layout: Layout) -> None:
        self._topology = inputs.topology
        self._capacity = class_capacities(inputs)
        self._port_owner = port_owners(inputs, layout)
        self._folded: dict[tuple[object, ...], Demand] = {}

    def message(self, talk: Talk, source: int, target: int) -> Message:
        """Links out belong to the sender, links in to the receiver, and what has no direction to both.

        A slower link of a class counts for more bytes.
        """
        demand = self._demand(talk)
        amounts = demand.bytes_ * self._capacity[:N_CLASSES] / demand.capacity_bytes_per_s
        amount_on: dict[int, float] = {}
        for one in np.flatnonzero(demand.bytes_).tolist():
            owners = (source, target) if one in BOTH_WAYS else (source if one % 2 == 0 else target,)
            for owner in owners:
                amount_on[self._link(owner, one)] = float(amounts[one])
        hops = tuple(demand.hops.tolist())
        return Message(hops, tuple(amount_on), tuple(amount_on.values()), talk.unit, demand.imbalance, talk.copied)

    def _demand(self, talk: Talk) -> Demand:
        """The same for all pipeline ranks that take part in one collective."""
        collective = talk.collective
        key = (collective.name, collective.size_bytes, collective.n_flows, talk.groups.tobytes())
        if key not in self._folded:
            self._folded[key] = fold(collective, self._topology, talk.groups)
        return self._folded[key]

    def _link(self, rank: int, one: int) -> int:
        owner = self._port_owner[rank] if one in PORTS else rank
        return owner * LINKS_PER_RANK + one


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
