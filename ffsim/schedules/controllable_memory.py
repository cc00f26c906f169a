"""1F1B-V, V-Half and V-Min: two stages a rank in the form of a V that hold fewer activations than 1F1B.

Slots of their building blocks are those of equal durations, whatever the durations are: the further these are apart,
the longer ranks wait, V-Min's the most, as nothing in its block waits that could make up for it.

Source: Qi et al., arXiv 2405.15362; order equal to github sail-sg/zero-bubble-pipeline-parallelism 39f2c18, schedulers
``v1f1b`` and ``zbv_greedy``, which the golden tests hold this against for 4 and 8 ranks. Where 3 divides the number of
ranks the blocks have a gap more; how large it is, and how V-Min ends a step then, is our own choice: the shortest.
"""

from __future__ import annotations

from ffsim.schedules.bubbles import v_half_bubble, v_min_bubble
from ffsim.schedules.building_block import INTERVAL, repeat
from ffsim.schedules.data import Schedule
from ffsim.schedules.family import Family, Request, no_obstacle
from ffsim.schedules.ops import OpKind

Slots = dict[tuple[OpKind, int], int]


def one_f_one_b_v(n_ranks: int, n_micro_batches: int) -> Schedule:
    """1F1B-V: full backwards; with many ranks, 2/3 of the activations that the first rank of 1F1B holds.

    Args:
        n_ranks: pipeline ranks, two stages each.
        n_micro_batches: micro-batches per step.
    """
    return repeat("1f1b-v", n_ranks, n_micro_batches, one_f_one_b_v_block(n_ranks), steady=False)


def v_min(n_ranks: int, n_micro_batches: int) -> Schedule:
    """V-Min: backwards in halves; with many ranks, 1/3 of the activations that the first rank of 1F1B holds.

    Args:
        n_ranks: pipeline ranks, two stages each.
        n_micro_batches: micro-batches per step.
    """
    return repeat("v-min", n_ranks, n_micro_batches, v_min_block(n_ranks), steady=True)


def v_half(n_ranks: int, n_micro_batches: int) -> Schedule:
    """V-Half: backwards in halves; with many ranks, half of the activations that the first rank of 1F1B holds.

    Args:
        n_ranks: pipeline ranks, two stages each.
        n_micro_batches: micro-batches per step. For fewer than two per rank the published order of the last operations
            may be another, of the same length and with the same peaks.
    """
    return repeat("v-half", n_ranks, n_micro_batches, v_half_block(n_ranks), steady=True)


def one_f_one_b_v_block(n_ranks: int) -> Slots:
    """Slots of 1F1B-V: after every third backward, three more free slots, or the next would meet a forward."""
    last = 2 * n_ranks - 1
    slots = _forwards(n_ranks)
    slot = last + 1 + (3 if n_ranks % 3 == 0 else 0)
    for passed in range(2 * n_ranks):
        slots["B", last - passed] = slot
        slot += 5 if (passed - n_ranks) % 3 == 1 else 2
    return slots


def v_min_block(n_ranks: int) -> Slots:
    """Slots of V-Min: forwards and input gradients in a row, with a gap between where they would meet."""
    last = 2 * n_ranks - 1
    slots = _forwards(n_ranks)
    first_backward = last + 1 + (2 if n_ranks % 3 == 0 else 0)
    slots |= {("Bi", last - passed): first_backward + passed for passed in range(2 * n_ranks)}
    for rank in range(n_ranks):
        _add_weight_gradients(slots, rank, last - rank)
    return slots


def v_half_block(n_ranks: int) -> Slots:
    """Slots of V-Half: down the V a forward every second slot, up it every slot; input gradients likewise."""
    last = 2 * n_ranks - 1
    first_backward = 3 * n_ranks - 1
    first_backward += (2 - first_backward) % INTERVAL
    slots: Slots = {}
    for rank in range(n_ranks):
        slots |= {("F", rank): 2 * rank, ("F", last - rank): 3 * n_ranks - 2 - rank}
        slots["Bi", last - rank] = first_backward + 2 * rank
        slots["Bi", rank] = first_backward + 3 * n_ranks - 1 - rank
        _add_weight_gradients(slots, rank, last - rank)
    return slots


def _forwards(n_ranks: int) -> Slots:
    return {("F", stage): stage for stage in range(2 * n_ranks)}


def _add_weight_gradients(slots: Slots, first: int, second: int) -> None:
    """To a rank's two stages: in the first slot that is free every time, the second stage's before the first's."""
    taken = {slots[kind, stage] % INTERVAL for kind in ("F", "Bi") for stage in (first, second)}
    for stage in (second, first):
        slot = slots["Bi", stage] + 1
        while slot % INTERVAL in taken:
            slot += 1
        taken.add(slot % INTERVAL)
        slots["W", stage] = slot


def _held(request: Request, most: int) -> tuple[float, ...]:
    """The most that any rank holds; others may hold less."""
    return (float(min(request.n_micro_batches, most)),) * request.n_ranks


ONE_F_ONE_B_V = Family(
    name="1f1b-v",
    title="two stages per rank in a V, full backwards; some 2/3 of 1f1b's memory, longer idle",
    make=lambda request: one_f_one_b_v(request.n_ranks, request.n_micro_batches),
    obstacle=no_obstacle,
    bubble_form=lambda _request: None,
    activations_form=lambda request: _held(request, 2 * request.n_ranks // 3 + 1),
    stages_per_rank=2,
)
V_MIN = Family(
    name="v-min",
    title="two stages per rank in a V, weight gradients put off; some 1/3 of 1f1b's memory, longer idle",
    make=lambda request: v_min(request.n_ranks, request.n_micro_batches),
    obstacle=no_obstacle,
    bubble_form=lambda request: v_min_bubble(request.n_ranks, request.n_micro_batches, request.times),
    activations_form=lambda request: _held(request, (request.n_ranks + 1) // 3 + 1),
    stages_per_rank=2,
    splits_backward=True,
)
V_HALF = Family(
    name="v-half",
    title="two stages per rank in a V, weight gradients put off; some half of 1f1b's memory, about as long idle",
    make=lambda request: v_half(request.n_ranks, request.n_micro_batches),
    obstacle=no_obstacle,
    bubble_form=lambda request: v_half_bubble(request.n_ranks, request.n_micro_batches, request.times),
    activations_form=lambda request: _held(request, request.n_ranks // 2 + 1),
    stages_per_rank=2,
    splits_backward=True,
)
