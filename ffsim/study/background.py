"""What else uses the links while a collective runs: reads from storage, or a user's own flows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ffsim.engine import Csr, Flows
from ffsim.errors import Problem, ScenarioError
from ffsim.study.collective_spec import BackgroundSpec
from ffsim.study.flow_list import read_flow_list
from ffsim.topology import TRAFFIC_CLASSES, RoutingRule, Topology, node_zones

Ints = np.ndarray[Any, Any]
STORAGE_LANE = TRAFFIC_CLASSES.index("storage")


def background_flows(
    background: BackgroundSpec, topology: Topology, nodes: Ints, rule: RoutingRule, near: Path
) -> Flows:
    """The flows of a background.

    Args:
        background: what is asked for.
        topology: the cluster.
        nodes: nodes that read.
        rule: how flows find their way.
        near: folder that a file is seen from.

    Returns:
        Flows; of reads, each moves what it would in one second at full rate (`lasting` makes them longer).

    Raises:
        ScenarioError: no storage nodes to read from, or everything wrong with the file.
    """
    if background.file is not None:
        listed = read_flow_list(near / background.file, topology, rule, default_lane=STORAGE_LANE)
        return listed.flows
    assert background.read_per_node is not None
    n_storage, n_nics = topology.storage_endpoints.shape
    if not topology.storage_endpoints.size:
        raise ScenarioError(
            Problem(where=topology.name, path="background", what="there are no storage nodes", fix="give a file")
        )
    servers = min(background.servers, n_storage)
    reader = np.repeat(nodes, servers)
    server = (np.arange(len(nodes))[:, None] * servers + np.arange(servers)).ravel() % n_storage
    port = topology.storage_endpoints[server, node_zones(topology)[reader] % n_nics]
    routes = topology.routes(port, _host(topology, reader), rule)
    start, links, weight = routes.lists()
    rate = np.full(len(reader), background.read_per_node / servers)
    return Flows(
        links=Csr(start, links.astype(np.int64)),
        size_bytes=rate,
        weight=weight,
        latency_s=routes.latency_s,
        cap_bytes_per_s=rate,
        lane=np.full(len(reader), STORAGE_LANE),
    )


def lasting(flows: Flows, background: BackgroundSpec, seconds: float) -> Flows:
    """Reads that go on for so long; a file's flows as they are."""
    return flows if background.file is not None else replace(flows, size_bytes=flows.size_bytes * seconds)


def _host(topology: Topology, node: Ints) -> Ints:
    """Where reads of a node end: its host, or its first GPU where the NICs hang on GPUs."""
    hosts: Ints = node * topology.gpus_per_node if topology.wiring.node.switched else topology.hub(node)
    return hosts
