"""Routes from end to end: out of the node, over the fabric, into the other node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffsim.errors import ModelDomainError, Problem
from ffsim.topology.arrays import NO_LINK, Bools, Floats, Ints, count_up, hop_counts, packed
from ffsim.topology.endpoints import Endpoints
from ffsim.topology.fabric import Fabric
from ffsim.topology.hashing import hash_keys
from ffsim.topology.node import Node
from ffsim.topology.spec import RoutingRule
from ffsim.topology.spreading import WAYS_AT_ONCE, Spread, first_of_each, joined, merge, starts

MAX_CELLS = 2**27  # of the table of links; with their weights 1.6 GB
Links = NDArray[np.int32] | Ints
FLOWS_AT_ONCE = 2**15  # so many that their columns stay in the processor's cache


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routes:
    """The way of every flow.

    Attributes:
        links: ``[n_flows, n_columns]`` int32, link ids, then -1; each at most once a flow. A flow to itself has none.
            In the order of the way where a flow has only one.
        latency_s: ``[n_flows]``, one-way, zero-byte; of the longest where a flow has several ways.
        weight: ``[n_flows, n_columns]``, bytes on that link per byte of the flow (0 where there is no link), where
            flows have several ways; left out where each has one.
    """

    links: NDArray[np.int32]
    latency_s: Floats
    weight: Floats | None = None

    def __len__(self) -> int:
        return len(self.links)

    @property
    def n_hops(self) -> Ints:
        """``[n_flows]`` links of each flow, over all its ways."""
        return hop_counts(self.links)

    def lists(self) -> tuple[Ints, NDArray[np.int32], Floats | None]:
        """The same without gaps, as the engine takes it.

        Returns:
            ``[n_flows + 1]`` where the links of each flow begin, the links, and their weights where there are any.
        """
        used = self.links != NO_LINK
        return starts(self.n_hops), self.links[used], None if self.weight is None else self.weight[used]


class NoWayError(Exception):
    """Every way of a flow is broken.

    Attributes:
        link: a broken link that it would cross.
    """

    def __init__(self, link: int) -> None:
        super().__init__(link)
        self.link = link


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class How:
    """How routes are chosen, and what their links take.

    Attributes:
        message: one number for all flows or one for each; none where all messages of a pair take one way.
        latency_s: ``[n_links]``.
        dead: ``[n_links]``, links that carry nothing; left out where all work.
    """

    rule: RoutingRule
    message: Ints | None
    latency_s: Floats
    dead: Bools | None

    def along(self, links: Links) -> Floats:
        """Latency of the links of each row together."""
        latency: Floats = np.einsum("ij->i", self.latency_s[links] * (links != NO_LINK))
        return latency

    def broken(self, links: Links) -> Bools:
        """Rows that cross a dead link."""
        if self.dead is None:
            return np.zeros(len(links), dtype=np.bool_)
        broken: Bools = (self.dead[links] & (links != NO_LINK)).any(axis=1)
        return broken

    def refuse_broken(self, links: Links) -> None:
        """Raise if a row crosses a dead link."""
        if self.dead is not None:
            crossed = links[(links != NO_LINK) & self.dead[links]]
            if len(crossed):
                raise NoWayError(int(crossed[0]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ends:
    """Where some flows leave their nodes and arrive.

    Attributes:
        part: which of all flows these are.
        head, tail: ``[n_flows, any]`` links inside the nodes, with gaps.
        outside: ``[n_outside]``, those of the flows that cross the fabric.
        first, last: ``[n_outside]``, end points of those.
    """

    part: slice
    head: Links
    tail: Links
    outside: Ints
    first: Ints
    last: Ints

    def message(self, how: How) -> Ints | None:
        """``[n_outside]`` numbers of the messages that cross the fabric."""
        if how.message is None:
            return None
        return how.message[self.part][self.outside] if how.message.ndim else np.full(len(self.outside), how.message)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wiring:
    """What a route is made from: the numbering of the nodes, the end points and the fabric."""

    node: Node
    endpoints: Endpoints
    fabric: Fabric

    def find(self, src: ArrayLike, dst: ArrayLike, how: How) -> Routes:
        """Routes between vertices, as `Topology.routes` describes them.

        Raises:
            ValueError: an end is not a vertex that can send, or two storage ports share no plane.
            NoWayError: all ways of a flow are broken.
            ModelDomainError: more sprayed flows at once than fit in memory.
        """
        source, destination = np.broadcast_arrays(self._vertices(src), self._vertices(dst))
        return self._routes((self._ends(source, destination, part) for part in _parts(len(source))), how)

    def find_between_ports(self, src: ArrayLike, dst: ArrayLike, how: How) -> Routes:
        """Likewise between end points of the fabric: nothing inside the nodes is crossed.

        Raises:
            ValueError: no such end point, or two that share no plane.
            NoWayError: all ways of a flow are broken.
        """
        first, last = np.broadcast_arrays(self._end_points(src), self._end_points(dst))
        return self._routes((self._ports_only(first, last, part) for part in _parts(len(first))), how)

    def _routes(self, parts: Iterator[Ends], how: How) -> Routes:
        if how.rule.kind == "spray":
            kept = list(parts)
            codes = np.unique(np.concatenate([self._pairs(ends) for ends in kept]))
            ways = self._spray(codes, how, n_flows=sum(len(ends.head) for ends in kept))
            rows = (ways.rows(np.searchsorted(codes, self._pairs(ends))) for ends in kept)
            return _stacked([self._many(ends, row, how) for ends, row in zip(kept, rows, strict=True)])
        if how.rule.kind == "hash" and how.rule.queue_pairs > 1:
            return _stacked([self._many(ends, self._split(ends, how), how) for ends in parts])
        return _stacked([self._one(ends, how) for ends in parts])

    def _one(self, ends: Ends, how: How) -> Routes:
        """Routes of flows that take one way each."""
        paths = self._live_paths(ends.first, ends.last, self._keys(ends, how), how)
        width = ends.head.shape[1] + paths.shape[1]
        links = np.full((len(ends.head), width + ends.tail.shape[1]), NO_LINK, dtype=np.int32)
        links[:, : ends.head.shape[1]] = ends.head
        links[ends.outside, ends.head.shape[1] : width] = paths
        links[:, width:] = ends.tail
        how.refuse_broken(links)
        links = packed(links)
        return Routes(links=links, latency_s=how.along(links))

    def _keys(self, ends: Ends, how: How) -> Ints:
        if how.rule.kind == "hash":
            return hash_keys(ends.first, ends.last, seed=how.rule.seed, message=ends.message(how))
        return self.fabric.slot[ends.last if how.rule.kind == "d_mod_k" else ends.first]

    def _paths(self, first: Ints, last: Ints, key: Ints) -> Ints:
        paths = self.fabric.paths(first, last, key)
        return np.where(paths == NO_LINK, NO_LINK, paths + 2 * self.node.n_cables)

    def _live_paths(self, first: Ints, last: Ints, key: Ints, how: How) -> Ints:
        """Ways over the fabric; of broken ones the next that works, key by key."""
        paths = self._paths(first, last, key)
        blocked = np.flatnonzero(how.broken(paths))
        how.refuse_broken(np.where(self._access(paths[blocked]), paths[blocked], NO_LINK))
        for step in range(1, self.fabric.n_ways + 1):  # the last is the key itself, reduced
            if not len(blocked):
                break
            again = self._paths(first[blocked], last[blocked], (key[blocked] + step) % self.fabric.n_ways)
            paths[blocked] = again
            blocked = blocked[how.broken(again)]
        how.refuse_broken(paths[blocked])
        return paths

    def _access(self, links: Ints) -> Bools:
        """Links between an end point and its switch."""
        access: Bools = links < 2 * (self.node.n_cables + len(self.endpoints))
        return access

    def _many(self, ends: Ends, ways: Spread, how: How) -> Routes:
        """Routes of flows that take several ways each.

        Args:
            ends: where they leave and arrive.
            ways: a row for each flow that crosses the fabric: links between the cables of its end points.
            how: what links take, and which are dead.
        """
        n, offset = len(ends.head), 2 * self.node.n_cables
        access = np.full((n, 2), NO_LINK, dtype=np.int64)
        access[ends.outside] = offset + np.column_stack([2 * ends.first, 2 * ends.last + 1])
        own: Ints = np.column_stack([ends.head, access, ends.tail])
        how.refuse_broken(own)
        used = own != NO_LINK
        row = np.concatenate([np.repeat(count_up(n), used.sum(axis=1)), np.repeat(ends.outside, np.diff(ways.start))])
        order = np.argsort(row, kind="stable")
        counts = np.bincount(row, minlength=n)
        taken = count_up(int(counts.max(initial=0))) < counts[:, None]
        links, weight = np.full(taken.shape, NO_LINK, dtype=np.int32), np.zeros(taken.shape)
        links[taken] = np.concatenate([own[used], ways.links])[order]
        weight[taken] = np.concatenate([np.ones(int(used.sum())), ways.share])[order]
        latency = how.along(own)
        latency[ends.outside] += ways.latency_s
        return Routes(links=links, latency_s=latency, weight=weight)

    def _split(self, ends: Ends, how: How) -> Spread:
        """Ways of the queue pairs of every flow, each hashed by itself."""
        n, k, message = len(ends.outside), how.rule.queue_pairs, ends.message(how)
        row = np.repeat(count_up(n), k)
        first, last = ends.first[row], ends.last[row]
        numbers = None if message is None else message[row]
        keys = hash_keys(first, last, np.tile(count_up(k), n), how.rule.seed, numbers)
        paths = self._between(self._live_paths(first, last, keys, how))
        return merge(row, paths, np.full(len(row), 1 / k), how.along(paths), n)

    def _between(self, paths: Ints) -> Ints:
        return np.where(self._access(paths), NO_LINK, paths)

    def _pairs(self, ends: Ends) -> Ints:
        """A code for the switches at both ends of each flow, which decide the ways between them."""
        switch = self.fabric.cables.b
        pairs: Ints = switch[ends.first] * (int(switch.max()) + 1) + switch[ends.last]
        return pairs

    def _spray(self, codes: Ints, how: How, n_flows: int) -> Spread:
        """All ways between pairs of switches, with equal shares; refused once the flows' table must be too large."""
        switch, n_ways = self.fabric.cables.b, self.fabric.n_ways
        port = np.full(int(switch.max()) + 1, NO_LINK, dtype=np.int64)
        ports = count_up(len(self.endpoints))[::-1]
        port[switch[ports]] = ports  # the first end point of every switch
        first, last = port[codes // len(port)], port[codes % len(port)]
        at_once = max(1, WAYS_AT_ONCE // n_ways)
        parts = []
        for at in range(0, max(1, len(codes)), at_once):
            parts.append(self._spray_some(first[at : at + at_once], last[at : at + at_once], how))
            _check_size(n_flows, int(np.diff(parts[-1].start).max(initial=0)))
        return joined(parts)

    def _spray_some(self, first: Ints, last: Ints, how: How) -> Spread:
        n, n_ways = len(first), self.fabric.n_ways
        row = np.repeat(count_up(n), n_ways)
        paths = self._between(self._paths(first[row], last[row], np.tile(count_up(n_ways), n)))
        live = first_of_each(row, paths) & ~how.broken(paths)
        live_ways = np.bincount(row[live], minlength=n)
        if not live_ways.all():
            how.refuse_broken(paths[row == live_ways.argmin()])
        row, paths = row[live], paths[live]
        return merge(row, paths, 1 / live_ways[row], how.along(paths), n)

    def _ports_only(self, first: Ints, last: Ints, part: slice) -> Ends:
        first, last = first[part], last[part]
        plane_of_first, plane_of_last = (self.endpoints.nic[port] % self.fabric.n_planes for port in (first, last))
        if (plane_of_first != plane_of_last).any():
            raise ValueError("two ports in different planes: choose ports of one plane")
        outside, nothing = np.flatnonzero(first != last), np.zeros((len(first), 0), dtype=np.int64)
        return Ends(part=part, head=nothing, tail=nothing, outside=outside, first=first[outside], last=last[outside])

    def _ends(self, source: Ints, destination: Ints, part: slice) -> Ends:
        source, destination = source[part], destination[part]
        first, last = self._ports(source, destination)
        inside = self._same_node(source, destination)
        outside = ~inside & (source != destination)
        leaving, arriving = outside & ~self._is_storage(source), outside & ~self._is_storage(destination)
        within, out = (
            self.node.within(source[inside], destination[inside]),
            self.node.out(source[leaving], first[leaving]),
        )
        head = _placed((inside, within), (leaving, out))
        tail = _placed((arriving, self.node.into(last[arriving], destination[arriving])))
        return Ends(
            part=part, head=head, tail=tail, outside=np.flatnonzero(outside), first=first[outside], last=last[outside]
        )

    def _vertices(self, ends: ArrayLike) -> Ints:
        vertices = np.atleast_1d(np.asarray(ends, dtype=np.int64))
        compute = (vertices >= 0) & (vertices < (self.node.n_gpus if self.node.switched else self.node.first_port))
        good = compute | (self._is_storage(vertices) & (vertices < self.node.first_nic + len(self.endpoints)))
        if not good.all():
            hosts = "" if self.node.switched else ", hosts"
            raise ValueError(f"vertex {vertices[~good][0]} cannot send: ends are GPUs{hosts} and storage NICs")
        return vertices

    def _end_points(self, ends: ArrayLike) -> Ints:
        ports = np.atleast_1d(np.asarray(ends, dtype=np.int64))
        good = (ports >= 0) & (ports < len(self.endpoints))
        if not good.all():
            raise ValueError(f"there is no end point {ports[~good][0]}: they are 0 to {len(self.endpoints) - 1}")
        return ports

    def _is_storage(self, vertices: Ints) -> Bools:
        storage: Bools = vertices >= self.node.first_nic + self.endpoints.n_compute
        return storage

    def _same_node(self, source: Ints, destination: Ints) -> Bools:
        compute = ~self._is_storage(source) & ~self._is_storage(destination)
        same: Bools = compute & (self.node.of(source) == self.node.of(destination))
        return same

    def _ports(self, source: Ints, destination: Ints) -> tuple[Ints, Ints]:
        """End points by which flows leave and arrive, in one plane.

        Each end prefers its own NIC. Where the two differ in plane the destination takes the source's (its node's NIC
        of the same rail); a storage port cannot give way, so a source that is not one takes the port's.
        """
        first, last = self.own_port(source), self.own_port(destination)
        n_planes = self.fabric.n_planes
        plane_of_first, plane_of_last = (self.endpoints.nic[port] % n_planes for port in (first, last))
        shift = plane_of_first - plane_of_last
        fixed_first, fixed_last = self._is_storage(source), self._is_storage(destination)
        if (fixed_first & fixed_last & (shift != 0)).any():
            raise ValueError("two storage ports in different planes: choose ports of one plane")
        return np.where(fixed_last, first - shift, first), np.where(fixed_last, last, last + shift)

    def own_port(self, vertices: Ints) -> Ints:
        """End point that each GPU, host or storage NIC uses by itself."""
        port: Ints = np.where(self._is_storage(vertices), vertices - self.node.first_nic, self.node.own_nic(vertices))
        return port


def _parts(n: int) -> Iterator[slice]:
    """Slices that cover ``n`` flows, at least one."""
    return (slice(at, min(at + FLOWS_AT_ONCE, n)) for at in range(0, max(n, 1), FLOWS_AT_ONCE))


def _check_size(n_flows: int, n_columns: int) -> None:
    if n_flows * n_columns > MAX_CELLS:
        raise ModelDomainError(
            Problem(
                what=f"{n_flows:,} sprayed flows cross up to {n_columns:,} links each: more than {MAX_CELLS:,} in all",
                fix=f"route {MAX_CELLS // n_columns:,} flows at a time, or by another rule",
            )
        )


def _placed(*some: tuple[Bools, Ints]) -> NDArray[np.int32]:
    """Links of some rows, and of some others, among all rows."""
    width = max(links.shape[1] for _, links in some)
    result = np.full((len(some[0][0]), width), NO_LINK, dtype=np.int32)
    for rows, links in some:
        result[rows, : links.shape[1]] = links
    return result


def _stacked(parts: list[Routes]) -> Routes:
    """The routes of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    n, width = sum(len(part) for part in parts), max(part.links.shape[1] for part in parts)
    links, latency = np.full((n, width), NO_LINK, dtype=np.int32), np.empty(n)
    weight = None if parts[0].weight is None else np.zeros((n, width))
    at = 0
    for part in parts:
        rows, columns = slice(at, at + len(part)), slice(part.links.shape[1])
        links[rows, columns], latency[rows] = part.links, part.latency_s
        if weight is not None and part.weight is not None:
            weight[rows, columns] = part.weight
        at = rows.stop
    return Routes(links=links, latency_s=latency, weight=weight)
