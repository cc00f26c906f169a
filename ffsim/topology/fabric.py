"""What every fabric offers, and the choice among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from ffsim.errors import ScenarioError
from ffsim.topology.arrays import Cables, Ints, Kinds, Wire
from ffsim.topology.cluster import Cluster
from ffsim.topology.endpoints import Endpoints
from ffsim.topology.forest import Forest
from ffsim.topology.spec import TwoLevelSpec, TwoZoneSpec
from ffsim.topology.three_level import build_pods
from ffsim.topology.two_level import build_planes
from ffsim.topology.two_zone import build_zones


class Fabric(Protocol):
    """Switches and cables that join end points.

    Vertices: end point ``e`` is vertex ``e``, switches follow. Links: cable ``c`` is link ``2c`` and, back, ``2c + 1``;
    cable ``e`` joins end point ``e`` to its leaf.
    """

    @property
    def forest(self) -> Forest:
        """Its leaves and spines."""

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
    def bisection_bytes_per_s(self) -> float:
        """Rate, per direction, of the worst of its natural halvings."""

    def paths(self, src: Ints, dst: Ints) -> Ints:
        """Links from end points to end points of the same plane: ``[n, n_columns]``, with gaps."""


def build_fabric(cluster: Cluster, endpoints: Endpoints) -> Fabric:
    """Wire the fabric of a cluster.

    A cable between switches carries the rate of a switch port times the usable share of the compute nodes' NICs.

    Raises:
        ScenarioError: more ports are needed than there are.
    """
    spec, switch = cluster.spec.fabric, cluster.switch
    ports = switch.ports.value
    trunk = Wire(
        bandwidth_bytes_per_s=switch.bandwidth.value * cluster.nic.usable_share.value, latency_s=switch.latency.value
    )
    try:
        if isinstance(spec, TwoLevelSpec):
            return build_planes(spec, ports, endpoints, trunk)
        if isinstance(spec, TwoZoneSpec):
            return build_zones(spec, ports, endpoints, trunk)
        return build_pods(ports, endpoints, trunk)
    except ScenarioError as error:
        raise ScenarioError([replace(problem, where=cluster.name) for problem in error.problems]) from None
