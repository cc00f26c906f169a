"""A list scheduler for tasks of any kind: whenever a rank is free it takes the ready task of the highest priority.

Greedy and event-driven (Graham 1969): no rank idles while it has a ready task that its memory has room for. With tasks
tied to ranks such an order is not always the shortest, and with memory limits it may come to a stop where another order
would not. That is reported, never hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf, isfinite

from ffsim.errors import InfeasiblePlan, Problem, ScenarioError


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of a rank.

    Attributes:
        name: unique.
        rank: where it runs, from 0.
        duration: in any one unit.
        after: tasks that must have ended before.
        priority: the highest goes first; ties go to the task given first.
        memory: taken at the start where positive, given back at the end where negative, in any one unit.
    """

    name: str
    rank: int
    duration: float
    after: tuple[str, ...] = ()
    priority: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSchedule:
    """The outcome.

    Attributes:
        order: names of each rank's tasks, in the order in which they start.
        start, end: of every task by name.
        peak_memory: of each rank.
    """

    order: tuple[tuple[str, ...], ...]
    start: dict[str, float]
    end: dict[str, float]
    peak_memory: tuple[float, ...]

    @property
    def makespan(self) -> float:
        """End of the last task."""
        return max(self.end.values(), default=0.0)


def list_schedule(
    tasks: Sequence[Task], *, memory_limits: Sequence[float] | None = None, message: float = 0.0
) -> ListSchedule:
    """Order tasks.

    Args:
        tasks: in any order.
        memory_limits: of each rank; none by default. Ranks beyond the last task's idle.
        message: time between the end of a task and the start of one on another rank that follows it.

    Raises:
        ScenarioError: names, ranks, durations or dependencies make no sense; every reason.
        InfeasiblePlan: a memory limit cannot be met, by any order or by this one; which tasks and ranks.
    """
    known = {task.name for task in tasks}
    wrong = [*_wrong_numbers(tasks, memory_limits, message), *_wrong_names(tasks, known), *_cycles(tasks, known)]
    if wrong:
        raise ScenarioError(wrong)
    limits = [inf] * (1 + max((task.rank for task in tasks), default=-1)) if memory_limits is None else memory_limits
    if too_large := [*_too_large(tasks, limits)]:
        raise InfeasiblePlan(too_large)
    run = _Run(tasks, limits, message)
    run.finish()
    names = [task.name for task in tasks]
    return ListSchedule(
        order=tuple(tuple(names[task] for task in order) for order in run.order),
        start=dict(zip(names, run.start, strict=True)),
        end=dict(zip(names, run.end, strict=True)),
        peak_memory=tuple(run.peak),
    )


def _wrong_names(tasks: Sequence[Task], known: set[str]) -> Iterator[Problem]:
    for name, number in Counter(task.name for task in tasks).items():
        if number > 1:
            yield Problem(path=name, what=f"there are {number} tasks of this name", fix="give each its own")
    for task in tasks:
        for before in task.after:
            if before not in known:
                yield _problem(task, f"follows the unknown task {before!r}", "use the name of a task")


def _wrong_numbers(tasks: Sequence[Task], limits: Sequence[float] | None, message: float) -> Iterator[Problem]:
    for task in tasks:
        if task.rank < 0:
            yield _problem(task, f"rank {task.rank} is negative", "count ranks from 0")
        if limits is not None and task.rank >= len(limits):
            what = f"rank {task.rank} has no memory limit, there are {len(limits)}"
            yield _problem(task, what, "give one limit per rank")
        if not 0 <= task.duration < inf:
            yield _problem(task, f"duration {task.duration} is no finite time", "use a number of at least 0")
        if not isfinite(task.memory) or not isfinite(task.priority):
            what = f"memory {task.memory} or priority {task.priority} is not finite"
            yield _problem(task, what, "use a number")
    for rank, limit in enumerate(limits or ()):
        if not limit >= 0:
            yield Problem(what=f"memory limit {limit} of rank {rank} is no size", fix="use a number of at least 0")
    if not 0 <= message < inf:
        yield Problem(what=f"message time {message} is no finite time", fix="use a number of at least 0")


def _cycles(tasks: Sequence[Task], known: set[str]) -> Iterator[Problem]:
    """Loops of tasks that wait for each other, each set of them at least once."""
    after = {task.name: [before for before in task.after if before in known] for task in tasks}
    state: dict[str, int] = {}  # 1 while on the path, 2 when done
    for root in after:
        path, pending = [], [root]
        while pending:
            name = pending[-1]
            if state.get(name) is None:
                state[name] = 1
                path.append(name)
                for before in after[name]:
                    if state.get(before) == 1:
                        loop = [*path[path.index(before) :], before]
                        what = f"tasks wait for each other: {' after '.join(loop)}"
                        yield Problem(what=what, fix="leave one of the dependencies out")
                    elif before not in state:
                        pending.append(before)
            else:
                pending.pop()
                if state[name] == 1:
                    state[name] = 2
                    path.pop()


def _too_large(tasks: Sequence[Task], limits: Sequence[float]) -> Iterator[Problem]:
    for task in tasks:
        if task.memory > limits[task.rank]:
            what = f"needs {task.memory:g} of memory alone, rank {task.rank} has {limits[task.rank]:g}"
            yield _problem(task, what, "raise the limit or split the task")


def _problem(task: Task, what: str, fix: str) -> Problem:
    return Problem(path=task.name, what=what, fix=fix)


class _Run:
    """The clock, what is ready, and what each rank holds."""

    def __init__(self, tasks: Sequence[Task], limits: Sequence[float], message: float) -> None:
        self._tasks, self._limits, self._message = tasks, limits, message
        place = {task.name: number for number, task in enumerate(tasks)}
        self._followers: list[list[int]] = [[] for _ in tasks]
        self._waits = [len(set(task.after)) for task in tasks]
        for number, task in enumerate(tasks):
            for before in dict.fromkeys(task.after):
                self._followers[place[before]].append(number)
        self._events: list[tuple[float, bool, int]] = []  # time, whether a task ends (or its inputs are there), task
        self._ready: list[list[tuple[float, int]]] = [[] for _ in limits]
        self._free = [True] * len(limits)
        self._held = [0.0] * len(limits)
        self.peak = [0.0] * len(limits)
        self.order: list[list[int]] = [[] for _ in limits]
        self.start = [0.0] * len(tasks)
        self.end = [0.0] * len(tasks)

    def finish(self) -> None:
        """Run all tasks."""
        arrival = [0.0] * len(self._tasks)
        for task, waits in enumerate(self._waits):
            if not waits:
                heappush(self._events, (0.0, False, task))
        while self._events:
            now = self._events[0][0]
            while self._events and self._events[0][0] == now:
                _, ends, task = heappop(self._events)
                if ends:
                    self._end(task, arrival)
                else:
                    heappush(self._ready[self._tasks[task].rank], (-self._tasks[task].priority, task))
            for rank, free in enumerate(self._free):
                if free:
                    self._take(rank, now)
        if stuck := [*self._stuck()]:
            raise InfeasiblePlan(stuck)

    def _end(self, task: int, arrival: list[float]) -> None:
        rank = self._tasks[task].rank
        self._free[rank] = True
        self._held[rank] += min(self._tasks[task].memory, 0.0)
        for follower in self._followers[task]:
            delay = self._message if self._tasks[follower].rank != rank else 0.0
            arrival[follower] = max(arrival[follower], self.end[task] + delay)
            self._waits[follower] -= 1
            if not self._waits[follower]:
                heappush(self._events, (arrival[follower], False, follower))

    def _take(self, rank: int, now: float) -> None:
        """Start the first ready task that there is memory for."""
        passed = []
        ready = self._ready[rank]
        while ready and self._held[rank] + self._tasks[ready[0][1]].memory > self._limits[rank]:
            passed.append(heappop(ready))
        if ready:
            task = heappop(ready)[1]
            self._free[rank] = False
            self._held[rank] += max(self._tasks[task].memory, 0.0)
            self.peak[rank] = max(self.peak[rank], self._held[rank])
            self.order[rank].append(task)
            self.start[task], self.end[task] = now, now + self._tasks[task].duration
            heappush(self._events, (self.end[task], True, task))
        for item in passed:
            heappush(ready, item)

    def _stuck(self) -> Iterator[Problem]:
        """Ranks whose ready tasks find no memory, once nothing runs any more."""
        for rank, ready in enumerate(self._ready):
            if ready:
                least = min(self._tasks[task].memory for _, task in ready)
                yield Problem(
                    what=f"rank {rank} comes to a stop: it holds {self._held[rank]:g} of {self._limits[rank]:g} and "
                    f"{self._tasks[min(ready)[1]].name!r} and {len(ready) - 1} other ready tasks need at least "
                    f"{least:g} more",
                    fix=f"raise its limit to {self._held[rank] + least:g} or more, or give tasks that free memory, and "
                    "what they wait for, a higher priority",
                )
