"""What every fabric offers, and the choice among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from ffsim.errors import ScenarioError
from ffsim.topology.arrays import Cables, Ints, Kinds, Wire
from ffsim.topology.cluster import Cluster
from ffsim.topology.dragonfly import build_dragonfly
from ffsim.topology.endpoints import Endpoints
from ffsim.topology.fabric_spec import (
    DragonflySpec,
    FabricOfSwitches,
    GraphSpec,
    RailOptimizedSpec,
    SlimFlySpec,
    ThreeLevelSpec,
    TwoLevelSpec,
    TwoZoneSpec,
)
from ffsim.topology.graph_fabric import build_graph
from ffsim.topology.rail_optimized import build_rails
from ffsim.topology.slim_fly import build_slim_fly
from ffsim.topology.three_level import build_pods
from ffsim.topology.two_level import build_planes
from ffsim.topology.two_zone import build_zones


class Fabric(Protocol):
    """Switches and cables that join end points.

    Vertices: end point ``e`` is vertex ``e``, switches follow. Links: cable ``c`` is link ``2c`` and, back, ``2c + 1``;
    cable ``e`` joins end point ``e`` to its leaf.
    """

    @property
    def n_planes(self) -> int:
        """Parts that nothing but the nodes join; NIC ``i`` of a node is in plane ``i % n_planes``."""

    @property
    def switch_kind(self) -> Kinds:
        """``[n_switches]`` kind codes."""

    @property
    def cables(self) -> Cables:
        """All cables."""

    @property
    def oversubscription(self) -> float:
        """Ports down over cables up of the worst switch."""

    @property
    def bisection_bytes_per_s(self) -> float:
        """Rate, per direction, of the worst of its natural halvings."""

    @property
    def slot(self) -> Ints:
        """``[n_endpoints]``: the key that D-mod-K takes from the destination and S-mod-K from the source."""

    @property
    def n_ways(self) -> int:
        """Keys from 0 on that give every way between any two end points; several may give the same."""

    def paths(self, src: Ints, dst: Ints, key: Ints) -> Ints:
        """Links from end points to end points of the same plane: ``[n, n_columns]``, with gaps.

        The key, not negative, picks among equally good ways. What lies between the cables of the end points follows
        from the switches that these end at and from the key.
        """


def build_fabric(cluster: Cluster, endpoints: Endpoints) -> Fabric:
    """Wire the fabric of a cluster.

    A cable between switches carries the rate of a switch port times what the compute nodes' NICs reach of it.

    Raises:
        ScenarioError: more ports are needed than there are.
    """
    spec, switch = cluster.spec.fabric, cluster.switch
    if isinstance(spec, GraphSpec):
        return build_graph(cluster, endpoints)
    if switch is None:
        raise ValueError(f"{cluster.name} has no switch: use load_cluster")
    ports = switch.ports.value
    trunk = Wire(
        bandwidth_bytes_per_s=switch.bandwidth.value * cluster.nic.payload_share(switch.bandwidth.value),
        latency_s=switch.latency.value,
    )
    try:
        return _build(spec, ports, endpoints, trunk)
    except ScenarioError as error:
        raise ScenarioError([replace(problem, where=cluster.name) for problem in error.problems]) from None


def _build(spec: FabricOfSwitches, ports: int, endpoints: Endpoints, trunk: Wire) -> Fabric:
    match spec:
        case TwoLevelSpec():
            return build_planes(spec, ports, endpoints, trunk)
        case TwoZoneSpec():
            return build_zones(spec, ports, endpoints, trunk)
        case ThreeLevelSpec():
            return build_pods(spec, ports, endpoints, trunk)
        case RailOptimizedSpec():
            return build_rails(spec, ports, endpoints, trunk)
        case DragonflySpec():
            return build_dragonfly(spec, ports, endpoints, trunk)
        case SlimFlySpec():
            return build_slim_fly(spec, ports, endpoints, trunk)
