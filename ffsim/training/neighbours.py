"""Plans near a wanted one: what else could be asked for, the smallest changes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, combinations
from math import log2
from typing import Any, NamedTuple

from ffsim.model.lowering import Recompute
from ffsim.schedules import SCHEDULES
from ffsim.training.inputs import Inputs
from ffsim.training.memory import least_bytes
from ffsim.training.obstacles import obstacles
from ffsim.training.spec import PlanSpec

MOST_CHANGES = 3  # keys changed at once
MOST_ASKED = 60
SMALL: tuple[Recompute, ...] = ("norm", "mla_up", "swiglu")  # what DeepSeek-V3 computes again
WIDEST = 16


class Move(NamedTuple):
    """Another value of one key, and how far from the wanted one it is: 1 for a size doubled or halved."""

    distance: float
    key: str
    value: Any


def legal_plans(inputs: Inputs, fits: Callable[[PlanSpec], bool] = lambda _: True) -> Iterator[PlanSpec]:
    """Plans that divide, nearest to the wanted one first; at most `MOST_CHANGES` keys of each are changed.

    Args:
        inputs: the workload.
        fits: a further condition, asked in order of distance and of at most `MOST_ASKED` plans whose weights and
            gradients alone do not rule it out.
    """
    cluster, plan = inputs.cluster, inputs.spec.plan
    gpus = min(plan.gpus or cluster.n_gpus, cluster.n_gpus)
    last_node = (cluster.n_gpus - gpus) // cluster.gpus_per_node
    start = replace(plan, gpus=gpus, first_node=min(plan.first_node, last_node))
    every, asked = moves(inputs, start), 0
    for number in range(MOST_CHANGES + 1):
        found = (changes for changes in combinations(every, number) if len({move.key for move in changes}) == number)
        for changes in sorted(found, key=_order):
            changed = replace(start, **{move.key: move.value for move in changes})
            obstacle = next(obstacles(inputs, changed), None)
            if obstacle and obstacle[0] == "layers_per_stage":  # of other stages than there are now: balance them
                changed, obstacle = replace(changed, layers_per_stage=None), None
            if obstacle or least_bytes(inputs, changed) > cluster.gpu.memory.value:
                continue
            asked += 1
            if fits(changed):
                yield changed
            if asked == MOST_ASKED:
                return


def _order(changes: tuple[Move, ...]) -> tuple[float, list[str]]:
    return sum(move.distance for move in changes), [f"{move.key} {move.value}" for move in changes]


def moves(inputs: Inputs, plan: PlanSpec) -> list[Move]:
    """Every change of one key of a plan, nearest first."""
    found = chain(_size_moves(inputs, plan), _memory_moves(inputs, plan), _other_moves(plan))
    return sorted(found, key=lambda move: (move.distance, move.key, str(move.value)))


def _size_moves(inputs: Inputs, plan: PlanSpec) -> Iterator[Move]:
    """Other numbers of ranks, stages and sequences."""
    assert plan.gpus is not None
    experts = inputs.model.moe.routed if inputs.model.moe else 1
    choices: dict[str, list[int]] = {
        "pp": [pp for pp in _divisors(plan.gpus) if pp <= inputs.model.layers],
        "tp": _doublings(max(inputs.cluster.gpus_per_node, plan.tp)),
        "cp": _doublings(max(WIDEST, plan.cp)) if plan.cp > 1 else [1],
        "ep": _divisors(experts),
        "etp": _doublings(max(plan.tp, plan.etp)),
        "vpp": [*range(1, 9)] if SCHEDULES[plan.schedule].stages_per_rank is None or plan.vpp > 1 else [1],
        "micro_batch": _micro_batches(inputs, plan),
    }
    for key, values in choices.items():
        for value in values:
            if value != getattr(plan, key):
                yield Move(abs(log2(value / getattr(plan, key))), key, value)


def _micro_batches(inputs: Inputs, plan: PlanSpec) -> list[int]:
    """What a replica's sequences divide into, up to four times the wanted ones."""
    assert plan.gpus is not None
    dp, rest = divmod(plan.gpus, plan.pp * plan.tp * plan.cp)
    if rest or not dp or inputs.spec.global_batch % dp:
        return [*_divisors(plan.micro_batch), 2 * plan.micro_batch, 4 * plan.micro_batch]
    return [size for size in _divisors(inputs.spec.global_batch // dp) if size <= 4 * plan.micro_batch]


def _memory_moves(inputs: Inputs, plan: PlanSpec) -> Iterator[Move]:
    """What else decides how much memory a plan takes."""
    for zero in (0, 1, 2, 3):
        if zero != plan.zero:
            yield Move(abs(zero - plan.zero) / 2, "zero", zero)
    lists: dict[tuple[Recompute, ...], float] = {SMALL: 0.5, ("attention",): 0.5, ("layer",): 1.0, (): 0.75}
    for recompute, distance in lists.items():
        if recompute != plan.recomputed:
            yield Move(distance, "recompute", recompute)
    if plan.recompute_layers is not None:
        yield Move(0.25, "recompute_layers", None)
    if plan.tp > 1:
        yield Move(0.25, "sequence_parallel", not plan.sequence_parallel)
    cpu = inputs.cluster.cpu
    if plan.offload == "none" and cpu is not None and cpu.memory_usable is not None:
        yield Move(1.5, "offload", "optimizer")


def _other_moves(plan: PlanSpec) -> Iterator[Move]:
    """Another schedule, another way to exchange or reduce."""
    for schedule in SCHEDULES:
        if schedule != plan.schedule:
            yield Move(0.75 if schedule == "1f1b" else 1.25, "schedule", schedule)
    if plan.cp > 1:
        yield Move(0.5, "context_exchange", "all-to-all" if plan.context_exchange == "ring" else "ring")
    if plan.gradient_reduction != "nccl":
        yield Move(0.5, "gradient_reduction", "nccl")


def _doublings(most: int) -> list[int]:
    return [1 << power for power in range(most.bit_length())]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def describe(plan: PlanSpec, wanted: PlanSpec) -> str:
    """What a plan changes, as ``--set`` options."""
    keys = [key for key in KEYS if getattr(plan, key) != getattr(wanted, key)]
    if wanted.gpus is None and "gpus" in keys:  # all that there are
        keys.remove("gpus")
    return " ".join(f"--set plan.{key}={_written(getattr(plan, key))}" for key in keys)


KEYS = (
    "gpus",
    "first_node",
    "pp",
    "vpp",
    "layers_per_stage",
    "tp",
    "sequence_parallel",
    "cp",
    "context_exchange",
    "ep",
    "etp",
    "micro_batch",
    "zero",
    "recompute",
    "recompute_layers",
    "schedule",
    "offload",
    "gradient_reduction",
)
SHORT = {(): "none", ("attention",): "selective", ("layer",): "full"}


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return SHORT.get(value, f"[{','.join(value)}]")
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
