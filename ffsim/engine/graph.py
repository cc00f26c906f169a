"""Task graphs as arrays: what runs, on which lane, after what, moving how many bytes over which links."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ffsim.errors import SimulationError

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]

NO_LANE = -1


@dataclass(frozen=True, slots=True)
class Csr:
    """Lists of integers of different lengths, one per row: row i is ``values[start[i]:start[i + 1]]``."""

    start: Ints
    values: Ints

    @classmethod
    def of(cls, rows: Ints, values: Ints, n_rows: int) -> Csr:
        """Group values by row; within a row the given order is kept."""
        order = np.argsort(rows, kind="stable")
        start = np.zeros(n_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=n_rows), out=start[1:])
        return cls(start, values[order])

    def lists(self) -> list[list[int]]:
        """As Python lists, for event loops."""
        start, values = self.start.tolist(), self.values.tolist()
        return [values[a:b] for a, b in pairwise(start)]


@dataclass(frozen=True)
class TaskGraph:
    """Tasks with their order, as columns.

    A task starts when every predecessor has ended, occupies its lane for ``duration_s``, then moves its bytes over its
    links (if any), and ends when the last byte has moved. Tasks of one lane run one at a time in index order.

    Attributes:
        lane: ``[n_tasks]`` lane of each task, `NO_LANE` for one that occupies nothing.
        slot: ``[n_tasks]`` index into the duration and transfer tables of `Costs`: tasks that cost the same
            share a slot.
        edges: ``[n_edges, 2]`` predecessor, successor; lane order is implied and not listed.
    """

    lane: Ints
    slot: Ints
    edges: Ints

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.lane)

    @cached_property
    def all_edges(self) -> Ints:
        """Listed edges and those that lane order implies."""
        used = np.flatnonzero(self.lane != NO_LANE)
        by_lane = used[np.argsort(self.lane[used], kind="stable")]
        same = self.lane[by_lane[1:]] == self.lane[by_lane[:-1]]
        chain = np.stack([by_lane[:-1][same], by_lane[1:][same]], axis=1)
        return np.concatenate([self.edges, chain]) if len(chain) else self.edges

    @cached_property
    def successors(self) -> Csr:
        """Tasks that wait for each task."""
        return Csr.of(self.all_edges[:, 0], self.all_edges[:, 1], self.n_tasks)

    @cached_property
    def predecessors(self) -> Csr:
        """Tasks that each task waits for."""
        return Csr.of(self.all_edges[:, 1], self.all_edges[:, 0], self.n_tasks)

    @cached_property
    def sweep(self) -> list[tuple[Ints, Ints, Ints]]:
        """`levels` ready to be evaluated: (tasks, all their predecessors, where each task's begin among these).

        Tasks without predecessors are left out.
        """
        start, values = self.predecessors.start, self.predecessors.values
        following = self.levels[1:]  # every task beyond the first level waits for something
        tasks = np.concatenate(following) if following else np.zeros(0, dtype=np.int64)
        begin, counts = start[tasks], start[tasks + 1] - start[tasks]
        ends = np.cumsum(counts)
        offsets = ends - counts
        before = values[np.arange(len(values)) + np.repeat(begin - offsets, counts)]
        stops = np.cumsum([len(level) for level in following]).tolist()
        result = []
        for first, stop in pairwise([0, *stops]):
            left, right = offsets[first], ends[stop - 1]
            result.append((tasks[first:stop], before[left:right], offsets[first:stop] - left))
        return result

    @cached_property
    def levels(self) -> list[Ints]:
        """Tasks grouped so that every predecessor stands in an earlier group.

        Raises:
            SimulationError: the tasks wait for each other in a circle.
        """
        waiting = np.diff(self.predecessors.start).tolist()
        successors = self.successors.lists()
        ready = [task for task, count in enumerate(waiting) if count == 0]
        groups, seen = [], 0
        while ready:
            groups.append(np.array(ready))
            seen += len(ready)
            following: list[int] = []
            for task in ready:
                for successor in successors[task]:
                    waiting[successor] -= 1
                    if waiting[successor] == 0:
                        following.append(successor)
            ready = following
        if seen != self.n_tasks:
            raise SimulationError(f"{self.n_tasks - seen} of {self.n_tasks} tasks wait for each other in a circle")
        return groups


@dataclass(frozen=True, slots=True)
class Costs:
    """What the slots of a task graph cost.

    Attributes:
        duration_s: ``[n_slots]`` time on the lane; for a transfer its latency.
        link, bytes_: links and bytes of the transfers, as rows of `moves`.
        moves: slot -> rows of ``link`` and ``bytes_``.
        capacity_bytes_per_s: ``[n_links]``.
        share: ``[n_slots]`` what a slot's transfer counts for where links are shared; one for all if left out.
    """

    duration_s: Floats
    link: Ints
    bytes_: Floats
    moves: Csr
    capacity_bytes_per_s: Floats
    share: Floats | None = None

    @property
    def idle_s(self) -> Floats:
        """``[n_slots]`` duration of each slot when its links carry nothing else."""
        time = self.bytes_ / self.capacity_bytes_per_s[self.link]
        slots = np.repeat(np.arange(len(self.duration_s)), np.diff(self.moves.start))
        slowest = np.zeros(len(self.duration_s))
        np.maximum.at(slowest, slots, time[self.moves.values])
        return self.duration_s + slowest


@dataclass(frozen=True, slots=True)
class Timeline:
    """When every task ran.

    Attributes:
        start_s, end_s: ``[n_tasks]``.
        n_events: events the engine processed; the same input always gives the same number.
    """

    start_s: Floats
    end_s: Floats
    n_events: int

    @property
    def makespan_s(self) -> float:
        """Time from zero to the last end."""
        return float(self.end_s.max(initial=0.0))
