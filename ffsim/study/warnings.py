"""What a reader should know before believing an answer that stands."""

from __future__ import annotations

import numpy as np

from ffsim.training import Doubt, StepResult
from ffsim.training.layout import GroupKind
from ffsim.training.sync_traffic import crowding
from ffsim.units import BYTES, percent

UNEVEN = 1.05
CROWDED_FRAC = 0.02
EXTRAPOLATED_FRAC = 0.25


def warnings_about(step: StepResult, doubt: Doubt | None) -> tuple[str, ...]:
    """Doubts about a run: each says what is in doubt and what to do."""
    about_plan = (_memory(step, doubt), _no_effect(step), _far_apart(step), _shared_nodes(step), _slow(step))
    about_links = (_crowded(step), _uneven(step))
    return tuple(text for text in (*about_plan, *about_links, _operators(step)) if text)


def _memory(step: StepResult, doubt: Doubt | None) -> str:
    capacity = step.prepared.inputs.cluster.gpu.memory.value
    if doubt is None or doubt.peak_high_bytes <= capacity:
        return ""
    return (
        f"memory may not suffice: {BYTES.format(doubt.peak_high_bytes)} of {BYTES.format(capacity)} at the high end of "
        "its range; `ffsim explain` shows which inputs decide"
    )


def _no_effect(step: StepResult) -> str:
    plan = step.prepared.inputs.spec.plan
    if plan.tp > 1 or not plan.sequence_parallel:
        return ""
    return "sequence_parallel has no effect with tp: 1: there are no tensor-parallel ranks to share tokens"


def _far_apart(step: StepResult) -> str:
    """Exchanges in the middle of every layer that leave the node."""
    layout, per_node = step.prepared.layout, step.prepared.inputs.cluster.gpus_per_node
    kinds: tuple[tuple[GroupKind, str], ...] = (("tensor", "tp"), ("expert_tensor", "etp"))
    across = [
        f"{key}: {groups.shape[1]}"
        for kind, key in kinds
        if (np.ptp((groups := layout.groups(kind, 0)) // per_node, axis=1) > 0).any()
    ]
    if not across:
        return ""
    return (
        f"tensor-parallel groups ({', '.join(across)}) reach over several nodes: every layer waits for the "
        f"network; at most {per_node} ranks that come first in `plan.order` stay on a node"
    )


def _shared_nodes(step: StepResult) -> str:
    layout, per_node = step.prepared.layout, step.prepared.inputs.cluster.gpus_per_node
    if step.depth == "full" or layout.pp == 1 or layout.dp % per_node == 0 or per_node % layout.dp == 0:
        return ""
    return (
        f"{layout.dp} data-parallel ranks do not fill nodes of {per_node} GPUs: pipeline ranks that meet on a node are "
        f"taken not to slow each other down; choose GPUs so that GPUs / pp is a multiple of {per_node}, or --depth full"
    )


def _crowded(step: StepResult) -> str:
    """Reductions of several stages on the same cables, which folded runs side by side."""
    prepared = step.prepared
    if step.depth != "folded" or step.breakdown is None or prepared.layout.pp == 1:
        return ""
    exposed = float(step.breakdown.exposed["exposed/gradient_sync"].max()) / step.step_s
    longer = exposed * (crowding(prepared.inputs, prepared.layout, prepared.program.slots) - 1)
    if longer <= CROWDED_FRAC:
        return ""
    return (
        "gradients of different pipeline ranks cross the same cables between switches, here one rank's at a time: "
        f"where they meet, the step takes up to {percent(longer)} longer; --depth full says how much"
    )


def _uneven(step: StepResult) -> str:
    if step.depth == "full":
        return ""
    worst = max((message.imbalance for message in step.prepared.messages.values()), default=1.0)
    if worst <= UNEVEN:
        return ""
    return (
        f"links are loaded unevenly, the busiest {worst:.2g} times the mean of its kind: all ranks are taken to be as "
        "slow as the one on that link"
    )


def _slow(step: StepResult) -> str:
    pace = step.prepared.paces
    ranks = np.flatnonzero(pace.max(axis=1) > pace.min(axis=1)).tolist()
    if step.depth == "full" or not ranks:
        return ""
    which = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    return (
        f"all GPUs of pipeline {which} are taken to be as slow as the slowest of them: never faster than in truth; "
        "--depth full gives every GPU its own pace"
    )


def _operators(step: StepResult) -> str:
    share = step.prepared.times.basis_share["extrapolated"]
    if share <= EXTRAPOLATED_FRAC:
        return ""
    return (
        f"{percent(share)} of the time of a layer's kernels is extrapolated beyond measured sizes: "
        "expect larger errors than the range says"
    )
