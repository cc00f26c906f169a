"""Interleaved 1F1B (virtual pipeline): every rank holds several stages, dealt in turn, so that bubbles are shorter.

Source: Narayanan et al. 2021, arXiv 2104.04473 section 2.2; order as Megatron-LM's, which the golden tests hold.
"""

from __future__ import annotations

from ffsim.schedules.bubbles import one_f_one_b_bubble
from ffsim.schedules.data import Schedule, from_orders
from ffsim.schedules.family import Family, Request, nearest
from ffsim.schedules.ops import Op


def interleaved(n_ranks: int, n_micro_batches: int, chunks: int) -> Schedule:
    """The interleaved schedule.

    Args:
        n_ranks: pipeline ranks; rank r holds stages r, r + n_ranks, r + 2 n_ranks ...
        n_micro_batches: micro-batches per step, a multiple of n_ranks.
        chunks: stages per rank, at least 2.

    Raises:
        ValueError: the numbers do not fit.

    >>> [(op.kind, op.module, op.chunk) for op in interleaved(2, 2, 2).ops[1]][:5]
    [('F', 0, 0), ('F', 0, 1), ('F', 1, 0), ('B', 1, 0), ('F', 1, 1)]
    """
    return INTERLEAVED.build(n_ranks, n_micro_batches, chunks=chunks)


def _make(n_ranks: int, n_micro_batches: int, chunks: int) -> Schedule:
    turns = range(n_micro_batches * chunks)
    forwards = [Op("F", *_place(turn, n_ranks, chunks)) for turn in turns]
    backwards = [Op("B", chunks - 1 - module, chunk) for _, module, chunk, *_ in forwards]
    placement = tuple(tuple(rank + n_ranks * chunk for chunk in range(chunks)) for rank in range(n_ranks))
    orders = []
    for rank in range(n_ranks):
        ahead = min(2 * (n_ranks - rank - 1) + (chunks - 1) * n_ranks, len(turns))
        order = forwards[:ahead]
        for forward, backward in zip(forwards[ahead:], backwards, strict=False):
            order += (forward, backward)
        orders.append(order + backwards[len(turns) - ahead :])
    return from_orders("interleaved", placement, n_micro_batches, orders)


def _place(turn: int, n_ranks: int, chunks: int) -> tuple[int, int]:
    """Module and micro-batch of the so-manieth forward: as many micro-batches as ranks pass a module, then the next."""
    round_, within = divmod(turn, n_ranks * chunks)
    return within // n_ranks, round_ * n_ranks + within % n_ranks


def _obstacle(request: Request) -> str | None:
    n_ranks, n_micro_batches, chunks = request.n_ranks, request.n_micro_batches, request.chunks
    if chunks < 2:
        return f"interleaved needs at least 2 stages per rank, got {chunks}: use 2 (vpp: 2), or 1f1b for one stage"
    if n_micro_batches % n_ranks:
        return (
            f"interleaved over {n_ranks} ranks needs a multiple of {n_ranks} micro-batches, got {n_micro_batches}: "
            f"use {nearest(n_micro_batches, n_ranks)}"
        )
    return None


def _activations(request: Request) -> tuple[float, ...]:
    """Forwards before the first backward and the one beside it; exact."""
    n_ranks, chunks = request.n_ranks, request.chunks
    ahead = [2 * (n_ranks - rank - 1) + (chunks - 1) * n_ranks for rank in range(n_ranks)]
    return tuple(min(request.n_micro_batches * chunks, forwards + 1) / chunks for forwards in ahead)


INTERLEAVED = Family(
    name="interleaved",
    title="1F1B over several stages per rank (Megatron's virtual pipeline)",
    make=lambda request: _make(request.n_ranks, request.n_micro_batches, request.chunks),
    obstacle=_obstacle,
    bubble_form=lambda request: one_f_one_b_bubble(request.n_ranks, request.times),
    activations_form=_activations,
    stages_per_rank=None,
)
