"""ZB-V: two stages a rank in the form of a V, weight gradients put off, as much memory as 1F1B on every rank.

Rank r holds stage r and stage 2p - 1 - r, so that micro-batches end where they began. Rounds of one backward and one
forward per rank; a greedy heuristic decides where weight gradients go in between, from durations and a memory limit. It
runs with each of four settings, and again for as long as that helps, with the idle times of the run before allowed.

Source: Qi et al., arXiv 2401.10241 section 6; order equal to github sail-sg/zero-bubble-pipeline-parallelism 39f2c18,
scheduler ``zbv``, which the golden tests hold this against.
"""

from __future__ import annotations

from collections import deque
from itertools import product
from typing import Literal

from ffsim.schedules.bubbles import OpTimes, zb_v_bubble
from ffsim.schedules.data import Schedule, from_orders
from ffsim.schedules.family import Family, no_obstacle
from ffsim.schedules.ops import Op
from ffsim.schedules.whole_times import whole_times

Kind = Literal["F", "Bi"]


def zero_bubble_v(n_ranks: int, n_micro_batches: int, times: OpTimes, message: float, limit: int = 0) -> Schedule:
    """The schedule of the heuristic.

    Args:
        n_ranks: pipeline ranks, two stages each.
        n_micro_batches: micro-batches per step.
        times: durations on one stage that the order is made for.
        message: time of a message between ranks, in the same unit.
        limit: most stages' activations that a rank holds, from forward to weight gradient; 2 * n_ranks by default.
    """
    forward, backward, weight, sent = whole_times(times, message)
    best: _Attempt | None = None
    for fill_backward, fill_forward in product((True, False), repeat=2):
        allowed = [-1] * n_ranks
        attempt: _Attempt | None = None
        while True:
            next_ = _Attempt(n_ranks, n_micro_batches, (forward, backward, weight, sent), limit or 2 * n_ranks, allowed)
            next_.run(fill_backward=fill_backward, fill_forward=fill_forward)
            if attempt is not None and next_.longest_idle >= attempt.longest_idle:
                break
            attempt, allowed = next_, next_.idle
        if best is None or attempt.longest_idle < best.longest_idle:
            best = attempt
    assert best is not None
    placement = tuple((rank, 2 * n_ranks - 1 - rank) for rank in range(n_ranks))
    return from_orders("zb-v", placement, n_micro_batches, best.orders)


ZB_V = Family(
    name="zb-v",
    title="two stages per rank in a V, weight gradients put off; as little idle as zb-h2 in zb-h1's memory",
    make=lambda r: zero_bubble_v(r.n_ranks, r.n_micro_batches, r.times, r.message_s),
    obstacle=no_obstacle,
    bubble_form=lambda request: zb_v_bubble(request.n_ranks, request.n_micro_batches, request.times),
    activations_form=lambda request: (float(min(request.n_micro_batches, request.n_ranks)),) * request.n_ranks,
    stages_per_rank=2,
    splits_backward=True,
    needs_times=True,
)


class _Attempt:
    """One run of the heuristic: what every rank has done so far and when.

    ``way`` is 0 for the stage that micro-batches meet first: module 0 forward, module 1 backward.

    Attributes:
        orders: operations of each rank.
        idle: of each rank, after its first forward.
        longest_idle: the longest of them.
    """

    def __init__(
        self, n_ranks: int, n_micro_batches: int, costs: tuple[int, int, int, int], limit: int, allowed: list[int]
    ) -> None:
        self._last, self._n, self._limit = n_ranks - 1, n_micro_batches, limit
        forward, backward, self._weight, self._message = costs
        self._costs: dict[Kind, int] = {"F": forward, "Bi": backward}
        self._ends: dict[Kind, tuple[list[list[int]], ...]] = {
            kind: tuple([[] for _ in range(n_ranks)] for _ in range(2)) for kind in self._costs
        }
        self._put_off: list[deque[Op]] = [deque() for _ in range(n_ranks)]
        self._now = [0] * n_ranks
        self._held = [0] * n_ranks
        self._spare = [max(allowed) - own for own in allowed]
        self.idle = [0] * n_ranks
        self.longest_idle = 0
        self.orders: list[list[Op]] = [[] for _ in range(n_ranks)]

    def run(self, *, fill_backward: bool, fill_forward: bool) -> None:
        """Make the order.

        Args:
            fill_backward: a weight gradient also in an idle time shorter than itself, before the second way's backward.
            fill_forward: the same before a forward.
        """
        self._warm_up()
        self._even_out()
        for _ in range(2 * self._n):
            for rank, way in self._backwards():
                self._fill(rank, self._arrival("Bi", way, rank), may_idle=way == 1 and not fill_backward)
                self._put("Bi", way, rank)
            for rank in range(self._last + 1):
                forward = self._next_forward(rank)
                if forward is None:
                    continue
                while self._held[rank] + 1 > self._limit:
                    self._put_weight(rank)
                self._fill(rank, self._arrival("F", forward, rank), may_idle=not fill_forward)
                self._put("F", forward, rank)
        for rank in range(self._last + 1):
            while self._put_off[rank]:
                self._put_weight(rank)

    def _warm_up(self) -> None:
        """The first micro-batch goes down and up the V; meanwhile every rank starts others as far as memory lets it."""
        for rank in range(self._last + 1):
            self._put("F", 0, rank)
        for rank in reversed(range(self._last + 1)):
            if rank < self._last:
                back = self._ends["F"][1][rank + 1][0] + self._message
                while (
                    self._held[rank] + 2 + 2 * rank <= self._limit
                    and self._now[rank] + self._costs["F"] <= back
                    and self._done("F", 0, rank) < self._n
                ):
                    for before in range(rank + 1):
                        self._put("F", 0, before)
            self._put("F", 1, rank)

    def _even_out(self) -> None:
        """Further forwards, the two ways in turn, until every rank has done as many as the one before it."""
        way = 0
        for rank in range(1, self._last + 1):
            while self._behind(rank):
                for later in reversed(range(rank, self._last + 1)):
                    if self._done("F", way, later) < self._n:
                        self._put("F", way, later)
                way = 1 - way

    def _behind(self, rank: int) -> bool:
        first, second = self._done("F", 0, rank), self._done("F", 1, rank)
        before = self._done("F", 1, rank - 1)
        return first + second < self._done("F", 0, rank - 1) + before or second <= before < self._n

    def _backwards(self) -> list[tuple[int, int]]:
        """Which backward each rank does in this round: second ways from the last rank up, then first ways down."""
        ways = [self._next_backward(rank) for rank in range(self._last + 1)]
        second = [(rank, 1) for rank in reversed(range(self._last + 1)) if ways[rank] == 1]
        return second + [(rank, 0) for rank in range(self._last + 1) if ways[rank] == 0]

    def _next_backward(self, rank: int) -> int:
        first, second = self._done("Bi", 0, rank), self._done("Bi", 1, rank)
        if second >= first:
            return 0
        if rank == self._last or self._done("Bi", 1, rank + 1) > second or first >= self._n:
            return 1
        return 0

    def _next_forward(self, rank: int) -> int | None:
        """Which forward a rank does in this round, if any."""
        first, second = self._done("F", 0, rank), self._done("F", 1, rank)
        if second >= self._n:
            return None
        if second >= first:
            return 0
        if rank == self._last or self._done("F", 1, rank + 1) > second:
            return 1
        return 0 if first < self._n and (rank == 0 or self._done("F", 0, rank - 1) > first) else None

    def _done(self, kind: Kind, way: int, rank: int) -> int:
        return len(self._ends[kind][way][rank])

    def _arrival(self, kind: Kind, way: int, rank: int) -> int:
        """When the input of the next operation of a kind is there; 0 where no other rank makes it."""
        source = rank - 1 if way == 0 else rank + 1
        if not 0 <= source <= self._last:
            return 0
        return self._ends[kind][way][source][self._done(kind, way, rank)] + self._message

    def _fill(self, rank: int, arrival: int, *, may_idle: bool) -> None:
        """Weight gradients until an input arrives; a last one that makes it wait, unless idling lengthens nothing."""
        while self._put_off[rank] and self._now[rank] + self._weight <= arrival:
            self._put_weight(rank)
        allowed = max(self.longest_idle, self._spare[rank]) - self.idle[rank]
        if self._put_off[rank] and not may_idle and arrival - self._now[rank] > allowed:
            self._put_weight(rank)

    def _put(self, kind: Kind, way: int, rank: int) -> None:
        idle = max(0, self._arrival(kind, way, rank) - self._now[rank])
        if self._ends["F"][0][rank]:
            self.idle[rank] += idle
            self.longest_idle = max(self.longest_idle, self.idle[rank])
        self._now[rank] += idle + self._costs[kind]
        op = Op(kind, way if kind == "F" else 1 - way, self._done(kind, way, rank))
        self.orders[rank].append(op)
        self._ends[kind][way][rank].append(self._now[rank])
        if kind == "F":
            self._held[rank] += 1
        else:
            self._put_off[rank].append(op)

    def _put_weight(self, rank: int) -> None:
        op = self._put_off[rank].popleft()
        self.orders[rank].append(op._replace(kind="W"))
        self._now[rank] += self._weight
        self._held[rank] -= 1
