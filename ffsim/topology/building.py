"""From a cluster file to its vertices and links: nodes, fabric, storage, and what is broken."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ffsim.topology.arrays import Cables, VertexKind, count_up, kinds
from ffsim.topology.cluster import Cluster
from ffsim.topology.endpoints import find_endpoints
from ffsim.topology.fabric import build_fabric
from ffsim.topology.faults import with_faults
from ffsim.topology.graph_fabric import cluster_from_graph
from ffsim.topology.host import Host
from ffsim.topology.node import Node, node_cables, node_media
from ffsim.topology.routing import Wiring
from ffsim.topology.topology import Topology

if TYPE_CHECKING:
    import networkx as nx


def topology_from_graph(graph: nx.Graph[Any], cluster: Cluster) -> Topology:
    """Wire the nodes and the storage of a cluster by a user's own graph instead of its fabric.

    Args:
        graph: undirected; see ``check_graph`` for the attributes of its nodes and edges.
        cluster: nodes and storage.

    Raises:
        ScenarioError: everything that is wrong with the graph.
    """
    return build_topology(cluster_from_graph(graph, cluster))


def build_topology(cluster: Cluster) -> Topology:
    """Wire a cluster.

    Raises:
        ScenarioError: the fabric needs more ports than its switches have; the message names both.

    >>> from ffsim.topology import load_cluster
    >>> build_topology(load_cluster("h800-2048")).counts().switches
    96
    """
    spec = cluster.spec.nodes
    host = Host.of(spec, cluster.cpu)
    node = Node(count=spec.count, gpus=spec.gpus, nics=spec.nics, interconnect=spec.interconnect, host=host)
    endpoints = find_endpoints(cluster)
    fabric = build_fabric(cluster, endpoints)
    cables = Cables.joined([node_cables(node, cluster), fabric.cables.shifted(node.first_nic)])
    node = replace(node, first_medium=2 * len(cables))
    media = node_media(node)
    n_storage = len(endpoints) - endpoints.n_compute
    below_switches = kinds(
        (VertexKind.GPU, node.n_gpus),
        (VertexKind.HUB, node.count),
        (VertexKind.SOCKET, node.count * (host.n_sockets - 1)),
        (VertexKind.ROOT_PORT, node.count * host.n_ports),
        (VertexKind.NIC, endpoints.n_compute),
        (VertexKind.STORAGE_NIC, n_storage),
    )
    storage = node.first_nic + endpoints.n_compute + count_up(n_storage)
    arrays: dict[str, NDArray[Any]] = {
        "vertex_kind": np.append(below_switches, fabric.switch_kind),
        "src": np.append(np.column_stack([cables.a, cables.b]).ravel(), media.at).astype(np.int32),
        "dst": np.append(np.column_stack([cables.b, cables.a]).ravel(), media.at).astype(np.int32),
        "bandwidth_bytes_per_s": np.append(np.repeat(cables.bandwidth_bytes_per_s, 2), media.bandwidth_bytes_per_s),
        "latency_s": np.append(np.repeat(cables.latency_s, 2), np.zeros(len(media))),
        "link_kind": np.append(np.repeat(cables.kind, 2), media.kind),
        "storage_endpoints": storage.reshape(-1, cluster.spec.storage.nics if cluster.spec.storage else 1),
    }
    for array in arrays.values():
        array.flags.writeable = False
    topology = Topology(
        name=cluster.name,
        gpus_per_node=spec.gpus,
        n_cable_links=2 * len(cables),
        wiring=Wiring(node=node, endpoints=endpoints, fabric=fabric),
        rule=cluster.spec.routing,
        **arrays,
    )
    return with_faults(topology, cluster.spec.faults) if cluster.spec.faults else topology
