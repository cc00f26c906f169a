"""A training job behind the reads: allreduces from host to host, one after the other, as flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.collectives import double_tree_all_reduce, lower
from ffsim.engine import Flows
from ffsim.storage.inputs import StorageInputs
from ffsim.storage.spec import BackgroundSpec
from ffsim.topology import TRAFFIC_CLASSES

Ints = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Background:
    """Flows of a job's allreduces.

    Attributes:
        flows: in the lane of HFReduce where there are lanes.
        payload: of an allreduced buffer, per byte that its flows move all together.
    """

    flows: Flows
    payload: float


def allreduce_stream(inputs: StorageInputs, spec: BackgroundSpec, client_node: Ints, repeated: int) -> Background:
    """Allreduces over a double binary tree whose chunks follow each other without a pause.

    Args:
        inputs: the storage workload.
        spec: the job.
        client_node: nodes that read.
        repeated: buffers.

    Domain: the trees' edges between hosts. Reducing inside the nodes is taken to keep pace.
    """
    chunks = int(np.ceil(spec.buffer / spec.chunk))
    pattern = double_tree_all_reduce(spec.nodes, spec.buffer * repeated, chunks=chunks * repeated)
    lane = TRAFFIC_CLASSES.index("hfreduce") if inputs.lanes else 0
    hosts = inputs.topology.hub(_job_nodes(inputs, spec, client_node))
    return Background(
        flows=lower(pattern, inputs.topology, hosts, lane=lane), payload=pattern.size_bytes / pattern.total_bytes
    )


def _job_nodes(inputs: StorageInputs, spec: BackgroundSpec, client_node: Ints) -> Ints:
    """The job's nodes: evenly among those it may be on."""
    eligible = client_node
    if spec.on == "others":
        eligible = np.setdiff1d(np.arange(inputs.cluster.n_nodes), client_node)
    return eligible[np.arange(spec.nodes) * len(eligible) // spec.nodes]
