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
from typing import NamedTuple

from ffsim.schedules.bubbles import OpTimes, zb_v_bubble
from ffsim.schedules.data import Schedule, from_orders
from ffsim.schedules.family import Family, no_obstacle
from ffsim.schedules.ops import Op, OpKind
from ffsim.schedules.whole_times import whole_times

FORWARD, INPUT, WEIGHT = range(3)
KINDS: tuple[OpKind, ...] = ("F", "Bi", "W")
Code = tuple[int, int, int]  # kind, module, micro-batch


def zero_bubble_v(n_ranks: int, n_micro_batches: int, times: OpTimes, message: float) -> Schedule:
    """The schedule of the heuristic.

    Args:
        n_ranks: pipeline ranks, two stages each.
        n_micro_batches: micro-batches per step.
        times: durations on one stage that the order is made for.
        message: time of a message between ranks, in the same unit.
    """
    problem = _Problem(n_ranks, n_micro_batches, whole_times(times, message))
    best: _Attempt | None = None
    for fill_backward, fill_forward in product((True, False), repeat=2):
        attempt = _best_attempt(problem, fill_backward=fill_backward, fill_forward=fill_forward)
        if best is None or attempt.longest_idle < best.longest_idle:
            best = attempt
    assert best is not None
    placement = tuple((rank, 2 * n_ranks - 1 - rank) for rank in range(n_ranks))
    orders = [[Op(KINDS[kind], module, chunk) for kind, module, chunk in order] for order in best.orders]
    return from_orders("zb-v", placement, n_micro_batches, orders)


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


class _Problem(NamedTuple):
    """What an attempt is made for: costs are those of forward, input gradient, weight gradient and message."""

    n_ranks: int
    n_micro_batches: int
    costs: tuple[int, int, int, int]


def _best_attempt(problem: _Problem, *, fill_backward: bool, fill_forward: bool) -> _Attempt:
    """Attempts with one setting, each allowed the idle times of the one before, until that helps no more."""
    best: _Attempt | None = None
    allowed = [-1] * problem.n_ranks
    while True:
        attempt = _Attempt(problem, allowed)
        attempt.run(fill_backward=fill_backward, fill_forward=fill_forward)
        if best is not None and attempt.longest_idle >= best.longest_idle:
            return best
        best, allowed = attempt, attempt.idle


class _Attempt:
    """One run of the heuristic: what every rank has done so far and when.

    ``way`` is 0 for the stage that micro-batches meet first: module 0 forward, module 1 backward. Operations of one
    kind and way follow each other, so that the number of their ends is the number of the next.

    Attributes:
        orders: operations of each rank.
        idle: of each rank, after its first forward.
        longest_idle: the longest of them.
    """

    def __init__(self, problem: _Problem, allowed: list[int]) -> None:
        n_ranks, self._n, (*self._costs, self._weight, self._message) = problem
        self._last = n_ranks - 1
        self._limit = 2 * n_ranks  # stages' activations that a rank holds, from forward to weight gradient
        self._ends: list[list[list[list[int]]]] = [[[[] for _ in range(n_ranks)] for _ in range(2)] for _ in range(2)]
        self._put_off: list[deque[Code]] = [deque() for _ in range(n_ranks)]
        self._now = [0] * n_ranks
        self._held = [0] * n_ranks
        self._spare = [max(allowed) - own for own in allowed]
        self.idle = [0] * n_ranks
        self.longest_idle = 0
        self.orders: list[list[Code]] = [[] for _ in range(n_ranks)]

    def run(self, *, fill_backward: bool, fill_forward: bool) -> None:
        """Make the order.

        Args:
            fill_backward: a weight gradient also in an idle time shorter than itself, before the first way's backward.
            fill_forward: the same before a forward.
        """
        self._warm_up()
        self._even_out()
        ranks = range(self._last + 1)
        for _ in range(2 * self._n):
            for rank, way in self._backwards():
                arrival = self._arrival(INPUT, way, rank)
                if self._put_off[rank]:
                    self._fill(rank, arrival, shorter=way == 1 or fill_backward)
                self._put(INPUT, way, rank, arrival)
            for rank in ranks:
                forward = self._next_forward(rank)
                if forward < 0:
                    continue
                while self._held[rank] >= self._limit:
                    self._put_weight(rank)
                arrival = self._arrival(FORWARD, forward, rank)
                if self._put_off[rank]:
                    self._fill(rank, arrival, shorter=fill_forward)
                self._put(FORWARD, forward, rank, arrival)
        for rank in ranks:
            while self._put_off[rank]:
                self._put_weight(rank)

    def _warm_up(self) -> None:
        """The first micro-batch goes down and up the V; meanwhile every rank starts others as far as memory lets it."""
        for rank in range(self._last + 1):
            self._put_forward(0, rank)
        for rank in reversed(range(self._last + 1)):
            if rank < self._last:
                back = self._ends[FORWARD][1][rank + 1][0] + self._message
                while (
                    self._held[rank] + 2 + 2 * rank <= self._limit
                    and self._now[rank] + self._costs[FORWARD] <= back
                    and len(self._ends[FORWARD][0][rank]) < self._n
                ):
                    for before in range(rank + 1):
                        self._put_forward(0, before)
            self._put_forward(1, rank)

    def _even_out(self) -> None:
        """Further forwards, the two ways in turn, until every rank has done as many as the one before it."""
        way = 0
        for rank in range(1, self._last + 1):
            while self._behind(rank):
                for later in reversed(range(rank, self._last + 1)):
                    if len(self._ends[FORWARD][way][later]) < self._n:
                        self._put_forward(way, later)
                way = 1 - way

    def _behind(self, rank: int) -> bool:
        (before1, first), (before2, second) = (map(len, ends[rank - 1 : rank + 1]) for ends in self._ends[FORWARD])
        return first + second < before1 + before2 or second <= before2 < self._n

    def _backwards(self) -> list[tuple[int, int]]:
        """Which backward each rank does in this round: second ways from the last rank up, then first ways down."""
        first, second = ([len(ends) for ends in way] for way in self._ends[INPUT])
        last, n = self._last, self._n
        ways = [
            int(done2 < done1 and (rank == last or second[rank + 1] > done2 or done1 >= n))
            for rank, (done1, done2) in enumerate(zip(first, second, strict=True))
        ]
        up = [(rank, 1) for rank in range(last, -1, -1) if ways[rank]]
        return up + [(rank, 0) for rank in range(last + 1) if not ways[rank]]

    def _next_forward(self, rank: int) -> int:
        """Which forward a rank does in this round, -1 for none."""
        ways = self._ends[FORWARD]
        first, second = len(ways[0][rank]), len(ways[1][rank])
        if second >= self._n:
            return -1
        if second >= first:
            return 0
        if rank == self._last or len(ways[1][rank + 1]) > second:
            return 1
        return 0 if first < self._n and (rank == 0 or len(ways[0][rank - 1]) > first) else -1

    def _arrival(self, kind: int, way: int, rank: int) -> int:
        """When the input of the next operation of a kind is there; 0 where no other rank makes it."""
        source = rank + 1 if way else rank - 1
        if not 0 <= source <= self._last:
            return 0
        ends = self._ends[kind][way]
        return ends[source][len(ends[rank])] + self._message

    def _fill(self, rank: int, arrival: int, *, shorter: bool) -> None:
        """Weight gradients until an input arrives.

        Args:
            rank: with some put off.
            arrival: of the input.
            shorter: a last one even if it makes the input wait, unless idling lengthens nothing.
        """
        while self._put_off[rank] and self._now[rank] + self._weight <= arrival:
            self._put_weight(rank)
        allowed = max(self.longest_idle, self._spare[rank]) - self.idle[rank]
        if shorter and self._put_off[rank] and arrival - self._now[rank] > allowed:
            self._put_weight(rank)

    def _put_forward(self, way: int, rank: int) -> None:
        self._put(FORWARD, way, rank, self._arrival(FORWARD, way, rank))

    def _put(self, kind: int, way: int, rank: int, arrival: int) -> None:
        now = self._now[rank]
        if arrival > now:
            if self._ends[FORWARD][0][rank]:
                self.idle[rank] += arrival - now
                self.longest_idle = max(self.longest_idle, self.idle[rank])
            now = arrival
        now += self._costs[kind]
        self._now[rank] = now
        ends = self._ends[kind][way][rank]
        if kind == FORWARD:
            self._held[rank] += 1
            self.orders[rank].append((FORWARD, way, len(ends)))
        else:
            self._put_off[rank].append((WEIGHT, 1 - way, len(ends)))
            self.orders[rank].append((INPUT, 1 - way, len(ends)))
        ends.append(now)

    def _put_weight(self, rank: int) -> None:
        self.orders[rank].append(self._put_off[rank].popleft())
        self._now[rank] += self._weight
        self._held[rank] -= 1
