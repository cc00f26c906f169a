"""GPipe: all forwards, then all backwards in reverse.

Source: Huang et al., arXiv 1811.06965, figure 2.
"""

from __future__ import annotations

from ffsim.schedules.bubbles import one_f_one_b_bubble
from ffsim.schedules.data import Schedule, from_orders
from ffsim.schedules.family import Family, no_obstacle
from ffsim.schedules.ops import Op


def gpipe(n_ranks: int, n_micro_batches: int) -> Schedule:
    """The GPipe schedule.

    Args:
        n_ranks: pipeline ranks, one stage each.
        n_micro_batches: micro-batches per step.

    Raises:
        ValueError: either is less than 1.

    >>> [(op.kind, op.chunk) for op in gpipe(2, 2).ops[0]]
    [('F', 0), ('F', 1), ('B', 1), ('B', 0)]
    """
    return GPIPE.build(n_ranks, n_micro_batches)


def _make(n_ranks: int, n_micro_batches: int) -> Schedule:
    forwards = [Op("F", 0, chunk) for chunk in range(n_micro_batches)]
    backwards = [Op("B", 0, chunk) for chunk in reversed(range(n_micro_batches))]
    placement = tuple((rank,) for rank in range(n_ranks))
    return from_orders("gpipe", placement, n_micro_batches, [forwards + backwards] * n_ranks)


GPIPE = Family(
    name="gpipe",
    title="all forwards, then all backwards; holds every micro-batch",
    make=lambda request: _make(request.n_ranks, request.n_micro_batches),
    obstacle=no_obstacle,
    bubble_form=lambda request: one_f_one_b_bubble(request.n_ranks, request.times),
    activations_form=lambda request: (float(request.n_micro_batches),) * request.n_ranks,
)
