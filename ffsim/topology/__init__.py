"""Clusters: what a cluster file says, wired into vertices and links, with static routes over them.

It knows nothing of time or of models: how long a flow takes is the engine's business.
"""

from ffsim.topology.arrays import BETWEEN_SWITCHES, LinkKind, VertexKind
from ffsim.topology.building import build_topology, topology_from_graph
from ffsim.topology.cluster import SHELF, Cluster, load_cluster
from ffsim.topology.fabric_spec import (
    DragonflySpec,
    FabricOfSwitches,
    FabricSpec,
    GraphSpec,
    RailOptimizedSpec,
    SlimFlySpec,
    ThreeLevelSpec,
    TwoLevelSpec,
    TwoZoneSpec,
)
from ffsim.topology.faults import with_faults
from ffsim.topology.full_networks import NetworkCounts, full_network
from ffsim.topology.placement import SPREADINGS, Placement, Spreading, node_zones, place_contiguously, place_groups
from ffsim.topology.routing import Routes
from ffsim.topology.spec import (
    TRAFFIC_CLASSES,
    ClusterSpec,
    FaultSpec,
    LaneSpec,
    NodeSpec,
    PublishedCount,
    RoutingRule,
    StorageSpec,
)
from ffsim.topology.topology import Counts, Topology

__all__ = [
    "BETWEEN_SWITCHES",
    "SHELF",
    "SPREADINGS",
    "TRAFFIC_CLASSES",
    "Cluster",
    "ClusterSpec",
    "Counts",
    "DragonflySpec",
    "FabricOfSwitches",
    "FabricSpec",
    "FaultSpec",
    "GraphSpec",
    "LaneSpec",
    "LinkKind",
    "NetworkCounts",
    "NodeSpec",
    "Placement",
    "PublishedCount",
    "RailOptimizedSpec",
    "Routes",
    "RoutingRule",
    "SlimFlySpec",
    "Spreading",
    "StorageSpec",
    "ThreeLevelSpec",
    "Topology",
    "TwoLevelSpec",
    "TwoZoneSpec",
    "VertexKind",
    "build_topology",
    "full_network",
    "load_cluster",
    "node_zones",
    "place_contiguously",
    "place_groups",
    "topology_from_graph",
    "with_faults",
]
