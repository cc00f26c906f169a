"""Two two-level fat trees joined by a few cables (Fire-Flyer 2, arXiv 2408.14158)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ffsim.topology.arrays import NO_LINK, Cables, Ints, Kinds, LinkKind, VertexKind, Wire, count_up, kinds
from ffsim.topology.endpoints import Endpoints, spread
from ffsim.topology.fabric_spec import TwoZoneSpec
from ffsim.topology.forest import Forest, Shape, build_forest, check_switches, refusal


@dataclass(frozen=True, kw_only=True, eq=False)
class Zones:
    """Two zones and the switches between them.

    Inter-zone cable ``k`` of either zone ends at inter-zone switch ``k % n_joints``; they follow the forest's cables,
    zone by zone, and their switches follow the forest's.

    Attributes:
        zone: ``[n_endpoints]``.
        border: ``[2, n_links]``, the leaf at the zone's end of each inter-zone cable.
        n_joints: inter-zone switches.
    """

    forest: Forest
    zone: Ints
    border: Ints
    n_joints: int

    @property
    def n_planes(self) -> int:
        """One: every end point reaches every other."""
        return 1

    @property
    def switch_kind(self) -> Kinds:
        """``[n_switches]`` kind codes."""
        return np.append(self.forest.switch_kind, kinds((VertexKind.INTERZONE, self.n_joints)))

    @property
    def oversubscription(self) -> float:
        """Of the worst leaf."""
        return self.forest.oversubscription

    @cached_property
    def cables(self) -> Cables:
        """All cables."""
        forest = self.forest
        joint = forest.n_vertices + np.tile(count_up(self.border.shape[1]) % self.n_joints, 2)
        joints = Cables.between(forest.first_leaf + self.border.ravel(), joint, forest.trunk, LinkKind.INTERZONE)
        return Cables.joined([forest.cables, joints])

    @property
    def bisection_bytes_per_s(self) -> float:
        """The worse of: zone from zone, and the halves of each zone."""
        joints = self.border.shape[1] * self.forest.trunk.bandwidth_bytes_per_s
        reach = self.forest.reach_bytes_per_s.sum(axis=1)
        return min(float(np.min([joints, *reach])), self.forest.bisection_bytes_per_s())

    @cached_property
    def slot(self) -> Ints:
        """``[n_endpoints]``: number modulo the inter-zone cables, and place on the leaf, as `paths` reads its key."""
        n_links = self.border.shape[1]
        slot: Ints = count_up(len(self.zone)) % n_links + n_links * self.forest.slot
        return slot

    @cached_property
    def n_ways(self) -> int:
        """Inter-zone cables, each with every pair of spines."""
        return int(self.border.shape[1]) * self._places * self._places

    @cached_property
    def _places(self) -> int:
        """More than any place on a leaf, and no fewer than its cables up."""
        return max(self.forest.n_ways, int(self.forest.slot.max()) + 1)

    def paths(self, src: Ints, dst: Ints, key: Ints) -> Ints:
        """Links between end points: ``[n, 8]``, with gaps.

        From zone to zone: leaf, spine, border leaf, inter-zone switch, border leaf, spine, leaf. The key, modulo the
        inter-zone cables, picks one of them; the rest of it picks the spines: the same place in both zones for D-mod-K,
        other pairs for larger keys.
        """
        forest, n_links = self.forest, self.border.shape[1]
        src_leaf, dst_leaf = forest.leaf[src], forest.leaf[dst]
        across = self.zone[src] != self.zone[dst]
        rest = key // n_links
        cable = key - rest * n_links
        exit_leaf = np.where(across, self.border[self.zone[src], cable], dst_leaf)
        entry_leaf = np.where(across, self.border[self.zone[dst], cable], dst_leaf)
        out = 2 * (forest.n_cables + self.zone[src] * n_links + cable)
        back = 2 * (forest.n_cables + self.zone[dst] * n_links + cable) + 1
        return np.column_stack(
            [
                2 * src,
                forest.crossing(src_leaf, exit_leaf, rest),
                np.where(across, out, NO_LINK),
                np.where(across, back, NO_LINK),
                forest.crossing(entry_leaf, dst_leaf, rest + rest // self._places),
                2 * dst + 1,
            ]
        )


def build_zones(spec: TwoZoneSpec, ports: int, endpoints: Endpoints, trunk: Wire) -> Zones:
    """Wire both zones; compute nodes are split in the middle, storage NIC ``i`` belongs to zone ``i``.

    Raises:
        ScenarioError: more ports are needed than there are.
    """
    leaves, n_links = spec.leaves_per_zone, spec.interzone_links_per_zone.value
    check_switches(leaves, spec.spines_per_zone, ports)
    needed = 2 * -(-n_links // spec.interzone_switches)
    if needed > ports:
        raise refusal(
            f"an inter-zone switch needs {needed} ports and has {ports}",
            "use fewer interzone_links_per_zone or more interzone_switches",
        )
    half = -(-(int(endpoints.node[~endpoints.storage].max()) + 1) // 2)
    zone = np.where(endpoints.storage, endpoints.nic, (endpoints.node >= half).astype(np.int64))
    tree = np.append(zone, np.repeat(count_up(2), n_links))
    group = np.append(endpoints.storage.astype(np.int64), np.full(2 * n_links, 2, dtype=np.int64))
    leaf, slot = spread(tree, group, leaves)
    n = len(endpoints)
    shape = Shape(
        n_trees=2, leaves=leaves, spines=spec.spines_per_zone, ports=ports, spine_ports=ports, most_up=ports // 2
    )
    down = np.bincount(leaf, minlength=2 * leaves)
    forest = build_forest(shape, endpoints, (leaf[:n], slot[:n]), down, trunk)
    return Zones(forest=forest, zone=zone, border=leaf[n:].reshape(2, n_links), n_joints=spec.interzone_switches)
