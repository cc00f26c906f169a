"""One two-level fat tree with a leaf for each rail of a group of nodes (the MRFT of arXiv 2505.09343)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.topology.arrays import Cables, Ints, Kinds, Wire
from ffsim.topology.endpoints import Endpoints, spread
from ffsim.topology.fabric_spec import RailOptimizedSpec
from ffsim.topology.forest import Forest, Shape, build_forest, cables_up, check_switches, ports_down, refusal


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rails:
    """A tree whose leaf ``group * rails + rail`` holds NIC ``rail`` of every node of the group.

    Traffic of one rail within a group turns at its leaf. Other rails are reached both ways: over the spines to the
    destination's own NIC, which is what routes do (NCCL without PXN), or over NVLink in the source's node and then on
    the destination's rail, which is for a collective to ask for by sending to the GPU in between.
    """

    forest: Forest

    @property
    def n_planes(self) -> int:
        """One: spines join all rails."""
        return 1

    @property
    def switch_kind(self) -> Kinds:
        """``[n_switches]`` kind codes."""
        return self.forest.switch_kind

    @property
    def cables(self) -> Cables:
        """All cables."""
        return self.forest.cables

    @property
    def oversubscription(self) -> float:
        """Of the worst leaf."""
        return self.forest.oversubscription

    @property
    def bisection_bytes_per_s(self) -> float:
        """Between the first and the second half of the leaves."""
        return self.forest.bisection_bytes_per_s()

    @property
    def slot(self) -> Ints:
        """``[n_endpoints]``: place on the leaf."""
        return self.forest.slot

    @property
    def n_ways(self) -> int:
        """Cables up of the leaf that has most."""
        return self.forest.n_ways

    def paths(self, src: Ints, dst: Ints, key: Ints) -> Ints:
        """Links between end points: ``[n, 4]``, with gaps; the key picks the spine."""
        forest = self.forest
        crossing = forest.crossing(forest.leaf[src], forest.leaf[dst], key)
        return np.column_stack([2 * src, crossing, 2 * dst + 1])


def build_rails(spec: RailOptimizedSpec, ports: int, endpoints: Endpoints, trunk: Wire) -> Rails:
    """Wire the groups; storage ports are spread evenly over all leaves.

    Raises:
        ScenarioError: more ports are needed than there are.
    """
    rails, n_nodes = (
        int(endpoints.nic[: endpoints.n_compute].max()) + 1,
        int(endpoints.node[: endpoints.n_compute].max()) + 1,
    )
    below = ports_down(ports, spec.oversubscription)
    per_group = spec.nodes_per_group
    if per_group is None:
        per_group = -(-n_nodes // -(-len(endpoints) // (rails * below)))
    leaves = rails * -(-n_nodes // per_group)
    if leaves > ports:
        raise refusal(
            f"{n_nodes:,} nodes in groups of {per_group} need {leaves:,} leaf switches, and spines of {ports} ports "
            f"join {ports}",
            "use fewer nodes or larger groups",
        )
    leaf, slot = _place(endpoints, rails, per_group, leaves)
    down = np.bincount(leaf, minlength=leaves)
    most_up = cables_up(ports, int(down.max()), spec.oversubscription)
    up = min(most_up, ports - int(down.max()))
    spines = spec.spines or (-(-leaves * up // ports) if leaves > 1 else 0)
    check_switches(leaves, spines, ports)
    shape = Shape(n_trees=1, leaves=leaves, spines=spines, ports=ports, spine_ports=ports, most_up=most_up)
    return Rails(forest=build_forest(shape, endpoints, (leaf, slot), down, trunk))


def _place(endpoints: Endpoints, rails: int, per_group: int, leaves: int) -> tuple[Ints, Ints]:
    """Leaf and place on it of every end point: compute ports by group and rail, storage ports evenly on top."""
    n = endpoints.n_compute
    group, place = np.divmod(endpoints.node[:n], per_group)
    leaf = group * rails + endpoints.nic[:n]
    n_storage = len(endpoints) - n
    if not n_storage:
        return leaf, place
    zeros = np.zeros(n_storage, dtype=np.int64)
    storage_leaf, storage_place = spread(zeros, zeros, leaves)
    storage_place += np.bincount(leaf, minlength=leaves)[storage_leaf]
    return np.append(leaf, storage_leaf), np.append(place, storage_place)
