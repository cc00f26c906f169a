"""Independent two-level fat trees, one a plane (the multi-plane fat tree of arXiv 2505.09343)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.topology.arrays import Cables, Ints, Kinds, Wire
from ffsim.topology.endpoints import Endpoints, spread
from ffsim.topology.fabric_spec import TwoLevelSpec
from ffsim.topology.forest import Forest, Shape, build_forest, cables_up, check_switches, ports_down, refusal


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
    def oversubscription(self) -> float:
        """Of the worst leaf."""
        return self.forest.oversubscription

    @property
    def cables(self) -> Cables:
        """All cables."""
        return self.forest.cables

    @property
    def bisection_bytes_per_s(self) -> float:
        """Between the halves of every plane: the first and the second half of the nodes."""
        return self.forest.bisection_bytes_per_s()

    @property
    def slot(self) -> Ints:
        """``[n_endpoints]``: place on the leaf."""
        return self.forest.slot

    @property
    def n_ways(self) -> int:
        """Cables up of a leaf."""
        return self.forest.n_ways

    def paths(self, src: Ints, dst: Ints, key: Ints) -> Ints:
        """Links between end points of one plane: ``[n, 4]``, with gaps."""
        forest = self.forest
        crossing = forest.crossing(forest.leaf[src], forest.leaf[dst], key)
        return np.column_stack([2 * src, crossing, 2 * dst + 1])


def build_planes(spec: TwoLevelSpec, ports: int, endpoints: Endpoints, trunk: Wire) -> Planes:
    """Wire every plane.

    Without given counts: as many leaves as hold the end points with half their ports (at an oversubscription: with what
    the cables up leave), and as many spines as give every cable up a port.

    Raises:
        ScenarioError: more ports are needed than there are.
    """
    plane = endpoints.nic % spec.planes
    below = ports_down(ports, spec.oversubscription)
    largest = int(np.bincount(plane).max())
    leaves = spec.leaves or -(-largest // below)
    if spec.leaves is None and leaves > ports:
        raise refusal(
            f"{largest:,} end points are needed a plane; two levels of {ports}-port switches offer {ports * below:,}",
            "use fewer nodes, more planes or kind three_level",
        )
    most_up = cables_up(ports, -(-largest // leaves), spec.oversubscription)
    up = min(most_up, ports - largest // leaves)
    spines = spec.spines or (-(-leaves * up // ports) if leaves > 1 else 0)
    check_switches(leaves, spines, ports)
    leaf, slot = spread(plane, endpoints.storage.astype(np.int64), leaves)
    down = np.bincount(leaf, minlength=spec.planes * leaves)
    shape = Shape(n_trees=spec.planes, leaves=leaves, spines=spines, ports=ports, spine_ports=ports, most_up=most_up)
    return Planes(forest=build_forest(shape, endpoints, (leaf, slot), down, trunk))
