"""What a cluster file says about the fabric: one form for each kind."""

from __future__ import annotations

from typing import Literal

from ffsim.config import Count, Figure, Ratio, spec

MAX_MESH_SWITCHES = 4096  # routes over fabrics without levels are tabled, switch by switch


EndpointOrder = Literal["by_node", "by_rail"]


@spec
class TwoLevelSpec:
    """Independent two-level fat trees, one a plane; NIC ``i`` of every node goes to plane ``i % planes``.

    Attributes:
        leaves, spines: switches of one plane; left out, as many as full bisection needs.
        oversubscription: ports down over cables up of a leaf, where fewer spines than full bisection needs are wanted.
    """

    kind: Literal["two_level"]
    switch: str
    planes: Count = 1
    leaves: Count | None = None
    spines: Count | None = None
    oversubscription: Ratio | None = None

    def __post_init__(self) -> None:
        if self.oversubscription is not None and self.spines is not None:
            raise ValueError("spines and oversubscription both say how many cables go up: give one of them")


@spec
class TwoZoneSpec:
    """Two two-level fat trees joined by a few cables; each half of the nodes lives in one, storage in both.

    Attributes:
        interzone_links_per_zone: cables from leaves of one zone to the inter-zone switches. They take leaf ports.
    """

    kind: Literal["two_zone"]
    switch: str
    leaves_per_zone: Count
    spines_per_zone: Count
    interzone_switches: Count
    interzone_links_per_zone: Figure[Count]

    def __post_init__(self) -> None:
        links = self.interzone_links_per_zone.value
        if links < self.interzone_switches:
            raise ValueError(
                f"interzone_links_per_zone is {links}, too few for {self.interzone_switches} inter-zone switches: "
                "every switch needs a cable to each zone"
            )


@spec
class ThreeLevelSpec:
    """One three-level fat tree; its switches follow from the number of end points.

    Attributes:
        oversubscription: ports down over cables up of a spine; left out, nothing is oversubscribed. Leaves never are.
    """

    kind: Literal["three_level"]
    switch: str
    oversubscription: Ratio | None = None


@spec
class RailOptimizedSpec:
    """One two-level fat tree in which a group of nodes shares one leaf for each NIC: NIC ``i`` is on leaf ``i``.

    Attributes:
        nodes_per_group: left out, as many as a leaf has ports to spare, groups filled evenly.
        spines: left out, as many as full bisection needs.
        oversubscription: ports down over cables up of a leaf, instead of ``spines``.
    """

    kind: Literal["rail_optimized"]
    switch: str
    nodes_per_group: Count | None = None
    spines: Count | None = None
    oversubscription: Ratio | None = None

    def __post_init__(self) -> None:
        if self.oversubscription is not None and self.spines is not None:
            raise ValueError("spines and oversubscription both say how many cables go up: give one of them")


@spec
class DragonflySpec:
    """Groups of switches, every switch joined to all of its group and groups joined by global cables.

    Attributes:
        endpoints_per_switch, switches_per_group, global_links_per_switch: p, a and h of the literature; left out, the
            balanced a = 2p = 2h that fits the switch.
        groups: left out, as few as hold the end points; at most a * h + 1.
        order: what shares a switch: the same NIC of neighbouring nodes (``by_rail``), or all NICs of a node.
    """

    kind: Literal["dragonfly"]
    switch: str
    endpoints_per_switch: Count | None = None
    switches_per_group: Count | None = None
    global_links_per_switch: Count | None = None
    groups: Count | None = None
    order: EndpointOrder = "by_rail"


@spec
class SlimFlySpec:
    """A McKay-Miller-Siran graph of 2 q^2 switches, any two of them at most two cables apart.

    Attributes:
        q: left out, the smallest prime that holds the end points.
        endpoints_per_switch: left out, half the cables between switches that each has, rounded up.
        order: what shares a switch: the same NIC of neighbouring nodes (``by_rail``), or all NICs of a node.
    """

    kind: Literal["slim_fly"]
    switch: str
    q: Count | None = None
    endpoints_per_switch: Count | None = None
    order: EndpointOrder = "by_rail"


@spec
class GraphSpec:
    """A user's own graph of end points, switches and cables.

    Attributes:
        file: GraphML (``.graphml``), node-link JSON (``.json``) or a list of cables (``.csv``), beside the cluster
            file.
        switch: what the switches are, if they are all one: for their ports and price. Rates and latencies stand in the
            file.
    """

    kind: Literal["graph"]
    file: str
    switch: str | None = None


FabricOfSwitches = TwoLevelSpec | TwoZoneSpec | ThreeLevelSpec | RailOptimizedSpec | DragonflySpec | SlimFlySpec
FabricSpec = FabricOfSwitches | GraphSpec
