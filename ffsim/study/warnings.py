"""What a reader should know before believing an answer that stands."""

from __future__ import annotations

import numpy as np

from ffsim.training import Doubt, StepResult
from ffsim.units import BYTES, percent

UNEVEN = 1.05
EXTRAPOLATED_FRAC = 0.25


def warnings_about(step: StepResult, doubt: Doubt | None) -> tuple[str, ...]:
    """Doubts about a run: each says what is in doubt and what to do."""
    texts = (_memory(step, doubt), _shared_nodes(step), _uneven(step), _slow(step), _operators(step))
    return tuple(text for text in texts if text)


def _memory(step: StepResult, doubt: Doubt | None) -> str:
    capacity = step.prepared.inputs.cluster.gpu.memory.value
    if doubt is None or doubt.peak_high_bytes <= capacity:
        return ""
    return (
        f"memory may not suffice: {BYTES.format(doubt.peak_high_bytes)} of {BYTES.format(capacity)} at the high end of "
        "its range; `ffsim explain` shows which inputs decide"
    )


def _shared_nodes(step: StepResult) -> str:
    layout, per_node = step.prepared.layout, step.prepared.inputs.cluster.gpus_per_node
    if step.depth == "full" or layout.pp == 1 or layout.dp % per_node == 0 or per_node % layout.dp == 0:
        return ""
    return (
        f"{layout.dp} data-parallel ranks do not fill nodes of {per_node} GPUs: pipeline ranks that meet on a node are "
        f"taken not to slow each other down; choose GPUs so that GPUs / pp is a multiple of {per_node}, or --depth full"
    )


def _uneven(step: StepResult) -> str:
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
