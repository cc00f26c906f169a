"""Clusters: what a cluster file says, wired into vertices and links, with static routes over them.

It knows nothing of time or of models: how long a flow takes is the engine's business.
"""

from ffsim.topology.arrays import LinkKind, VertexKind
from ffsim.topology.cluster import SHELF, Cluster, load_cluster
from ffsim.topology.placement import Placement, place_contiguously
from ffsim.topology.routing import Routes
from ffsim.topology.spec import (
    ClusterSpec,
    NodeSpec,
    PublishedCount,
    StorageSpec,
    ThreeLevelSpec,
    TwoLevelSpec,
    TwoZoneSpec,
)
from ffsim.topology.topology import Counts, Topology, build_topology

__all__ = [
    "SHELF",
    "Cluster",
    "ClusterSpec",
    "Counts",
    "LinkKind",
    "NodeSpec",
    "Placement",
    "PublishedCount",
    "Routes",
    "StorageSpec",
    "ThreeLevelSpec",
    "Topology",
    "TwoLevelSpec",
    "TwoZoneSpec",
    "VertexKind",
    "build_topology",
    "load_cluster",
    "place_contiguously",
]
