"""Switches joined in no order of levels, such as a slim fly or a user's graph: shortest ways by table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ffsim.topology.arrays import NO_LINK, Bools, Cables, Ints, Kinds, LinkKind, VertexKind, count_up
from ffsim.topology.endpoints import Endpoints

MAX_WAYS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """Any connected switches, with shortest ways between them.

    Vertices: the end points, then the switches. Cables: cable ``e`` joins end point ``e`` to its switch, then come
    those between switches.

    Domain: whether a set of routes can deadlock, and the virtual channels that prevent it, are not modelled.

    Attributes:
        endpoints: what hangs on the switches.
        home: ``[n_endpoints]``, the switch of each.
        slot: ``[n_endpoints]``: end points counted switch by switch, so that the ways to one switch are used in turn.
        trunks: cables between switches, which are numbered from 0 here.
        names: of the switches; empty where numbers do.
    """

    endpoints: Endpoints
    home: Ints
    slot: Ints
    n_switches: int
    trunks: Cables
    names: tuple[str, ...] = ()

    @property
    def n_planes(self) -> int:
        """One: every end point reaches every other."""
        return 1

    @property
    def switch_kind(self) -> Kinds:
        """``[n_switches]`` kind codes: leaves are those that end points hang on, the others are spines."""
        taken = np.bincount(self.home, minlength=self.n_switches) > 0
        return np.where(taken, VertexKind.LEAF, VertexKind.SPINE).astype(np.uint8)

    @cached_property
    def cables(self) -> Cables:
        """All cables."""
        n = len(self.endpoints)
        access = Cables.between(count_up(n), n + self.home, self.endpoints.wire, LinkKind.ACCESS)
        return Cables.joined([access, self.trunks.shifted(n)])

    @property
    def oversubscription(self) -> float:
        """End points over cables to other switches, of the worst switch; 1 where a single switch joins everything."""
        down = np.bincount(self.home, minlength=self.n_switches)
        degree = np.bincount(self.trunks.a, minlength=self.n_switches)
        degree += np.bincount(self.trunks.b, minlength=self.n_switches)
        return float((down / degree).max()) if degree.all() else 1.0

    @cached_property
    def bisection_bytes_per_s(self) -> float:
        """Maximum flow from the first to the second half of the nodes, storage nodes halved likewise."""
        end = count_up(len(self.endpoints))
        n = self.endpoints.n_compute
        left = np.where(self.endpoints.storage, end - n < (len(end) - n) // 2, end < n // 2)
        return max_flow_bytes_per_s(self, left)

    @cached_property
    def _ports(self) -> tuple[Ints, Ints]:
        """Neighbour and link out, ``[n_switches, max_degree]``: by neighbour, then by cable; filled with the switch."""
        trunks = self.trunks
        src, dst = np.append(trunks.a, trunks.b), np.append(trunks.b, trunks.a)
        first = 2 * (len(self.endpoints) + count_up(len(trunks)))
        link = np.append(first, first + 1)
        order = np.lexsort((link, dst, src))
        src, dst, link = src[order], dst[order], link[order]
        degree = np.bincount(src, minlength=self.n_switches)
        place = count_up(len(src)) - (np.cumsum(degree) - degree)[src]
        shape = (self.n_switches, int(degree.max(initial=1)))
        neighbour = np.repeat(count_up(self.n_switches), shape[1]).reshape(shape)
        out = np.full(shape, NO_LINK, dtype=np.int64)
        neighbour[src, place], out[src, place] = dst, link
        return neighbour, out

    @cached_property
    def distance(self) -> NDArray[np.int16]:
        """``[n_switches, n_switches]`` cables of the shortest ways."""
        return distances(self._ports[0])

    @cached_property
    def diameter(self) -> int:
        """Cables between the two switches with end points that are farthest apart."""
        used = np.unique(self.home)
        return int(self.distance[np.ix_(used, used)].max())

    @cached_property
    def _nearer(self) -> tuple[Ints, Ints]:
        """The cables that lead nearer from each switch to each, as lists one after the other.

        Returns:
            Where the list of ``from * n_switches + to`` begins; places in the flat arrays of `_ports`.
        """
        neighbour, _ = self._ports
        counts, lists = [], []
        for switch, around in enumerate(neighbour):
            nearer = (self.distance[around] < self.distance[switch]).T
            counts.append(nearer.sum(axis=1))
            lists.append(np.nonzero(nearer)[1] + switch * neighbour.shape[1])
        start = np.zeros(self.n_switches**2 + 1, dtype=np.int64)
        np.cumsum(np.concatenate(counts), out=start[1:])
        return start, np.concatenate(lists)

    @cached_property
    def n_ways(self) -> int:
        """Keys that give every shortest way between any two end points; `MAX_WAYS` where there are more."""
        start, place = self._nearer
        choices, distance = np.diff(start), self.distance.ravel()
        following = self._ports[0].ravel()[place] * self.n_switches
        following += np.repeat(np.tile(count_up(self.n_switches), self.n_switches), choices)
        ways = np.ones(len(choices), dtype=np.int64)
        for length in range(1, self.diameter + 1):
            cells = np.flatnonzero(distance == length)
            beyond = ways[following[np.repeat(distance == length, choices)]]
            most = np.maximum.reduceat(beyond, np.cumsum(choices[cells]) - choices[cells])
            ways[cells] = np.minimum(choices[cells] * most, MAX_WAYS)
        used = np.unique(self.home)
        return int(ways.reshape(self.distance.shape)[np.ix_(used, used)].max())

    def paths(self, src: Ints, dst: Ints, key: Ints) -> Ints:
        """Links between end points: ``[n, 2 + diameter]``, with gaps.

        At every switch the key, modulo the cables that lead nearer, picks one; what is left of it goes on.
        """
        links = np.full((len(src), 2 + self.diameter), NO_LINK, dtype=np.int64)
        links[:, 0], links[:, -1] = 2 * src, 2 * dst + 1
        start, place = self._nearer
        neighbour, out = (ports.ravel() for ports in self._ports)
        here, to, left = self.home[src], self.home[dst], key
        for column in range(1, 1 + self.diameter):
            pair = here * self.n_switches + to
            choices = start[pair + 1] - start[pair]
            going = choices > 0
            left, pick = np.divmod(left, np.maximum(choices, 1))
            chosen = place[np.where(going, start[pair] + pick, 0)]
            links[:, column] = np.where(going, out[chosen], NO_LINK)
            here = np.where(going, neighbour[chosen], here)
        return links


def distances(neighbour: Ints) -> NDArray[np.int16]:
    """Cables of the shortest way between any two switches.

    Args:
        neighbour: ``[n, max_degree]``, filled up with the switch itself.

    Returns:
        ``[n, n]``; -1 where there is no way.
    """
    n = len(neighbour)
    result = np.full((n, n), -1, dtype=np.int16)
    reached = np.eye(n, dtype=np.bool_)
    result[reached] = 0
    frontier, length = reached, 0
    while frontier.any():
        length += 1
        packed = np.packbits(reached, axis=1)
        grown = np.unpackbits(np.bitwise_or.reduce(packed[neighbour.T], axis=0), axis=1, count=n).astype(np.bool_)
        frontier = grown & ~reached
        result[frontier] = length
        reached = reached | grown
    return result


def max_flow_bytes_per_s(mesh: Mesh, left: Bools) -> float:
    """The most that end points on the left can send to the others.

    Rates are counted in units of their greatest common divisor, or rounded down to parts of 2^-31 of their sum.

    Args:
        mesh: switches and cables.
        left: ``[n_endpoints]``, whether each is on the left.
    """
    from scipy.sparse import coo_array, csr_array  # noqa: PLC0415 - heavy, and only this needs it
    from scipy.sparse.csgraph import maximum_flow  # noqa: PLC0415

    n, trunks = mesh.n_switches, mesh.trunks
    access = np.asarray(mesh.endpoints.wire.bandwidth_bytes_per_s)
    sides = [np.bincount(mesh.home[side], access[side], minlength=n) for side in (left, ~left)]
    every = count_up(n)
    tail = np.concatenate([trunks.a, trunks.b, np.full(n, n), every])
    head = np.concatenate([trunks.b, trunks.a, every, np.full(n, n + 1)])
    rate = np.rint(np.concatenate([trunks.bandwidth_bytes_per_s, trunks.bandwidth_bytes_per_s, *sides])).astype(
        np.int64
    )
    unit = max(int(np.gcd.reduce(rate)), -(-int(rate.sum()) // (2**31 - 1)))
    capacity = coo_array(((rate // unit).astype(np.int32), (tail, head)), shape=(n + 2, n + 2))
    flow = maximum_flow(csr_array(capacity), n, n + 1).flow_value
    return float(flow) * unit
