"""The way from a workload with many obstacles to one with none, where no small change of the plan will do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from heapq import nsmallest
from math import log2
from typing import Any, NamedTuple

from ffsim.training.inputs import Inputs
from ffsim.training.neighbours import Move, describe, moves
from ffsim.training.obstacles import first_obstacles
from ffsim.training.spec import PretrainSpec

BEAM = 6  # workloads that are followed up at once
MOST_STEPS = 20
OUTSIDE = 3.0  # how much further away a change of the workload itself is than one of its plan
WORKLOAD_KEYS = ("global_batch", "sequence_length")


class _Found(NamedTuple):
    """A workload on the way: what it is short of, how far it is from the wanted one, and by which changes."""

    short: tuple[int, int]
    distance: float
    changes: str
    inputs: Inputs


def repaired(inputs: Inputs) -> Inputs | None:
    """A workload near the wanted one that meets no obstacle, or None if none was found.

    Goes change by change, from the few workloads that pass the most checks to their neighbours; batch and sequence are
    changed where the plan alone is not to blame.
    """
    plan, cluster = inputs.spec.plan, inputs.cluster
    gpus = min(plan.gpus or cluster.n_gpus, cluster.n_gpus)
    last_node = (cluster.n_gpus - gpus) // cluster.gpus_per_node
    start = replace(plan, gpus=gpus, layers_per_stage=None, first_node=min(plan.first_node, last_node))
    beam, seen = [_found(inputs, replace(inputs.spec, plan=start), 0.0)], set[str]()
    for _ in range(MOST_STEPS):
        options: dict[str, _Found] = {}
        for state in beam:
            if state.short == DONE:
                return state.inputs
            for one in _neighbours(inputs, state):
                if one.changes not in seen:
                    options.setdefault(one.changes, one)
        seen |= options.keys()
        beam = nsmallest(BEAM, options.values(), key=lambda one: one[:3])
    return None


DONE = (-6, 0)
REMEDIES = (
    {
        "tp",
        "cp",
        "etp",
        "sequence_parallel",
        "context_exchange",
        "zero",
        "schedule",
        "recompute",
        "recompute_layers",
        "sequence_length",
    },
    {"pp", "tp", "cp", "gpus"},
    {"ep", "etp", "pp", "gpus"},
    {"pp", "tp", "cp", "gpus", "micro_batch", "global_batch"},
    {"pp", "vpp", "schedule", "micro_batch", "global_batch"},
    {"pp", "vpp", "schedule"},
)
"""By check, in the order of `first_obstacles`: the keys that may put right what it finds."""


def _found(wanted: Inputs, spec: PretrainSpec, distance: float) -> _Found:
    changed = replace(wanted, spec=spec)
    passed, left = first_obstacles(changed)
    return _Found((-passed, left), distance, describe_workload(spec, wanted.spec), changed)


def _neighbours(wanted: Inputs, state: _Found) -> Iterator[_Found]:
    spec, keys = state.inputs.spec, REMEDIES[-state.short[0]]
    for move in (*moves(state.inputs, spec.plan), *_other_gpus(state.inputs)):
        if move.key in keys:
            plan = replace(spec.plan, **{move.key: move.value})
            yield _found(wanted, replace(spec, plan=plan), state.distance + move.distance)
    for key, value in _outside(state.inputs):
        if key in keys:
            distance = OUTSIDE + abs(log2(value / getattr(spec, key)))
            changed: dict[str, Any] = {key: value}
            yield _found(wanted, replace(spec, **changed), state.distance + distance)


def _other_gpus(inputs: Inputs) -> Iterator[Move]:
    """The nearest numbers of GPUs, on either side, that divide into replicas and these the batch; and powers of two."""
    plan, batch = inputs.spec.plan, inputs.spec.global_batch
    assert plan.gpus is not None
    ranks = plan.pp * plan.tp * plan.cp
    whole = [ranks * dp for dp in range(1, inputs.cluster.n_gpus // ranks + 1) if batch % (dp * plan.micro_batch) == 0]
    below = [gpus for gpus in whole if gpus < plan.gpus][-1:]
    above = [gpus for gpus in whole if gpus > plan.gpus][:1]
    power = [1 << (plan.gpus - 1).bit_length() - 1] if plan.gpus > 1 else []
    for gpus in sorted({*below, *above, *power}):
        yield Move(1 + abs(log2(plan.gpus / gpus)), "gpus", gpus)


def _outside(inputs: Inputs) -> Iterator[tuple[str, int]]:
    """Other batches and sequences, next to the wanted ones."""
    spec, plan = inputs.spec, inputs.spec.plan
    assert plan.gpus is not None
    ranks = plan.pp * plan.tp * plan.cp
    if plan.gpus % ranks == 0:
        each = plan.gpus // ranks * plan.micro_batch
        for unit in (each, each * plan.pp, 2 * each * plan.pp):
            batch = max(1, round(spec.global_batch / unit)) * unit
            if batch != spec.global_batch:
                yield "global_batch", batch
    longest = min(spec.sequence_length, inputs.model.max_context)
    for unit in (1, 2 * plan.cp, 2 * plan.cp * plan.tp):
        length = max(1, longest // unit) * unit
        if length != spec.sequence_length and length <= inputs.model.max_context:
            yield "sequence_length", length


def describe_workload(spec: PretrainSpec, wanted: PretrainSpec) -> str:
    """What a workload changes, as ``--set`` options."""
    given: dict[str, Any] = {key: getattr(spec, key) for key in WORKLOAD_KEYS}
    outside = [f"--set {key}={value}" for key, value in given.items() if value != getattr(wanted, key)]
    inside = describe(spec.plan, wanted.plan) if spec.plan != wanted.plan or not outside else ""
    return " ".join([*([inside] if inside else []), *outside])
