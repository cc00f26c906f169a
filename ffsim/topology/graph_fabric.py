"""A user's own graph as a fabric."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ffsim.errors import Problem, ScenarioError
from ffsim.topology.arrays import Cables, LinkKind, Wire, count_up
from ffsim.topology.cluster import Cluster
from ffsim.topology.endpoints import Endpoints
from ffsim.topology.fabric_spec import GraphSpec
from ffsim.topology.graph_file import check_graph
from ffsim.topology.mesh import Mesh

if TYPE_CHECKING:
    import networkx as nx


def cluster_from_graph(graph: nx.Graph[Any], cluster: Cluster) -> Cluster:
    """The nodes and the storage of a cluster under another fabric, given as a graph (see `check_graph`).

    Raises:
        ScenarioError: everything that is wrong with the graph.
    """
    if graph.is_directed():
        raise ScenarioError(
            Problem(where="graph", what="is directed", fix="use an undirected one: a cable carries both directions")
        )
    spec = replace(cluster.spec, fabric=GraphSpec(kind="graph", file=str(graph.name or "graph")))
    checked = check_graph(graph, "graph", spec.nodes, spec.storage, None)
    return replace(cluster, spec=spec, switch=None, graph=checked)


def build_graph(cluster: Cluster, endpoints: Endpoints) -> Mesh:
    """Put a checked graph under the end points.

    A cable carries what the NICs reach of its line rate, that of an end point at most its NIC's. The NIC's
    latency is added to that of the cable it hangs on.
    """
    graph = cluster.graph
    if graph is None:
        raise ValueError(f"{cluster.name} has no graph: use load_cluster or topology_from_graph")
    nics = [cluster.nic] * endpoints.n_compute
    if cluster.storage_nic is not None:
        nics += [cluster.storage_nic] * (len(endpoints) - endpoints.n_compute)
    trunks = graph.trunk_bandwidth_bytes_per_s.tolist()
    rate = np.minimum([nic.bandwidth.value for nic in nics], graph.bandwidth_bytes_per_s)
    access = Wire(
        bandwidth_bytes_per_s=rate * [nic.payload_share(each) for nic, each in zip(nics, rate.tolist(), strict=True)],
        latency_s=graph.latency_s + [nic.latency.value for nic in nics],
    )
    trunk = Wire(
        bandwidth_bytes_per_s=np.array([each * cluster.nic.payload_share(each) for each in trunks]),
        latency_s=graph.trunk_latency_s,
    )
    order = np.argsort(graph.home, kind="stable")
    slot = np.empty_like(order)
    slot[order] = count_up(len(order))
    return Mesh(
        endpoints=replace(endpoints, wire=access),
        home=graph.home,
        slot=slot,
        n_switches=len(graph.switches),
        trunks=Cables.between(graph.a, graph.b, trunk, LinkKind.LOCAL),
        names=graph.switches,
    )
