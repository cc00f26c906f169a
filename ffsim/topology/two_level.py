"""Independent two-level fat trees, one a plane (the multi-plane fat tree of arXiv 2505.09343)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.topology.arrays import Cables, Ints, Kinds, Wire
from ffsim.topology.endpoints import Endpoints, spread
from ffsim.topology.forest import Forest, Shape, build_forest, check_switches, refusal
from ffsim.topology.spec import TwoLevelSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planes:
    """A forest of planes: nothing joins them but the nodes."""

    forest: Forest

    @property
    def n_planes(self) -> int:
        """Planes."""
        return self.forest.shape.n_trees

    @property
    def switch_kind(self) -> Kinds:
        """``[n_switches]`` kind codes."""
        return self.forest.switch_kind

    @property
    def cables(self) -> Cables:
        """All cables."""
        return self.forest.cables

    @property
    def bisection_bytes_per_s(self) -> float:
        """Between the halves of every plane: the first and the second half of the nodes."""
        return self.forest.bisection_bytes_per_s()

    def paths(self, src: Ints, dst: Ints) -> Ints:
        """Links between end points of one plane: ``[n, 4]``, with gaps."""
        forest = self.forest
        crossing = forest.crossing(forest.leaf[src], forest.leaf[dst], forest.slot[dst])
        return np.column_stack([2 * src, crossing, 2 * dst + 1])


def build_planes(spec: TwoLevelSpec, ports: int, endpoints: Endpoints, trunk: Wire) -> Planes:
    """Wire every plane.

    Without given counts: as many leaves as hold the end points with half their ports, and as many spines as give every
    cable up a port.

    Raises:
        ScenarioError: more ports are needed than there are.
    """
    plane = endpoints.nic % spec.planes
    half = ports // 2
    largest = int(np.bincount(plane).max())
    leaves = spec.leaves or -(-largest // half)
    if spec.leaves is None and leaves > ports:
        raise refusal(
            f"{largest:,} end points are needed a plane; two levels of {ports}-port switches offer {ports * half:,}",
            "use fewer nodes, more planes or kind three_level",
        )
    up = min(half, ports - largest // leaves)
    spines = spec.spines or (-(-leaves * up // ports) if leaves > 1 else 0)
    check_switches(leaves, spines, ports)
    leaf, slot = spread(plane, endpoints.storage.astype(np.int64), leaves)
    down = np.bincount(leaf, minlength=spec.planes * leaves)
    shape = Shape(n_trees=spec.planes, leaves=leaves, spines=spines, ports=ports, spine_ports=ports)
    return Planes(forest=build_forest(shape, endpoints, (leaf, slot), down, trunk))
