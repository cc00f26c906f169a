"""What limits the step: how much it shrinks when one resource at a time is made faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.collectives import link_class
from ffsim.engine import end_times_s
from ffsim.topology import BETWEEN_SWITCHES, LinkKind
from ffsim.training.blocks import ComputeSlot, HostSlot, OptimizerSlot
from ffsim.training.costs import FAMILIES
from ffsim.training.step import Prepared, StepResult
from ffsim.training.traffic import EXPERT_CAP, LINKS_PER_RANK

Floats = np.ndarray[Any, Any]

FASTER = 1.1
RESOURCES: dict[str, tuple[str, ...]] = {
    "tensor cores (dense products)": ("gemm", "convolution"),
    "tensor cores (expert products)": ("grouped_gemm",),
    "attention kernels": ("attention_forward", "attention_backward"),
    "device memory (element-wise kernels)": ("elementwise",),
}
NETWORK_KINDS = (LinkKind.ACCESS, *BETWEEN_SWITCHES)
NODE_KINDS = tuple(kind for kind in LinkKind if kind not in NETWORK_KINDS)


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource and the share of the step saved by making it 10 % faster."""

    resource: str
    saved_frac: float


def limits(result: StepResult) -> tuple[Limit, ...]:
    """Rank the resources by what a 10 % faster one would save, most first.

    The last row makes everything that takes time at all 10 % faster and saves 1 - 1/1.1 of the step, by construction:
    what the others leave of it is latencies and the fixed costs of kernels.
    """
    prepared = result.prepared
    base = prepared.costs.idle_s
    columns = [base, *(_compute_faster(prepared, base, families) for families in RESOURCES.values())]
    columns += [
        _links_faster(prepared, NETWORK_KINDS, network=True),
        _links_faster(prepared, NODE_KINDS, network=False),
    ]
    names = [*RESOURCES, "network (NICs and switches)", "links inside the node"]
    host = np.array([isinstance(slot, HostSlot) for slot in prepared.program.slots])
    if host.any():
        names.append("host (issuing kernels)")
        columns.append(np.where(host, base / FASTER, base))
    columns.append(base / FASTER)
    steps = end_times_s(prepared.program.graph, np.stack(columns, axis=1)).max(axis=0)
    rows = [Limit(name, float(1 - step / steps[0])) for name, step in zip(names, steps[1:-1], strict=True)]
    rows.sort(key=lambda row: (-row.saved_frac, row.resource))
    return (*rows, Limit("everything", float(1 - steps[-1] / steps[0])))


def _compute_faster(prepared: Prepared, base: Floats, families: tuple[str, ...]) -> Floats:
    columns = [FAMILIES.index(family) for family in FAMILIES if family in families]
    changed = base.copy()
    for number, slot in enumerate(prepared.program.slots):
        if isinstance(slot, ComputeSlot):
            part = prepared.times.seconds[list(slot.entries)][:, columns].sum()
            changed[number] -= part * slot.slow * (1 - 1 / FASTER)
        elif isinstance(slot, OptimizerSlot) and "elementwise" in families:
            changed[number] /= FASTER
    return changed


def _links_faster(prepared: Prepared, kinds: tuple[LinkKind, ...], *, network: bool) -> Floats:
    """Idle slot times with some links faster; the network also lifts what expert kernels reach beside computing."""
    costs = prepared.costs
    classes = {link_class(kind, back=back) for kind in kinds for back in (False, True)}
    if network:
        classes.add(EXPERT_CAP)
    factor = np.array([FASTER if link % LINKS_PER_RANK in classes else 1.0 for link in costs.link.tolist()])
    time = costs.bytes_ / (costs.capacity_bytes_per_s[costs.link] * factor)
    slowest = np.zeros(len(costs.duration_s))
    slots = np.repeat(np.arange(len(costs.duration_s)), np.diff(costs.moves.start))
    np.maximum.at(slowest, slots, time[costs.moves.values])
    return costs.duration_s + slowest
