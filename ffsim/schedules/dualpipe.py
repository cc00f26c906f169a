"""DualPipe and DualPipeV: forward and backward of different micro-batches overlap in one operation.

DualPipe feeds micro-batches from both ends; rank r holds stage r and stage P-1-r. DualPipeV cuts it in half: one end,
rank r holds stage r and stage 2P-1-r. Seen from a rank both are the same eight phases over two "lanes" of chunks; only
the distance to the turning point and the number of chunks differ.

Source: arXiv 2412.19437 s3.2.1; the phases as in github deepseek-ai/DualPipe (3da1bbe), whose output the golden tests
hold this against.
"""

from __future__ import annotations

from collections import deque

from ffsim.schedules.bubbles import dualpipe_bubble, dualpipe_v_bubble
from ffsim.schedules.data import Schedule
from ffsim.schedules.family import Family, Request, nearest
from ffsim.schedules.ops import Op
from ffsim.schedules.recorder import RankRecorder


def dualpipe(n_ranks: int, n_micro_batches: int) -> Schedule:
    """The DualPipe schedule.

    Args:
        n_ranks: pipeline ranks and stages, even.
        n_micro_batches: micro-batches per step over both ends, even, at least ``2 * n_ranks``.

    Raises:
        ValueError: the numbers do not fit.

    >>> "".join(op.kind + " " for op in dualpipe(2, 4).ops[0])
    'F F F B FB B Bi W '
    """
    return DUALPIPE.build(n_ranks, n_micro_batches)


def _make(n_ranks: int, n_micro_batches: int) -> Schedule:
    placement = tuple((rank, n_ranks - 1 - rank) for rank in range(n_ranks))
    half = n_ranks // 2
    recorders = []
    for rank in range(n_ranks):
        program = _Program(placement, rank, both_ends=True, flipped=rank >= half)
        position = min(rank, n_ranks - 1 - rank)
        program.run(position, half, n_micro_batches // 2, turn=position == half - 1)
        recorders.append(program.recorder)
    return _schedule("dualpipe", placement, n_micro_batches, recorders, both_ends=True)


def dualpipe_v(n_ranks: int, n_micro_batches: int) -> Schedule:
    """The DualPipeV schedule: half the devices of DualPipe for the same number of stages.

    Args:
        n_ranks: pipeline ranks; there are twice as many stages.
        n_micro_batches: micro-batches per step, at least ``2 * n_ranks``.

    Raises:
        ValueError: too few micro-batches.
    """
    return DUALPIPE_V.build(n_ranks, n_micro_batches)


def _make_v(n_ranks: int, n_micro_batches: int) -> Schedule:
    placement = tuple((rank, 2 * n_ranks - 1 - rank) for rank in range(n_ranks))
    recorders = []
    for rank in range(n_ranks):
        program = _Program(placement, rank, both_ends=False, flipped=False)
        program.run(rank, n_ranks, n_micro_batches, turn=rank == n_ranks - 1)
        recorders.append(program.recorder)
    return _schedule("dualpipev", placement, n_micro_batches, recorders, both_ends=False)


def _schedule(
    name: str, placement: tuple[tuple[int, ...], ...], n: int, recorders: list[RankRecorder], *, both_ends: bool
) -> Schedule:
    return Schedule(
        name=name,
        placement=placement,
        both_ends=both_ends,
        n_micro_batches=n,
        ops=tuple(tuple(recorder.ops) for recorder in recorders),
        groups=tuple(tuple(recorder.groups) for recorder in recorders),
    )


def _obstacle(request: Request) -> str | None:
    n_ranks, n_micro_batches = request.n_ranks, request.n_micro_batches
    if n_ranks % 2:
        return f"dualpipe needs an even number of pipeline ranks, got {n_ranks}: use {nearest(n_ranks, 2)}"
    if n_micro_batches % 2 or n_micro_batches < 2 * n_ranks:
        return (
            f"dualpipe over {n_ranks} ranks needs an even number of at least {2 * n_ranks} micro-batches, "
            f"got {n_micro_batches}: use {nearest(n_micro_batches, 2, at_least=2 * n_ranks)}"
        )
    return None


def _obstacle_v(request: Request) -> str | None:
    n_ranks, n_micro_batches = request.n_ranks, request.n_micro_batches
    if n_micro_batches < 2 * n_ranks:
        return (
            f"dualpipev over {n_ranks} ranks needs at least {2 * n_ranks} micro-batches, "
            f"got {n_micro_batches}: use {2 * n_ranks}"
        )
    return None


DUALPIPE = Family(
    name="dualpipe",
    title="micro-batches from both ends; forward and backward overlap in pairs; two copies of the weights",
    make=lambda request: _make(request.n_ranks, request.n_micro_batches),
    obstacle=_obstacle,
    bubble_form=lambda request: dualpipe_bubble(request.n_ranks, request.times),
    activations_form=lambda request: (request.n_ranks + 1.0,) * request.n_ranks,
    both_ends=True,
    splits_backward=True,
)
DUALPIPE_V = Family(
    name="dualpipev",
    title="DualPipe cut in half: two stages per rank in a V, one copy of the weights",
    make=lambda request: _make_v(request.n_ranks, request.n_micro_batches),
    obstacle=_obstacle_v,
    bubble_form=lambda request: dualpipe_v_bubble(request.n_ranks, request.times),
    activations_form=lambda request: (request.n_ranks + 0.5,) * request.n_ranks,
    stages_per_rank=2,
    splits_backward=True,
)


class _Program:
    """The program of one rank. Lane 0 is the module nearer the entrance as this rank sees it, lane 1 the other."""

    def __init__(self, placement: tuple[tuple[int, ...], ...], rank: int, *, both_ends: bool, flipped: bool) -> None:
        self.recorder = RankRecorder(placement, rank, both_ends=both_ends)
        self._flipped = flipped
        self._both_ends = both_ends
        self._counters: dict[tuple[str, int], int] = {}
        self._put_off: deque[tuple[int, int]] = deque()

    def run(self, position: int, depth: int, n_chunks: int, *, turn: bool) -> None:
        """All eight phases.

        Args:
            position: distance of the rank from its entrance, 0-based.
            depth: distance from the entrance to the turning point.
            n_chunks: chunks per lane.
            turn: whether the rank stands at the turning point.
        """
        before = depth - position - 1
        for _ in range(2 * before):
            self._forward(0)
        self._fill(position + 1, turn=turn)
        for _ in range(before):
            self._backward(1, split=True)
            self._receive("F", 1)
            self._weight()
            self._forward(1, receive=False)
        self._steady(n_chunks - 2 * depth + position + 1, turn=turn)
        for _ in range(before):
            self._backward(1)
            self._pair(1, 0)
        self._drain(position)
        for _ in range(before):
            self._weight()
            self._backward(0, split=True)
        for _ in range(position + 1):
            self._weight()
        self.recorder.flush()

    def _fill(self, rounds: int, *, turn: bool) -> None:
        self._receive("F", 0)
        for index in range(rounds):
            early = turn and self._both_ends
            self._forward(0, receive=False, send=early)
            self._receive("F", 0)
            self._forward(1, send=not turn or index < rounds - 1)
            if not early:
                self._send("F", 0)

    def _steady(self, rounds: int, *, turn: bool) -> None:
        for index in range(rounds):
            if index > 0:
                self._pair(0, 1)
            elif turn:  # not overlapped: it shortens the bubble
                self._forward(0, receive=False, send=False)
                self._send("F", 1)
                self._backward(1, send=False)
                self._send("F", 0)
                self._send("B", 1)
            else:
                self._pair(0, 1, receive=False)
            self._pair(1, 0)

    def _drain(self, position: int) -> None:
        """Backward on both lanes; the second half puts its weight gradients off."""
        middle = (position + 1) // 2
        split = False
        for index in range(position + 1):
            split = split or (index == middle and position % 2 == 1)
            self._backward(1, split=split)
            split = split or (index == middle and position % 2 == 0)
            self._backward(0, split=split)

    def _module(self, lane: int) -> int:
        return lane ^ self._flipped

    def _next(self, what: str, module: int) -> int:
        chunk = self._counters.get((what, module), 0)
        self._counters[what, module] = chunk + 1
        return chunk

    def _receive(self, direction: str, lane: int) -> None:
        module = self._module(lane)
        self._exchange("r", direction, module)

    def _send(self, direction: str, lane: int) -> None:
        self._exchange("s", direction, self._module(lane))

    def _exchange(self, end: str, direction: str, module: int) -> None:
        chunk = self._next(end + direction, module)
        self.recorder.message("s" if end == "s" else "r", "F" if direction == "F" else "B", module, chunk)

    def _forward(self, lane: int, *, receive: bool = True, send: bool = True) -> None:
        if receive:
            self._receive("F", lane)
        module = self._module(lane)
        self.recorder.add(Op("F", module, self._next("F", module)))
        if send:
            self._send("F", lane)

    def _backward(self, lane: int, *, split: bool = False, send: bool = True) -> None:
        self._receive("B", lane)
        module = self._module(lane)
        chunk = self._next("B", module)
        self.recorder.add(Op("Bi" if split else "B", module, chunk))
        if split:
            self._put_off.append((module, chunk))
        if send:
            self._send("B", lane)

    def _pair(self, forward: int, backward: int, *, receive: bool = True) -> None:
        if receive:
            self._receive("F", forward)
        self._receive("B", backward)
        first, second = self._module(forward), self._module(backward)
        self.recorder.add(Op("FB", first, self._next("F", first), second, self._next("B", second)))
        self._send("F", forward)
        self._send("B", backward)

    def _weight(self) -> None:
        self.recorder.add(Op("W", *self._put_off.popleft()))
