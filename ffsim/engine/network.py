"""Flows on SimPy's clock: the bridge by which storage, faults and jobs share links with collectives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import simpy

from ffsim.engine.flows import Flows
from ffsim.engine.fluid import check, load_kernel
from ffsim.engine.graph import Floats
from ffsim.engine.plain import CIRCLE
from ffsim.errors import SimulationError


class FluidNetwork:
    """Links that any process may send flows over.

    The solver runs ahead to the next thing that any other process does, or to the end of a batch, whichever is first:
    SimPy sees one event a batch, never one a flow.

    Args:
        env: the clock.
        capacity_bytes_per_s: ``[n_links]``.
        lanes: weight of each virtual lane; see `ffsim.engine.simulate_flows`.

    >>> import numpy as np
    >>> from ffsim.engine import Csr
    >>> env = simpy.Environment()
    >>> network = FluidNetwork(env, np.array([10.0]))
    >>> one = Flows(links=Csr(np.array([0, 1]), np.array([0])), size_bytes=np.array([10.0]))
    >>> def late():
    ...     yield env.timeout(0.5)
    ...     yield network.send(one)
    ...     print(env.now)
    >>> _ = env.process(late()), network.send(one)
    >>> env.run()
    2.0
    """

    def __init__(self, env: simpy.Environment, capacity_bytes_per_s: Floats, lanes: Sequence[float] = ()) -> None:
        self._env = env
        self._kernel = load_kernel()
        self._lanes = tuple(lanes)
        self._state = self._kernel.empty_state(capacity_bytes_per_s, lanes)
        self._new: list[Flows] = []
        self._open: dict[int, simpy.Event] = {}
        self._version = 0

    @property
    def n_events(self) -> int:
        """Flow starts and ends so far."""
        return int(self._state.count[self._kernel.N_EVENTS])

    def send(self, flows: Flows) -> simpy.Event:
        """Begin a batch of flows; their ``start_s`` counts from now.

        Returns:
            Fires when the last of them has ended; its value is that instant. [s]

        Raises:
            ValueError: a figure is out of range.
        """
        check(flows, self._state.capacity, self._lanes)
        done = self._env.event()
        if not len(flows):
            return done.succeed(self._env.now)
        self._open[len(self._state.left) + len(self._new)] = done
        self._new.append(flows)
        self._pump_at(self._env.now)
        return done

    def set_capacity(self, link: int, bytes_per_s: float) -> None:
        """Give a link another rate from now on: it degrades, or recovers.

        Raises:
            ValueError: no such link, or a rate that is not positive: what runs over a link that is down must be ended
                or led elsewhere.
        """
        if not 0 < bytes_per_s < float("inf"):
            raise ValueError(f"capacity of link {link}: must be finite and > 0, got {bytes_per_s:g}")
        if not 0 <= link < len(self._state.capacity):
            raise ValueError(f"link: 0 to {len(self._state.capacity) - 1} are there, got {link}")
        self._advance(self._env.now)
        self._kernel.change_capacity(self._state, link, bytes_per_s)
        self._pump_at(self._env.now)

    def _pump_at(self, time_s: float) -> None:
        """Look at the flows again at an instant, after what else is planned for it; earlier plans are void."""
        self._version += 1
        self._env.timeout(max(time_s - self._env.now, 0.0)).callbacks.append(partial(self._pump, self._version))

    def _pump(self, version: int, _: simpy.Event) -> None:
        """Take in new flows, then run ahead as far as nobody else does anything."""
        if version != self._version:
            return
        self._advance(self._env.now)
        for flows in self._new:
            self._state, first, stop = self._kernel.add_flows(self._state, flows, self._env.now)
            self._kernel.begin(self._state, first, stop)
        self._new.clear()
        ahead = self._env.peek()
        if self._kernel.run(self._state, ahead):
            self._pump_at(self._state.clock[self._kernel.NOW])
        elif self._state.count[self._kernel.N_HEAP]:
            self._pump_at(ahead)
        elif self._state.count[self._kernel.N_LEFT]:
            raise SimulationError(f"{self._state.count[self._kernel.N_LEFT]} flows never ran: {CIRCLE}")

    def _advance(self, now_s: float) -> None:
        """Let everything happen that is due by now, and tell who waited for it."""
        while self._kernel.run(self._state, now_s):
            pass
        self._state.clock[self._kernel.NOW] = max(self._state.clock[self._kernel.NOW], now_s)
        for batch in [batch for batch in self._open if batch < len(self._state.left) and not self._state.left[batch]]:
            self._open.pop(batch).succeed(now_s)
