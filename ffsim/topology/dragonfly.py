"""Dragonflies: groups of fully meshed switches, joined group to group by global cables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ffsim.errors import Problem, ScenarioError
from ffsim.topology.arrays import NO_LINK, Cables, Ints, Kinds, LinkKind, VertexKind, Wire, count_up, kinds
from ffsim.topology.endpoints import Endpoints, spread_over
from ffsim.topology.fabric_spec import DragonflySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DragonflyShape:
    """How many of what.

    Attributes:
        endpoints: of a switch, at most.
        switches: of a group.
        global_links: ports of a switch that face other groups.
    """

    endpoints: int
    switches: int
    global_links: int
    groups: int

    @property
    def ports(self) -> int:
        """Ports that a switch needs."""
        return self.endpoints + self.switches - 1 + self.global_links

    @property
    def global_ports(self) -> int:
        """Ports of a group that face other groups."""
        return self.switches * self.global_links

    @property
    def most_groups(self) -> int:
        """Groups that can all be joined."""
        return self.global_ports + 1

    @property
    def local_cables(self) -> int:
        """Cables within one group."""
        return self.switches * (self.switches - 1) // 2

    def partner(self) -> tuple[Ints, Ints, Ints]:
        """Where the global ports of any group lead.

        Port ``j`` belongs to switch ``j // global_links``. Ports go to the groups ahead in turn, as often as all can be
        reached; ports left over go in pairs ahead and behind, so that any two groups have as many cables as any others,
        or one more. An odd port left over in every group of an odd number of groups stays free.

        Returns:
            ``[n]`` port; how many groups ahead the port's partner is (1 to groups - 1); the partner's port.
        """
        others = self.groups - 1
        if not others:
            return count_up(0), count_up(0), count_up(0)
        rounds, left = divmod(self.global_ports, others)
        turn, ahead = np.divmod(count_up(rounds * others), others)
        near = count_up(min(left // 2, others // 2))
        last = [*near.tolist(), *(others - 1 - near[::-1]).tolist()]
        if left % 2 and others % 2:
            last.insert(len(near), others // 2)
        ahead = np.append(ahead, np.array(last, dtype=np.int64))
        port = count_up(len(ahead))
        base = np.append(turn * others, np.full(len(last), rounds * others, dtype=np.int64))
        size = np.append(np.full(rounds * others, others), np.full(len(last), len(last)))
        partner: Ints = 2 * base + size - 1 - port  # in its round the partner's place is the same, counted from the end
        return port, ahead + 1, partner


@dataclass(frozen=True, kw_only=True, eq=False)
class Dragonfly:
    """Groups and the cables within and between them.

    Vertices: the end points, then the switches, group by group. Cables: cable ``e`` joins end point ``e`` to its
    switch; then come those within groups, group by group, pair by pair; then the global ones, in order of the lower
    group's port.

    Domain: shortest ways only (at most one cable within a group, one between groups, one within a group). Ways over a
    third group, deadlocks and the virtual channels that prevent them are not modelled.

    Attributes:
        home: ``[n_endpoints]``, the switch of each.
        slot: ``[n_endpoints]``: end points counted switch by switch, so that the ways to one switch are used in turn.
        trunk: what a cable between switches carries.
    """

    shape: DragonflyShape
    endpoints: Endpoints
    home: Ints
    slot: Ints
    trunk: Wire

    @property
    def n_planes(self) -> int:
        """One: every end point reaches every other."""
        return 1

    @property
    def switch_kind(self) -> Kinds:
        """``[n_switches]`` kind codes."""
        return kinds((VertexKind.LEAF, self.shape.groups * self.shape.switches))

    @property
    def oversubscription(self) -> float:
        """End points over cables to other switches, of the worst switch; 1 where a single switch joins everything."""
        shape = self.shape
        degree = np.full((shape.groups, shape.switches), shape.switches - 1)
        degree += np.bincount(shape.partner()[0] // shape.global_links, minlength=shape.switches)
        down = np.bincount(self.home, minlength=degree.size)
        return float((down / degree.ravel()).max()) if degree.all() else 1.0

    @cached_property
    def cables(self) -> Cables:
        """All cables."""
        shape, n = self.shape, len(self.endpoints)
        access = Cables.between(count_up(n), n + self.home, self.endpoints.wire, LinkKind.ACCESS)
        first = n + shape.switches * count_up(shape.groups)[:, None]
        near, far = np.triu_indices(shape.switches, 1)
        local = Cables.between((first + near).ravel(), (first + far).ravel(), self.trunk, LinkKind.LOCAL)
        group, port, other, other_port = self._pairs
        ends = [n + g * shape.switches + p // shape.global_links for g, p in ((group, port), (other, other_port))]
        return Cables.joined([access, local, Cables.between(ends[0], ends[1], self.trunk, LinkKind.GLOBAL)])

    @property
    def bisection_bytes_per_s(self) -> float:
        """Between the first and the second half of the groups; of the switches of an only group."""
        shape, rate = self.shape, float(self.trunk.bandwidth_bytes_per_s)
        size = shape.groups if shape.groups > 1 else shape.switches
        unit = self.home // (shape.switches if shape.groups > 1 else 1)
        access = np.bincount(unit, self.endpoints.wire.bandwidth_bytes_per_s, minlength=size)
        if size == 1:
            return float(access.sum()) / 2
        half = size // 2
        group, _, other, _ = self._pairs
        across = int(((group < half) != (other < half)).sum()) if shape.groups > 1 else half * (size - half)
        return min(across * rate, float(access[:half].sum()), float(access[half:].sum()))

    @cached_property
    def n_ways(self) -> int:
        """Keys that give every shortest way between any two end points."""
        return int(self._choices[0].shape[-1])

    def paths(self, src: Ints, dst: Ints, key: Ints) -> Ints:
        """Links between end points: ``[n, 5]``, with gaps: up, local, global, local, down.

        Of the global cables between two groups the key picks one of those with the fewest links on the way.
        """
        shape = self.shape
        group, switch = np.divmod(self.home[src], shape.switches)
        goal, target = np.divmod(self.home[dst], shape.switches)
        links = np.full((len(src), 5), NO_LINK, dtype=np.int64)
        links[:, 0], links[:, 4] = 2 * src, 2 * dst + 1
        near = np.flatnonzero(group == goal)
        links[near, 1] = self._local(group[near], switch[near], target[near])
        far = np.flatnonzero(group != goal)
        ahead = (goal[far] - group[far]) % shape.groups - 1
        ends = ahead, switch[far], target[far]
        ports, counts = self._choices
        port = ports[(*ends, key[far] % counts[ends])]
        links[far, 1] = self._local(group[far], switch[far], port // shape.global_links)
        links[far, 2] = self._global_link[group[far], port]
        links[far, 3] = self._local(goal[far], self._partner_of[port] // shape.global_links, target[far])
        return links

    def _local(self, group: Ints, src: Ints, dst: Ints) -> Ints:
        """The link between switches of a group, none from a switch to itself."""
        low, high, a = np.minimum(src, dst), np.maximum(src, dst), self.shape.switches
        cable = group * self.shape.local_cables + low * (2 * a - low - 1) // 2 + high - low - 1
        return np.where(src == dst, NO_LINK, 2 * (len(self.endpoints) + cable) + (src > dst))

    @cached_property
    def _pairs(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Group and port at either end of every global cable."""
        shape = self.shape
        port, ahead, partner = shape.partner()
        group = np.repeat(count_up(shape.groups), len(port))
        port, partner = np.tile(port, shape.groups), np.tile(partner, shape.groups)
        other = (group + np.tile(ahead, shape.groups)) % shape.groups
        once = group < other
        return group[once], port[once], other[once], partner[once]

    @cached_property
    def _global_link(self) -> Ints:
        """``[groups, global_ports]``, the link out of a port."""
        shape = self.shape
        group, port, other, partner = self._pairs
        first = len(self.endpoints) + shape.groups * shape.local_cables
        link = np.full((shape.groups, shape.global_ports), NO_LINK, dtype=np.int64)
        link[group, port] = 2 * (first + count_up(len(port)))
        link[other, partner] = 2 * (first + count_up(len(port))) + 1
        return link

    @cached_property
    def _partner_of(self) -> Ints:
        """``[global_ports]``, the port at the other end, the same for all groups."""
        port, _, partner = self.shape.partner()
        result = np.full(self.shape.global_ports, NO_LINK, dtype=np.int64)
        result[port] = partner
        return result

    @cached_property
    def _choices(self) -> tuple[Ints, Ints]:
        """Shortest ways between switches of different groups, which depend on how many groups ahead the other is.

        Returns:
            ``[groups - 1, switches, switches, n_ways]``, the ports by which they leave, and
            ``[groups - 1, switches, switches]``, how many there are.
        """
        shape = self.shape
        port, ahead, partner = shape.partner()
        every = count_up(shape.switches)
        found = []
        for step in range(1, shape.groups):
            out = port[ahead == step]
            leave = every[:, None] != out // shape.global_links
            arrive = every[:, None] != partner[ahead == step] // shape.global_links
            hops = leave[:, None, :].astype(np.int8) + arrive[None, :, :]
            shortest = hops == hops.min(axis=2, keepdims=True)
            order = np.argsort(~shortest, axis=2, kind="stable")
            counts = shortest.sum(axis=2)
            found.append((out[order[:, :, : int(counts.max())]], counts))
        width = max((ways.shape[2] for ways, _ in found), default=1)
        padded = [np.pad(ways, ((0, 0), (0, 0), (0, width - ways.shape[2]))) for ways, _ in found]
        if not found:
            return np.zeros((0, 0, 0, 1), dtype=np.int64), np.zeros((0, 0, 0), dtype=np.int64)
        return np.stack(padded), np.stack([counts for _, counts in found])


def dragonfly_shape(spec: DragonflySpec, ports: int, n_endpoints: int | None = None) -> DragonflyShape:
    """Fill in what the file leaves out: a balanced network (a = 2p = 2h), as few groups as needed or all there can be.

    Args:
        spec: of the cluster file.
        ports: of a switch.
        n_endpoints: to be joined; none for the largest network.

    Raises:
        ScenarioError: everything that does not fit.

    >>> dragonfly_shape(DragonflySpec(kind="dragonfly", switch="ndr-64x400g"), 64, 2048)
    DragonflyShape(endpoints=16, switches=32, global_links=16, groups=4)
    """
    quarter = max(1, (ports + 1) // 4)
    shape = DragonflyShape(
        endpoints=spec.endpoints_per_switch or quarter,
        switches=spec.switches_per_group or 2 * quarter,
        global_links=spec.global_links_per_switch or quarter,
        groups=spec.groups or 1,
    )
    if spec.groups is None:
        per_group = shape.endpoints * shape.switches
        shape = replace(shape, groups=shape.most_groups if n_endpoints is None else -(-n_endpoints // per_group))
    problems = [Problem(path="fabric", what=what, fix=fix) for what, fix in _misfits(shape, ports, n_endpoints or 0)]
    if problems:
        raise ScenarioError(problems)
    return shape


def _misfits(shape: DragonflyShape, ports: int, n_endpoints: int) -> Iterator[tuple[str, str]]:
    """What does not fit, and what to do about it."""
    offered = shape.groups * shape.switches * shape.endpoints
    if shape.ports > ports:
        parts = f"{shape.endpoints} for end points, {shape.switches - 1} for its group, {shape.global_links} for others"
        yield f"a switch needs {shape.ports} ports ({parts}) and has {ports}", "use fewer of one of them"
    if shape.groups > shape.most_groups:
        each = f"{shape.switches} switches with {shape.global_links} global links each"
        what = f"{shape.groups:,} groups are needed, and {each} join {shape.most_groups:,}"
        yield what, "use larger groups, more global links or fewer nodes"
    if n_endpoints > offered:
        yield f"{n_endpoints:,} end points are needed; {shape.groups:,} groups offer {offered:,}", "use more groups"


def build_dragonfly(spec: DragonflySpec, ports: int, endpoints: Endpoints, trunk: Wire) -> Dragonfly:
    """Wire a dragonfly; end points are spread evenly over its switches.

    Raises:
        ScenarioError: everything that does not fit.
    """
    shape = dragonfly_shape(spec, ports, len(endpoints))
    home, place = spread_over(shape.groups * shape.switches, endpoints, spec.order)
    return Dragonfly(shape=shape, endpoints=endpoints, home=home, slot=place + shape.endpoints * home, trunk=trunk)
