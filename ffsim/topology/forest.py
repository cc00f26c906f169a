"""Two-level trees of leaf and spine switches side by side: what every fabric here is built from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ffsim.errors import Problem, ScenarioError
from ffsim.topology.arrays import (
    NO_LINK,
    Bools,
    Cables,
    Floats,
    Ints,
    Kinds,
    LinkKind,
    VertexKind,
    Wire,
    count_up,
    kinds,
)
from ffsim.topology.endpoints import Endpoints
from ffsim.topology.stage import Stage

ROUNDING = 1e-9  # a ratio such as 1.1 is not exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How many switches a forest has, and of what.

    Attributes:
        leaves, spines: switches of one tree.
        ports: ports of a switch.
        spine_ports: those of a spine that face leaves.
        most_up: cables up of a leaf, at most.
    """

    n_trees: int
    leaves: int
    spines: int
    ports: int
    spine_ports: int
    most_up: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """Two-level trees, wired.

    Vertices: the end points, then all leaves, then all spines, tree by tree. Cables: cable ``e`` joins end point ``e``
    to its leaf, then come those between leaves and spines (`Stage` order).

    Attributes:
        endpoints: what hangs below.
        leaf: ``[n_endpoints]``, counted over all trees.
        slot: ``[n_endpoints]``, place on the leaf: the key of D-mod-K.
        down: ``[n_leaves]``, leaf ports taken by end points and by cables that leave the forest.
        trunk: what a cable between switches carries.
    """

    shape: Shape
    endpoints: Endpoints
    leaf: Ints
    slot: Ints
    down: Ints
    stage: Stage
    trunk: Wire

    @property
    def n_leaves(self) -> int:
        """Leaves of all trees."""
        return self.shape.n_trees * self.shape.leaves

    @property
    def first_leaf(self) -> int:
        """Vertex of the first leaf."""
        return len(self.endpoints)

    @property
    def first_spine(self) -> int:
        """Vertex of the first spine."""
        return self.first_leaf + self.n_leaves

    @property
    def n_vertices(self) -> int:
        """End points and switches."""
        return self.first_spine + self.shape.n_trees * self.shape.spines

    @property
    def n_cables(self) -> int:
        """Cables of end points and between leaves and spines."""
        return len(self.endpoints) + int(self.stage.up.sum())

    @property
    def switch_kind(self) -> Kinds:
        """``[n_switches]`` kind codes."""
        spines = self.n_vertices - self.first_spine
        return kinds((VertexKind.LEAF, self.n_leaves), (VertexKind.SPINE, spines))

    @property
    def oversubscription(self) -> float:
        """Ports down over cables up of the worst leaf; 1 where a single leaf joins everything."""
        up = self.stage.up.ravel()
        return float((self.down / up).max()) if up.all() else 1.0

    @cached_property
    def n_ways(self) -> int:
        """Ways between two leaves of one tree: cables up of the leaf that has most."""
        return max(1, int(self.stage.up.max()))

    @cached_property
    def cables(self) -> Cables:
        """All cables, in the order the class describes."""
        access = Cables.between(
            count_up(len(self.endpoints)), self.first_leaf + self.leaf, self.endpoints.wire, LinkKind.ACCESS
        )
        leaf, _, spine = self.stage.ends()
        uplinks = Cables.between(self.first_leaf + leaf, self.first_spine + spine, self.trunk, LinkKind.LEAF_SPINE)
        return Cables.joined([access, uplinks])

    @cached_property
    def reach_bytes_per_s(self) -> Floats:
        """``[n_trees, leaves]``: what the end points of a leaf can exchange with other leaves."""
        access = np.bincount(self.leaf, self.endpoints.wire.bandwidth_bytes_per_s, minlength=self.n_leaves)
        trunk = self.stage.up * self.trunk.bandwidth_bytes_per_s
        reach: Floats = np.minimum(access.reshape(trunk.shape), trunk)
        return reach

    def bisection_bytes_per_s(self) -> float:
        """Rate between the first and the second half of the leaves of every tree, all trees together.

        Of each tree the narrowest layer counts: either half's end points and uplinks, or the spines between.
        """
        if self.shape.leaves == 1:
            return float(np.sum(self.endpoints.wire.bandwidth_bytes_per_s)) / 2
        left = first_half(self.shape.leaves)
        through = self.stage.through(left) * self.trunk.bandwidth_bytes_per_s
        sides = [self.reach_bytes_per_s[:, side].sum(axis=1) for side in (left, ~left)]
        return float(np.minimum.reduce([through, *sides]).sum())

    def crossing(self, src_leaf: Ints, dst_leaf: Ints, key: Ints) -> Ints:
        """Links between two leaves of one tree.

        The key, modulo the cables that both leaves have, picks the destination's cable and so the spine.

        Args:
            src_leaf: ``[n]``.
            dst_leaf: ``[n]``, each in the tree of its source.
            key: ``[n]``, not negative; the slot of the destination gives D-mod-K.

        Returns:
            ``[n, 2]`` links up and down; `NO_LINK` where both leaves are one.
        """
        links = np.full((len(key), 2), NO_LINK, dtype=np.int64)
        apart = np.flatnonzero(src_leaf != dst_leaf)
        source, destination = src_leaf[apart], dst_leaf[apart]
        up = self.stage.up.ravel()
        cable = key[apart] % np.minimum(up[source], up[destination])
        spine, turn = self.stage.upper(destination, cable), self.stage.turn(destination, cable)
        links[apart, 0] = self.uplink(source, self.stage.cable_to(source, spine, turn))
        links[apart, 1] = self.uplink(destination, cable) + 1
        return links

    def uplink(self, leaf: Ints, cable: Ints) -> Ints:
        """The link up of a leaf's cable; the one after it is the way down."""
        return 2 * (len(self.endpoints) + self.stage.first[leaf] + cable)


def first_half(n: int) -> Bools:
    """``[n]`` marks of the first ``n // 2``."""
    half: Bools = count_up(n) < n // 2
    return half


def build_forest(shape: Shape, endpoints: Endpoints, place: tuple[Ints, Ints], down: Ints, trunk: Wire) -> Forest:
    """Wire the leaves of every tree to its spines.

    A leaf has as many cables up as the shape allows; fewer when too many ports are taken below, or when the spines
    have no more to offer.

    Args:
        shape: switches.
        endpoints: what to join.
        place: leaf and slot of every end point, from `spread`.
        down: ``[n_leaves]`` leaf ports taken, all below.
        trunk: what a cable between switches carries.

    Raises:
        ScenarioError: more ports are needed than there are.
    """
    most = min(shape.most_up, shape.spines * shape.spine_ports // shape.leaves)
    up = np.minimum(most, shape.ports - down)
    kept = 1 if shape.leaves > 1 else 0
    if int(up.min()) < kept:
        needed, offered = down.reshape(shape.n_trees, -1).sum(axis=1).max(), shape.leaves * (shape.ports - kept)
        raise refusal(
            f"{needed:,} ports are needed below {shape.leaves} leaf switches, which offer {offered:,} "
            f"({shape.ports} each, less {kept} to reach a spine)",
            "use fewer nodes or more leaves",
        )
    stage = Stage.deal(up.reshape(shape.n_trees, shape.leaves), shape.spines)
    leaf, slot = place
    return Forest(shape=shape, endpoints=endpoints, leaf=leaf, slot=slot, down=down, stage=stage, trunk=trunk)


def ports_down(ports: int, oversubscription: float | None) -> int:
    """Ports of a switch that may face down, at so many for each cable up; half of all where nothing is said.

    As many as keep the ratio with the cables up, ports that are left over staying free; never less than half.

    Raises:
        ScenarioError: not one port is left to go up, or down.

    >>> ports_down(64, None), ports_down(64, 4.0), ports_down(40, 1.5)
    (32, 48, 24)
    """
    if ports < 2:
        raise refusal(f"a switch of {ports} port joins nothing", "use a switch of two ports or more")
    if oversubscription is None:
        return ports // 2
    up = int(ports / (1 + oversubscription) + ROUNDING)
    if up < 1:
        raise refusal(
            f"at oversubscription {oversubscription:g} a switch of {ports} ports has none to go up",
            f"use at most {ports - 1}",
        )
    return max(ports // 2, int(up * oversubscription + ROUNDING))


def cables_up(ports: int, down: int, oversubscription: float | None) -> int:
    """Cables up that so many ports down need; half of all ports where nothing is said."""
    return ports // 2 if oversubscription is None else math.ceil(down / oversubscription - ROUNDING)


def check_switches(leaves: int, spines: int, ports: int) -> None:
    """Refuse trees in which a spine cannot reach every leaf or a leaf cannot reach every spine.

    Raises:
        ScenarioError: there are too few ports on one of the two.
    """
    if leaves > ports:
        raise refusal(
            f"a spine needs {leaves} ports, one for each leaf, and has {ports}", "use fewer leaves, or three levels"
        )
    if spines > ports // 2:
        raise refusal(
            f"a leaf needs {spines} ports, one for each spine, and has {ports // 2} to spare", "use fewer spines"
        )


def refusal(what: str, fix: str) -> ScenarioError:
    """An error about the fabric section of a cluster file."""
    return ScenarioError(Problem(path="fabric", what=what, fix=fix))
