"""What the slots of a program cost under given inputs: seconds of computing, latency and bytes of every message.

Who talks to whom over which links follows from the layout and is worked out once (`ffsim.training.traffic`); how many
bytes, at which rates, follows from the inputs and is filled in for every variation of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import mul
from typing import Any, NamedTuple

import numpy as np

from ffsim.collectives import ExchangeFigures, link_class
from ffsim.engine import Costs, Csr
from ffsim.topology import LinkKind
from ffsim.training.blocks import ComputeSlot, ExchangeSlot, GroupSlot, HostSlot, OptimizerSlot, Slot, SyncSlot
from ffsim.training.costs import Pieces, PieceTimes, tokens_dispatched
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.nccl_costs import GroupOperation, Nccl
from ffsim.training.optimizer import optimizer_s
from ffsim.training.perturb import slowest
from ffsim.training.stages import Stage
from ffsim.training.sync_costs import sync_cost
from ffsim.training.traffic import (
    EXPERT_CAP,
    EXPERT_COPY,
    LINKS_PER_RANK,
    Messages,
    Unit,
    class_capacities,
    experts_per_node,
    hop_latencies,
)

Floats = np.ndarray[Any, Any]
SCALE_UP = {link_class(LinkKind.SCALE_UP), link_class(LinkKind.SCALE_UP, back=True)}


def slot_costs(
    inputs: Inputs,
    layout: Layout,
    stages: tuple[Stage, ...],
    pieces: Pieces,
    times: PieceTimes,
    slots: tuple[Slot, ...],
    messages: Messages,
) -> Costs:
    """Fill in what every slot costs."""
    capacity, latency = class_capacities(inputs), hop_latencies(inputs).tolist()
    nccl, slow = Nccl(inputs), slowest(inputs, layout).tolist()
    duration = np.zeros(len(slots))
    rows: list[int] = []
    links: list[int] = []
    sizes: list[float] = []
    for number, slot in enumerate(slots):
        if isinstance(slot, ComputeSlot):
            duration[number] = times.total(slot.entries) * slot.slow
            continue
        if isinstance(slot, HostSlot):
            duration[number] = times.issuing(slot.entries)
            continue
        if isinstance(slot, OptimizerSlot):
            duration[number] = optimizer_s(inputs, layout, stages, pieces, slot.rank) * slow[slot.rank]
            continue
        if slot is None:
            continue
        message = messages[slot._replace(condition="alone") if isinstance(slot, ExchangeSlot) else slot]
        factor = unit_bytes(inputs, message.unit)
        transfer = _Transfer(0.0, list(message.links), [amount * factor for amount in message.amounts])
        if isinstance(slot, ExchangeSlot):
            transfer = _by_expert_kernels(inputs, layout, slot, transfer, message.copied * factor, capacity)
        if isinstance(slot, GroupSlot):
            transfer = _by_nccl(nccl, layout, slot, transfer, message.sharing, capacity)
        elif isinstance(slot, SyncSlot):
            together_s = max(_seconds(transfer, capacity), default=0.0)
            fixed, stretch = sync_cost(nccl, slot, message, factor, together_s)
            transfer = _Transfer(fixed, transfer.links, [amount * stretch for amount in transfer.amounts])
        else:
            transfer = transfer._replace(fixed_s=transfer.fixed_s + sum(map(mul, latency, message.hops)))
        duration[number] = transfer.fixed_s
        rows += [number] * len(transfer.links)
        links += transfer.links
        sizes += transfer.amounts
    return Costs(
        duration_s=duration,
        link=np.array(links, dtype=np.int64),
        bytes_=np.array(sizes),
        moves=Csr.of(np.array(rows, dtype=np.int64), np.arange(len(rows)), len(slots)),
        capacity_bytes_per_s=np.tile(capacity, layout.pp),
    )


def unit_bytes(inputs: Inputs, unit: Unit) -> float:
    """Bytes of one unit that the amounts of a message are counted in."""
    return {
        "bytes": 1.0,
        "expert load": inputs.spec.assumptions.expert_load.value,
        "gradient bytes": inputs.precision.gradient_wire_bytes.value,
        "weight bytes": inputs.precision.weight_bytes.value,
    }[unit]


class _Transfer(NamedTuple):
    """Seconds that do not depend on the links, and what is moved over them."""

    fixed_s: float
    links: list[int]
    amounts: list[float]


def _seconds(wire: _Transfer, capacity: Floats) -> Iterator[float]:
    """Time on each link at its full rate."""
    return (amount / capacity[link % LINKS_PER_RANK] for link, amount in zip(wire.links, wire.amounts, strict=True))


def _by_expert_kernels(
    inputs: Inputs, layout: Layout, slot: ExchangeSlot, wire: _Transfer, copied: float, capacity: Floats
) -> _Transfer:
    """An expert exchange: the wire, the SMs that copy, the lower rate beside computing, kernel and wait."""
    kernels, per_node = inputs.kernels, experts_per_node(inputs, layout)
    figures = kernels.dispatch if slot.name == "dispatch" else kernels.combine
    n_nodes = layout.ep // per_node
    moved = [(link % LINKS_PER_RANK, amount) for link, amount in zip(wire.links, wire.amounts, strict=True)]
    wire_s = max((amount / capacity[one] for one, amount in moved), default=0.0)
    scale_up_s = _scale_up_s(inputs, figures, max((amount for one, amount in moved if one in SCALE_UP), default=0.0))
    wire_s = max(wire_s, scale_up_s)
    # the kernel's own pace, whichever of its SMs and its share of NVLink is slower, in SM-seconds
    sms = capacity[EXPERT_COPY]
    extra = [(EXPERT_COPY, max(copied / figures.copy_rate(n_nodes), scale_up_s * sms))]
    if slot.condition == "beside":
        extra.append((EXPERT_CAP, wire_s))
    kept = [(one, amount) for one, amount in extra if amount]
    fixed = figures.fixed_s(n_nodes, tokens_dispatched(inputs))
    return _Transfer(
        fixed + inputs.spec.assumptions.expert_wait.value * wire_s,
        wire.links + [slot.rank * LINKS_PER_RANK + one for one, _ in kept],
        wire.amounts + [amount for _, amount in kept],
    )


def _by_nccl(
    nccl: Nccl, layout: Layout, slot: GroupSlot, wire: _Transfer, sharing: float, capacity: Floats
) -> _Transfer:
    """An exchange of a group: launch and steps by NCCL's figures, and what its protocol leaves of the links' rate."""
    operation: GroupOperation = slot.operation  # type: ignore[assignment]
    time = nccl.time(operation, slot.size_bytes, layout.groups(slot.group, slot.rank))
    together_s = max(_seconds(wire, capacity))
    stretch = time.transfer_s * sharing / together_s
    if time.algorithm != "tree":  # a link of the cluster may give less than the library would use
        stretch = max(stretch, 1.0)
    part = slot.part
    return _Transfer(
        (time.launch_s + time.latency_s) * part, wire.links, [amount * stretch * part for amount in wire.amounts]
    )


def _scale_up_s(inputs: Inputs, figures: ExchangeFigures, sent: float) -> float:
    """Time over NVLink at what a kernel gets of it, which is less than the link gives bulk transfers."""
    rate = inputs.cluster.gpu.scale_up
    return sent / (rate.value * figures.scale_up_share.value) if rate is not None else 0.0
