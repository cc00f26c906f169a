"""One two-level fat tree with a leaf for each rail of a group of nodes (the MRFT of arXiv 2505.09343)."""

from __future__ import annotations

import numpy as np

from ffsim.topology.arrays import Ints, Wire
from ffsim.topology.endpoints import Endpoints, spread
from ffsim.topology.fabric_spec import RailOptimizedSpec
from ffsim.topology.forest import Shape, build_forest, cables_up, check_switches, ports_down, refusal
from ffsim.topology.two_level import Planes


def build_rails(spec: RailOptimizedSpec, ports: int, endpoints: Endpoints, trunk: Wire) -> Planes:
    """Wire one tree whose leaf ``group * rails + rail`` holds NIC ``rail`` of every node of the group.

    Storage ports are spread evenly over all leaves. Traffic of one rail within a group turns at its leaf. Other rails
    are reached both ways: over the spines to the destination's own NIC, which is what routes do (NCCL without PXN), or
    over NVLink in the source's node and then on the destination's rail, which is for a collective to ask for by sending
    to the GPU in between.

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
    return Planes(forest=build_forest(shape, endpoints, (leaf, slot), down, trunk))


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
