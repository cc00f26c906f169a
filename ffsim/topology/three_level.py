"""One non-blocking three-level fat tree: pods, which are two-level trees, under core switches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ffsim.topology.arrays import NO_LINK, Cables, Ints, Kinds, LinkKind, VertexKind, Wire, kinds
from ffsim.topology.endpoints import Endpoints, spread
from ffsim.topology.forest import Forest, Shape, build_forest, first_half, refusal
from ffsim.topology.stage import Stage


@dataclass(frozen=True, kw_only=True, eq=False)
class Pods:
    """Pods and the cores that join them.

    Spines are taken in groups of ``merged``, the same in every pod; a group has cores of its own, and the unit
    ``group * n_pods + pod`` of the stage is what a pod gives to a group: cable ``i`` leaves its spine ``i // up``.

    Attributes:
        cores: the stage between pods and cores; its cables follow the forest's, its switches the forest's switches.
        merged: spines of one pod that share cores.
    """

    forest: Forest
    cores: Stage
    merged: int

    @property
    def n_planes(self) -> int:
        """One: every end point reaches every other."""
        return 1

    @property
    def switch_kind(self) -> Kinds:
        """``[n_switches]`` kind codes."""
        n_cores = len(self.cores.up) * self.cores.n_upper
        return np.append(self.forest.switch_kind, kinds((VertexKind.CORE, n_cores)))

    @cached_property
    def cables(self) -> Cables:
        """All cables."""
        forest = self.forest
        unit, cable, core = self.cores.ends()
        group, pod = np.divmod(unit, forest.shape.n_trees)
        spine = pod * forest.shape.spines + group * self.merged + cable // self._up
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

    def paths(self, src: Ints, dst: Ints) -> Ints:
        """Links between end points: ``[n, 6]``, with gaps.

        D-mod-K: the destination's place on its leaf picks its spine, the place of the leaf in the pod picks the core
        (both are below the modulus, half a switch's ports). So all pods come down on a destination by one way.
        """
        forest, n_pods = self.forest, self.forest.shape.n_trees
        src_leaf, dst_leaf, key = forest.leaf[src], forest.leaf[dst], forest.slot[dst]
        src_pod, dst_pod = src_leaf // forest.shape.leaves, dst_leaf // forest.shape.leaves
        near = src_pod == dst_pod
        within = forest.crossing(src_leaf, np.where(near, dst_leaf, src_leaf), key)

        group, spine = np.divmod(forest.stage.upper(dst_leaf, key), self.merged)
        source, destination = group * n_pods + src_pod, group * n_pods + dst_pod
        down = spine * self._up + dst_leaf % forest.shape.leaves
        up = self.cores.cable_to(source, self.cores.upper(destination, down), self.cores.turn(destination, down))
        src_spine = group * self.merged + up // self._up
        first = forest.stage.cable_to(src_leaf, src_spine, forest.stage.turn(dst_leaf, key))
        over = np.column_stack(
            [
                forest.uplink(src_leaf, first),
                2 * (forest.n_cables + self.cores.first[source] + up),
                2 * (forest.n_cables + self.cores.first[destination] + down) + 1,
                forest.uplink(dst_leaf, key) + 1,
            ]
        )
        middle = np.full_like(over, NO_LINK)
        middle[:, [0, 3]] = within
        middle[~near] = over[~near]
        return np.column_stack([2 * src, middle, 2 * dst + 1])

    @property
    def _up(self) -> int:
        """Cables up of a leaf, and of a spine: half the ports, as nothing is oversubscribed."""
        return self.forest.shape.ports // 2


def build_pods(ports: int, endpoints: Endpoints, trunk: Wire) -> Pods:
    """Wire as many pods as the end points need, and as few cores as give every spine cable a port.

    Pods are alike. Spines share cores in groups of the size that needs the fewest switches: with 25 pods of 20 spines
    and 40 ports, 500 cables of one spine position would fill 12.5 cores, the 1,000 of two positions fill 25.

    Raises:
        ScenarioError: more end points than three levels can join.
    """
    half, n = ports // 2, len(endpoints)
    n_pods = -(-n // half**2)
    if n_pods > ports:
        raise refusal(
            f"{n:,} end points are needed, and three levels of {ports}-port switches offer {ports * half**2:,}",
            "use fewer nodes, or several planes of kind two_level",
        )
    width = -(-n // (n_pods * half))
    leaf, slot = spread(np.zeros(n, dtype=np.int64), endpoints.storage.astype(np.int64), n_pods * width)
    down = np.bincount(leaf, minlength=n_pods * width)
    shape = Shape(n_trees=n_pods, leaves=width, spines=width, ports=ports, spine_ports=half)
    forest = build_forest(shape, endpoints, (leaf, slot), down, trunk)
    _, merged, n_cores = min(
        (width // merged * cores, merged, cores)
        for merged in range(1, width + 1)
        if width % merged == 0
        for cores in [-(-n_pods * merged * half // ports)]
    )
    up = np.full((width // merged, n_pods), merged * half, dtype=np.int64)
    return Pods(forest=forest, cores=Stage.deal(up, n_cores), merged=merged)
