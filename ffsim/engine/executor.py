"""Runs task graphs on SimPy's clock; the transfers of all tasks meet on one fluid network."""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import simpy

from ffsim.engine.graph import Costs, TaskGraph, Timeline
from ffsim.engine.network import FluidNetwork, Path
from ffsim.errors import SimulationError


class Executor:
    """One task graph on a clock that other processes may share.

    Args:
        env: the clock.
        graph: what runs.
        costs: what it costs.
        network: links shared with others; its own by default.

    Attributes:
        done: SimPy event that fires when the last task has ended.
    """

    def __init__(
        self, env: simpy.Environment, graph: TaskGraph, costs: Costs, network: FluidNetwork | None = None
    ) -> None:
        self.done: simpy.Event = env.event()
        self._env = env
        self._network = network or FluidNetwork(env, costs.capacity_bytes_per_s.tolist())
        self._slot: list[int] = graph.slot.tolist()
        self._duration: list[float] = costs.duration_s.tolist()
        self._path = _paths(costs, self._network)
        self._successors = graph.successors.lists()
        self._waiting: list[int] = np.diff(graph.predecessors.start).tolist()
        self._start_s = [0.0] * graph.n_tasks
        self._end_s = [0.0] * graph.n_tasks
        self._left = graph.n_tasks
        self._n_durations = 0
        self._begin([task for task, count in enumerate(self._waiting) if count == 0])
        if not self._left and not self.done.triggered:
            self.done.succeed()

    @property
    def n_events(self) -> int:
        """Events so far: durations, and rates given to transfers (each plans an end)."""
        return self._n_durations + self._network.n_events

    def timeline(self) -> Timeline:
        """When every task ran.

        Raises:
            SimulationError: not all of them have.
        """
        if self._left:
            raise SimulationError(f"{self._left} tasks never ran: they wait for each other in a circle")
        return Timeline(np.array(self._start_s), np.array(self._end_s), self.n_events)

    def _begin(self, ready: list[int]) -> None:
        """Start tasks; those that take no time end at once and may make others ready."""
        now = self._env.now
        while ready:
            task = ready.pop()
            self._start_s[task] = now
            slot = self._slot[task]
            if self._duration[slot] > 0:
                self._n_durations += 1
                self._env.timeout(self._duration[slot], task).callbacks.append(self._duration_over)
                continue
            path = self._path[slot]
            if path is None:
                self._end(task, ready)
            else:
                self._network.start(path, partial(self._finish, task))

    def _duration_over(self, timeout: simpy.Event) -> None:
        task = cast(int, timeout.value)
        path = self._path[self._slot[task]]
        if path is None:
            self._finish(task)
        else:
            self._network.start(path, partial(self._finish, task))

    def _finish(self, task: int) -> None:
        ready: list[int] = []
        self._end(task, ready)
        if ready:
            self._begin(ready)

    def _end(self, task: int, ready: list[int]) -> None:
        self._end_s[task] = self._env.now
        self._left -= 1
        waiting = self._waiting
        for successor in self._successors[task]:
            waiting[successor] -= 1
            if not waiting[successor]:
                ready.append(successor)
        if not self._left:
            self.done.succeed()


def _paths(costs: Costs, network: FluidNetwork) -> list[Path | None]:
    """The path of every slot that moves bytes."""
    links, sizes, capacity = costs.link.tolist(), costs.bytes_.tolist(), network.capacity_bytes_per_s
    shares = [1.0] * len(costs.duration_s) if costs.share is None else costs.share.tolist()
    return [
        Path([links[i] for i in rows], [sizes[i] for i in rows], capacity, share) if rows else None
        for rows, share in zip(costs.moves.lists(), shares, strict=True)
    ]


def execute(graph: TaskGraph, costs: Costs) -> Timeline:
    """Run one task graph by itself.

    Raises:
        SimulationError: some tasks wait for each other in a circle.
    """
    env = simpy.Environment()
    executor = Executor(env, graph, costs)
    env.run()
    return executor.timeline()
