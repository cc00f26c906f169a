"""1F1B: warm up with forwards, then one forward and one backward in turn, then drain.

Source: Narayanan et al. 2019 (PipeDream-Flush), 2021 (arXiv 2104.04473).
"""

from __future__ import annotations

from ffsim.schedules.bubbles import one_f_one_b_bubble
from ffsim.schedules.data import Schedule, from_orders
from ffsim.schedules.family import Family, Request, no_obstacle
from ffsim.schedules.ops import Op


def one_f_one_b(n_ranks: int, n_micro_batches: int) -> Schedule:
    """The 1F1B schedule.

    Args:
        n_ranks: pipeline ranks, one stage each.
        n_micro_batches: micro-batches per step; with fewer than ranks the pipeline never fills.

    Raises:
        ValueError: either is less than 1.

    >>> [op.kind for op in one_f_one_b(2, 3).ops[0]]
    ['F', 'F', 'B', 'F', 'B', 'B']
    """
    return ONE_F_ONE_B.build(n_ranks, n_micro_batches)


def _make(n_ranks: int, n_micro_batches: int) -> Schedule:
    placement = tuple((rank,) for rank in range(n_ranks))
    forwards = [Op("F", 0, chunk) for chunk in range(n_micro_batches)]
    backwards = [Op("B", 0, chunk) for chunk in range(n_micro_batches)]
    orders = []
    for rank in range(n_ranks):
        ahead = min(n_ranks - rank - 1, n_micro_batches)
        order = forwards[:ahead]
        for forward, backward in zip(forwards[ahead:], backwards, strict=False):
            order += (forward, backward)
        orders.append(order + backwards[n_micro_batches - ahead :])
    return from_orders("1f1b", placement, n_micro_batches, orders)


def _activations(request: Request) -> tuple[float, ...]:
    return tuple(float(min(request.n_micro_batches, request.n_ranks - rank)) for rank in range(request.n_ranks))


ONE_F_ONE_B = Family(
    name="1f1b",
    title="one forward and one backward in turn (PipeDream-Flush)",
    make=lambda request: _make(request.n_ranks, request.n_micro_batches),
    obstacle=no_obstacle,
    bubble_form=lambda request: one_f_one_b_bubble(request.n_ranks, request.times),
    activations_form=_activations,
)
