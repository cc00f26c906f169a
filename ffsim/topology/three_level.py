"""One three-level fat tree: pods, which are two-level trees, under core switches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ffsim.topology.arrays import NO_LINK, Cables, Ints, Kinds, LinkKind, VertexKind, Wire, kinds
from ffsim.topology.endpoints import Endpoints, spread
from ffsim.topology.fabric_spec import ThreeLevelSpec
from ffsim.topology.forest import Forest, Shape, build_forest, cables_up, first_half, ports_down, refusal
from ffsim.topology.stage import Stage


@dataclass(frozen=True, kw_only=True, eq=False)
class Pods:
    """Pods and the cores that join them.

    Spines are taken in groups of ``merged``, the same in every pod; a group has cores of its own, and the unit
    ``group * n_pods + pod`` of the stage is what a pod gives to a group: cable ``i`` leaves its spine ``i // up``.

    Attributes:
        cores: the stage between pods and cores; its cables follow the forest's, its switches the forest's switches.
        merged: spines of one pod that share cores.
        spine_up: cables up of a spine.
    """

    forest: Forest
    cores: Stage
    merged: int
    spine_up: int

    @property
    def leaf_up(self) -> int:
        """Cables up of a leaf."""
        return self.forest.shape.most_up

    @property
    def n_planes(self) -> int:
        """One: every end point reaches every other."""
        return 1

    @property
    def switch_kind(self) -> Kinds:
        """``[n_switches]`` kind codes."""
        n_cores = len(self.cores.up) * self.cores.n_upper
        return np.append(self.forest.switch_kind, kinds((VertexKind.CORE, n_cores)))

    @property
    def oversubscription(self) -> float:
        """Of the worst leaf or spine."""
        if self.forest.shape.n_trees == 1:
            return self.forest.oversubscription
        spines = self.forest.stage.up.sum(axis=1).max() / (self.forest.shape.spines * self.spine_up)
        return max(self.forest.oversubscription, float(spines))

    @cached_property
    def cables(self) -> Cables:
        """All cables."""
        forest = self.forest
        unit, cable, core = self.cores.ends()
        group, pod = np.divmod(unit, forest.shape.n_trees)
        spine = pod * forest.shape.spines + group * self.merged + cable // self.spine_up
        top = Cables.between(forest.first_spine + spine, forest.n_vertices + core, forest.trunk, LinkKind.SPINE_CORE)
        return Cables.joined([forest.cables, top])

    @property
    def bisection_bytes_per_s(self) -> float:
        """Between the first and the second half of the pods; between the halves of the only pod."""
        forest = self.forest
        if forest.shape.n_trees == 1:
            return forest.bisection_bytes_per_s()
        left = first_half(forest.shape.n_trees)
        through = float(self.cores.through(left).sum() * forest.trunk.bandwidth_bytes_per_s)
        reach = forest.reach_bytes_per_s.sum(axis=1)
        return min(through, float(reach[left].sum()), float(reach[~left].sum()))

    @cached_property
    def slot(self) -> Ints:
        """``[n_endpoints]``: place on the leaf, then place of the leaf in the pod, as `paths` reads its key."""
        slot: Ints = self.forest.slot + self.leaf_up * (self.forest.leaf % self.forest.shape.leaves)
        return slot

    @property
    def n_ways(self) -> int:
        """Cables up of a leaf, each with every cable up of a spine."""
        return self.leaf_up * self.spine_up

    def paths(self, src: Ints, dst: Ints, key: Ints) -> Ints:
        """Links between end points: ``[n, 6]``, with gaps.

        The key, modulo the cables up of a leaf, picks the destination's spine; the rest of it the core. By D-mod-K (the
        destination's place on its leaf and the place of that leaf in its pod) all pods come down on a destination by
        one way.
        """
        forest = self.forest
        src_leaf, dst_leaf = forest.leaf[src], forest.leaf[dst]
        near = src_leaf // forest.shape.leaves == dst_leaf // forest.shape.leaves
        middle = np.full((len(key), 4), NO_LINK, dtype=np.int64)
        middle[:, [0, 3]] = forest.crossing(src_leaf, np.where(near, dst_leaf, src_leaf), key)
        far = np.flatnonzero(~near)
        middle[far] = self._over(src_leaf[far], dst_leaf[far], key[far])
        return np.column_stack([2 * src, middle, 2 * dst + 1])

    def _over(self, src_leaf: Ints, dst_leaf: Ints, key: Ints) -> Ints:
        """Links between leaves of different pods: ``[n, 4]``."""
        forest, n_pods = self.forest, self.forest.shape.n_trees
        src_pod, dst_pod = src_leaf // forest.shape.leaves, dst_leaf // forest.shape.leaves
        upper, place = np.divmod(key, self.leaf_up)
        group, spine = np.divmod(forest.stage.upper(dst_leaf, place), self.merged)
        source, destination = group * n_pods + src_pod, group * n_pods + dst_pod
        down = spine * self.spine_up + upper % self.spine_up
        up = self.cores.cable_to(source, self.cores.upper(destination, down), self.cores.turn(destination, down))
        src_spine = group * self.merged + up // self.spine_up
        first = forest.stage.cable_to(src_leaf, src_spine, forest.stage.turn(dst_leaf, place))
        return np.column_stack(
            [
                forest.uplink(src_leaf, first),
                2 * (forest.n_cables + self.cores.first[source] + up),
                2 * (forest.n_cables + self.cores.first[destination] + down) + 1,
                forest.uplink(dst_leaf, place) + 1,
            ]
        )


def build_pods(spec: ThreeLevelSpec, ports: int, endpoints: Endpoints, trunk: Wire) -> Pods:
    """Wire as many pods as the end points need, and as few cores as give every spine cable a port.

    Pods are alike. Spines share cores in groups of the size that needs the fewest switches: with 25 pods of 20 spines
    and 40 ports, 500 cables of one spine position would fill 12.5 cores, the 1,000 of two positions fill 25. Where
    spines are oversubscribed more of their ports face down: pods are larger and have fewer spines than leaves.

    Raises:
        ScenarioError: more end points than three levels can join.
    """
    half, n = ports // 2, len(endpoints)
    below = ports_down(ports, spec.oversubscription)
    n_pods = -(-n // (half * below))
    if n_pods > ports:
        raise refusal(
            f"{n:,} end points are needed, and three levels of {ports}-port switches offer {ports * half * below:,}",
            "use fewer nodes, or several planes of kind two_level",
        )
    width = -(-n // (n_pods * half))
    leaf, slot = spread(np.zeros(n, dtype=np.int64), endpoints.storage.astype(np.int64), n_pods * width)
    down = np.bincount(leaf, minlength=n_pods * width)
    spines = -(-width * half // below)
    shape = Shape(n_trees=n_pods, leaves=width, spines=spines, ports=ports, spine_ports=below, most_up=half)
    forest = build_forest(shape, endpoints, (leaf, slot), down, trunk)
    spine_up = cables_up(ports, -(-width * half // spines), spec.oversubscription)
    _, merged, n_cores = min(
        (spines // merged * cores, merged, cores)
        for merged in range(1, spines + 1)
        if spines % merged == 0
        for cores in [-(-n_pods * merged * spine_up // ports)]
    )
    up = np.full((spines // merged, n_pods), merged * spine_up, dtype=np.int64)
    return Pods(forest=forest, cores=Stage.deal(up, n_cores), merged=merged, spine_up=spine_up)
