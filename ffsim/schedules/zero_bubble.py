"""ZB-H1 and ZB-H2: weight gradients put off until they fill what would be idle time.

One stage a rank. The order follows from durations and from how many micro-batches of activations a rank may hold: a
greedy heuristic of one forward and one backward in turn, run with each of eight settings, of which the one with the
shortest span of a rank is kept.

Source: Qi et al., arXiv 2401.10241, section 3 and appendix on the heuristic; order equal to github
sail-sg/zero-bubble-pipeline-parallelism 39f2c18, scheduler ``zb``, which the golden tests hold this against.
"""

from __future__ import annotations

from itertools import product
from math import ceil

from ffsim.schedules.bubbles import OpTimes, zb_bubble
from ffsim.schedules.data import Schedule, from_orders
from ffsim.schedules.family import Family, Request, no_obstacle
from ffsim.schedules.ops import Op, OpKind
from ffsim.schedules.whole_times import whole_times

FORWARD, INPUT, WEIGHT = range(3)
KINDS: tuple[OpKind, ...] = ("F", "Bi", "W")


def zero_bubble(
    name: str, n_ranks: int, n_micro_batches: int, limit: float, times: OpTimes, message: float
) -> Schedule:
    """The schedule of the heuristic.

    Args:
        name: of the schedule.
        n_ranks: pipeline ranks, one stage each.
        n_micro_batches: micro-batches per step.
        limit: most micro-batches whose activations a rank holds, from their forward to their weight gradient; >= 1.
        times: durations that the order is made for.
        message: time of a message between ranks, in the same unit.
    """
    forward, backward, weight, sent = whole_times(times, message)
    best: _Attempt | None = None
    for idle_first, backward_first, greedy in product((True, False), repeat=3):
        attempt = _Attempt(n_ranks, n_micro_batches, limit, (forward, backward, weight), sent)
        attempt.run(idle_first=idle_first, backward_first=backward_first, greedy=greedy)
        if best is None or attempt.longest_span() < best.longest_span():
            best = attempt
    assert best is not None
    orders = []
    for kinds in best.orders:
        counts = [0, 0, 0]
        ops = []
        for kind in kinds:
            ops.append(Op(KINDS[kind], 0, counts[kind]))
            counts[kind] += 1
        orders.append(tuple(ops))
    return from_orders(name, tuple((rank,) for rank in range(n_ranks)), n_micro_batches, orders)


def _family(name: str, title: str, multiple: float) -> Family:
    """The heuristic with the activations of so many times the ranks; no rank holds more, all as many if it helps."""

    def limit(request: Request) -> float:
        return multiple * request.n_ranks

    def make(request: Request) -> Schedule:
        counts = (request.n_ranks, request.n_micro_batches)
        return zero_bubble(name, *counts, limit(request), request.times, request.message_s)

    return Family(
        name=name,
        title=title,
        make=make,
        obstacle=no_obstacle,
        bubble_form=lambda request: zb_bubble(request.n_ranks, request.n_micro_batches, limit(request), request.times),
        activations_form=lambda request: (float(min(request.n_micro_batches, int(limit(request)))),) * request.n_ranks,
        splits_backward=True,
        needs_times=True,
    )


ZB_H1 = _family("zb-h1", "1F1B with weight gradients put off; every rank holds as much as 1F1B's first", 1)
ZB_1_5P = _family("zb-1.5p", "between zb-h1 and zb-h2: holds half as much again as zb-h1", 1.5)
ZB_H2 = _family("zb-h2", "holds twice as much as zb-h1, so that ranks only wait for the first micro-batch", 2)


class _Attempt:
    """One run of the heuristic: what every rank has done so far and when.

    Attributes:
        orders: per rank, the kinds of its operations in order; micro-batches of a kind follow each other.
    """

    def __init__(
        self, n_ranks: int, n_micro_batches: int, limit: float, costs: tuple[int, int, int], message: int
    ) -> None:
        self._n, self._limit, self._costs, self._message = n_micro_batches, limit, costs, message
        self.orders: list[list[int]] = [[] for _ in range(n_ranks)]
        self._forward_ends: list[list[int]] = [[] for _ in range(n_ranks)]
        self._input_ends: list[list[int]] = [[] for _ in range(n_ranks)]
        self._weights = [0] * n_ranks
        self._now = [0] * n_ranks
        self._idle = [0] * n_ranks  # after the first forward
        self._longest_idle = 0

    def run(self, *, idle_first: bool, backward_first: bool, greedy: bool) -> None:
        """Make the order.

        Args:
            idle_first: rather idle before the first backward than make it wait for another forward.
            backward_first: leave a forward out of a turn where the next rank has enough of them.
            greedy: a weight gradient also in an idle time shorter than itself that lengthens no span.
        """
        ranks = range(len(self.orders))
        self._warm_up(idle_first=idle_first)
        for turn in range(1, self._n):
            wanted = [self._wants_forward(rank, backward_first=backward_first) for rank in ranks]
            for rank in reversed(ranks[:-1]):  # a rank is never behind the one after it
                wanted[rank] = wanted[rank] and wanted[rank + 1]
            for rank in ranks:
                if wanted[rank]:
                    self._fill(rank, self._forward_arrival(rank), needs=1, greedy=greedy)
                    self._put_forward(rank)
            for rank in reversed(ranks):
                if rank == 0 and len(self._forward_ends[0]) == self._n:
                    self._put_weights(0)  # nobody waits for its gradients
                self._fill(rank, self._input_arrival(rank, turn), needs=0, greedy=greedy)
                self._put_input(rank)
        for rank in ranks:
            self._put_weights(rank)

    def longest_span(self) -> int:
        """Longest time of a rank from the start of its first to the end of its last operation."""
        return (
            max(now - ends[0] for now, ends in zip(self._now, self._forward_ends, strict=True)) + self._costs[FORWARD]
        )

    def _warm_up(self, *, idle_first: bool) -> None:
        """As many forwards as fit before the first backward arrives, fewer from rank to rank, then that backward."""
        ranks = range(len(self.orders))
        for rank in ranks:
            self._put_forward(rank)
        extra = self._first_forwards(idle_first=idle_first)
        for rank in ranks[1:]:
            while 0 < extra[rank] >= extra[rank - 1] and 1 + extra[rank] < self._n:
                extra[rank] -= 1
        for rank in ranks:
            for _ in range(extra[rank]):
                self._put_forward(rank)
        for rank in reversed(ranks):
            self._put_input(rank)

    def _first_forwards(self, *, idle_first: bool) -> list[int]:
        """Forwards of each rank, beside its first, for which there is time and memory before its first backward."""
        forward, backward, _ = self._costs
        extra = [0] * len(self.orders)
        arrival = self._forward_ends[-1][0] + backward
        for rank in reversed(range(len(self.orders) - 1)):
            arrival += self._message
            now = self._now[rank]
            while 1 + extra[rank] < self._n and 2 + extra[rank] <= self._limit:
                if (now + forward > arrival) if idle_first else (now >= arrival):
                    break
                now += forward
                extra[rank] += 1
            arrival = max(now, arrival) + backward
        return extra

    def _wants_forward(self, rank: int, *, backward_first: bool) -> bool:
        """Whether a rank takes another forward in this turn."""
        done = len(self._forward_ends[rank])
        if done >= self._n:
            return False
        if not backward_first or rank + 1 == len(self.orders) or done < len(self._forward_ends[rank + 1]) + 2:
            return True
        forward, backward, weight = self._costs
        back = self._now[rank + 1] + forward + backward + self._message  # when the next rank can return a gradient
        now = self._now[rank]
        if now >= back:
            return False
        must = min(self._pending(rank), ceil(max(0, self._held(rank) + 1 - self._limit)))
        return now + forward + weight * must <= back or back - now > self._longest_idle - self._idle[rank]

    def _fill(self, rank: int, arrival: int, *, needs: int, greedy: bool) -> None:
        """Weight gradients while memory lacks or until the next input arrives."""
        weight = self._costs[WEIGHT]
        while self._held(rank) + needs > self._limit:
            self._put_weight(rank)
        while self._pending(rank) and self._now[rank] + weight <= arrival:
            self._put_weight(rank)
        gap = arrival - self._now[rank]
        if self._pending(rank) and gap > 0 and (greedy or gap > self._longest_idle - self._idle[rank]):
            self._put_weight(rank)

    def _held(self, rank: int) -> int:
        return len(self._forward_ends[rank]) - self._weights[rank]

    def _pending(self, rank: int) -> int:
        return len(self._input_ends[rank]) - self._weights[rank]

    def _forward_arrival(self, rank: int) -> int:
        """When the input of the next forward is there, 0 at the entrance."""
        return self._forward_ends[rank - 1][len(self._forward_ends[rank])] + self._message if rank else 0

    def _input_arrival(self, rank: int, turn: int) -> int:
        """When the gradient for the next backward is there, 0 on the last rank."""
        return self._input_ends[rank + 1][turn] + self._message if rank + 1 < len(self.orders) else 0

    def _put_forward(self, rank: int) -> None:
        self._put(rank, FORWARD, self._forward_arrival(rank))
        self._forward_ends[rank].append(self._now[rank])

    def _put_input(self, rank: int) -> None:
        self._put(rank, INPUT, self._input_arrival(rank, len(self._input_ends[rank])))
        self._input_ends[rank].append(self._now[rank])

    def _put_weight(self, rank: int) -> None:
        self._put(rank, WEIGHT, 0)
        self._weights[rank] += 1

    def _put_weights(self, rank: int) -> None:
        while self._pending(rank):
            self._put_weight(rank)

    def _put(self, rank: int, kind: int, arrival: int) -> None:
        idle = max(0, arrival - self._now[rank])
        if self._forward_ends[rank]:
            self._idle[rank] += idle
            self._longest_idle = max(self._longest_idle, self._idle[rank])
        self._now[rank] += idle + self._costs[kind]
        self.orders[rank].append(kind)
