"""Reads as flows: what every client asks for, where it lies, and what waits for what.

A read is two flows, one after the other, because 3FS stores and forwards: the SSD's into the memory of its node, then
the one over the network. A client keeps a fixed number of reads under way: read ``j`` is made when read
``j - in_flight`` has arrived. Under request-to-send, transfer ``j`` begins when transfer ``j - limit`` of the same
client has ended: grants are given in the order of the reads, not of their arrival at the storage services.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.engine import Csr, Flows
from ffsim.storage.chains import chain_nodes, choose_servers
from ffsim.storage.inputs import StorageInputs
from ffsim.storage.limits import saturated_rates
from ffsim.storage.paths import ReadPaths

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reads:
    """Reads, client by client, each client's in the order they are made; and their flows.

    Attributes:
        client, server: ``[n_reads]``.
        way: ``[n_reads]``, place in the ways of `ReadPaths`.
        ssd: ``[n_reads]``, link of the SSD.
        last: ``[n_reads]``, whether no later read waits for this one.
        fixed_s: of every read, by part: what passes before anything streams.
        flows: of the SSDs, in order; then those over the network, over the links that can bind.
        round_s: about how long a client's reads in flight take.
    """

    client: Ints
    server: Ints
    way: Ints
    ssd: Ints
    last: Bools
    fixed_s: dict[str, Floats]
    flows: Flows
    round_s: float

    def __len__(self) -> int:
        return len(self.client)


def draw_reads(inputs: StorageInputs, paths: ReadPaths, seed: int, rounds: int) -> Reads:
    """Draw reads of random chunks of a large data set, spread over all chains.

    Args:
        inputs: the workload.
        paths: its ways.
        seed: of the draws.
        rounds: how often a client's reads in flight are made.
    """
    spec, figures, in_flight = inputs.spec, inputs.spec.file_system, inputs.spec.reads_in_flight
    from_chunks, from_copies, from_starts = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
    chains = chain_nodes(paths.n_servers, figures.replicas.value, figures.targets_per_ssd.value)
    round_s = _round_s(inputs, paths)
    count = np.maximum(np.ceil(rounds * round_s.mean() / round_s), 1).astype(np.int64) * in_flight
    made = np.arange(count.max()) < count[:, None]
    copies = chains[from_chunks.integers(len(chains), size=made.shape)]
    server = choose_servers(copies, paths.n_servers, in_flight, spec.replica_choice, from_copies)[made]
    client, number = np.nonzero(made)
    place = from_chunks.integers(paths.ssds_per_server, size=len(client))
    way = client * paths.n_servers + server
    first = number < in_flight
    start_s = np.zeros(len(client))
    start_s[first] = from_starts.random(first.sum()) * round_s[client[first]]
    fixed_s = fixed_parts(inputs, paths.latency_s[way])
    ssd = paths.first_ssd + server * paths.ssds_per_server + place
    return Reads(
        client=client,
        server=server,
        way=way,
        ssd=ssd,
        last=number >= count[client] - in_flight,
        fixed_s=fixed_s,
        flows=_flows(inputs, links_of(paths, way, ssd, paths.can_bind), start_s, fixed_s, number, count),
        round_s=float(round_s.mean()),
    )


def fixed_parts(inputs: StorageInputs, way_s: Floats) -> dict[str, Floats]:
    """What passes in a read while nothing streams, by part.

    Args:
        inputs: the workload.
        way_s: ``[n_reads]``, one-way latency of the network.
    """
    spec = inputs.spec
    return {
        "request": way_s,
        "software": np.full(way_s.shape, spec.file_system.software_latency.value),
        "SSD latency": np.full(way_s.shape, inputs.ssd.read_latency.value),
        "grant": 2 * way_s if spec.request_to_send else np.zeros(way_s.shape),
        "way back": way_s,
    }


def unloaded_s(inputs: StorageInputs, paths: ReadPaths) -> float:
    """Mean latency of a read on idle links."""
    size = inputs.spec.size
    slowest = np.minimum.reduceat(paths.capacity_bytes_per_s[paths.ways.values] / paths.weight, paths.ways.start[:-1])
    fixed = sum(float(part.mean()) for part in fixed_parts(inputs, paths.latency_s).values())
    return fixed + size / paths.ssd_bytes_per_s + size * float((1 / slowest).mean())


def _round_s(inputs: StorageInputs, paths: ReadPaths) -> Floats:
    """``[n_clients]`` about how long the reads in flight of a client take.

    Streaming at the rate that many reads in flight would reach and waiting for one read on idle links, between the
    larger and the sum of the two.
    """
    spec = inputs.spec
    streaming = spec.reads_in_flight * spec.size / saturated_rates(paths)
    result: Floats = np.hypot(streaming, unloaded_s(inputs, paths))
    return result


def links_of(paths: ReadPaths, way: Ints, ssd: Ints, kept: Bools) -> tuple[Csr, Floats | None]:
    """Links of all flows of reads: those of the SSDs, then those over the network.

    Args:
        paths: the ways.
        way: ``[n_reads]``, place in them.
        ssd: ``[n_reads]``, link of the SSD.
        kept: ``[len(paths.ways.values)]``, links that matter.

    Returns:
        The links and their weights, where any is not 1.
    """
    first = np.append(0, np.cumsum(kept))[paths.ways.start]
    links, weight = paths.ways.values[kept], paths.weight[kept]
    hops = np.diff(first)[way]
    hop = np.repeat(first[way] - np.cumsum(hops) + hops, hops) + np.arange(hops.sum())
    n = len(way)
    start = np.append(np.arange(n), n + np.append(0, np.cumsum(hops)))
    weights = np.concatenate([np.full(n, paths.ssd_weight), weight[hop]])
    return Csr(start, np.concatenate([ssd, links[hop]])), None if (weights == 1).all() else weights


def _flows(
    inputs: StorageInputs,
    links: tuple[Csr, Floats | None],
    start_s: Floats,
    fixed_s: dict[str, Floats],
    number: Ints,
    count: Ints,
) -> Flows:
    """The flows of all reads, with what they wait for."""
    spec, n = inputs.spec, len(number)
    read, left = np.arange(n), np.repeat(count, count) - number
    edges = [np.column_stack([read, n + read]), _following(n + read, read, left, spec.reads_in_flight)]
    if 0 < spec.request_to_send < spec.reads_in_flight:
        edges.append(_following(n + read, n + read, left, spec.request_to_send))
    before = fixed_s["request"] + fixed_s["software"] + fixed_s["SSD latency"]
    return Flows(
        links=links[0],
        size_bytes=np.full(2 * n, spec.size),
        weight=links[1],
        latency_s=np.concatenate([before, fixed_s["grant"] + fixed_s["way back"]]),
        start_s=np.append(start_s, np.zeros(n)),
        edges=np.concatenate(edges),
    )


def _following(ended: Ints, begins: Ints, left: Ints, later: int) -> Ints:
    """Edges from each read's ``ended`` flow to the ``begins`` flow of the client's read so many later."""
    from_ = np.flatnonzero(left > later)
    return np.column_stack([ended[from_], begins[from_ + later]])
