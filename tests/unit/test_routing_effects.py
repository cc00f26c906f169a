"""What routing and lanes do to traffic that meets: the effects that a fabric is chosen by."""

import json
from pathlib import Path

import numpy as np
import pytest

from ffsim.collectives import direct_all_to_all, lower, unroll
from ffsim.engine import Csr, Flows, simulate_flows
from ffsim.topology import RoutingRule, build_topology, load_cluster

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "simgrid_golden.json").read_text())["scenarios"]


def hosts(folder, n):
    """So many hosts of one port each, 20 to a leaf with 20 cables up."""
    file = folder / f"hosts-{n}.yaml"
    file.write_text(
        f"""kind: cluster
base: dgx-a100-10000
title: {n} hosts
nodes: {{count: {n}, gpus: 1, nics: 1, interconnect: pcie}}
fabric: {{kind: two_level, switch: qm8700, leaves: {-(-n // 20)}, spines: 20}}
"""
    )
    return build_topology(load_cluster(str(file)))


def flows_between(topology, src, dst, rule, size=2e6, lane=None):
    start, links, weight = topology.routes(np.asarray(src), np.asarray(dst), rule).lists()
    return Flows(links=Csr(start, links), size_bytes=np.full(len(src), size), weight=weight, lane=lane)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clusters")


def test_a_permutation_loses_four_to_five_times_under_one_way_per_flow(folder):
    """SimGrid: 4.0 and 5.0 times (perm_512_dmodk, perm_512_hash)."""
    topology = hosts(folder, 512)
    flows = GOLDEN["perm_512_dmodk"]["flows"]
    src, dst = (np.array([flow[end] for flow in flows]) for end in (0, 1))
    times = {
        kind: simulate_flows(
            flows_between(topology, src, dst, RoutingRule(kind=kind)), topology.bandwidth_bytes_per_s
        ).makespan_s
        for kind in ("d_mod_k", "hash", "spray")
    }
    assert 4 <= times["d_mod_k"] / times["spray"] <= 6
    assert 4 <= times["hash"] / times["spray"] <= 6


def test_queue_pairs_bring_hashing_nearer_to_spraying(folder):
    topology = hosts(folder, 128)
    src, dst = np.arange(128), np.random.default_rng(1).permutation(128)
    times = [
        simulate_flows(
            flows_between(topology, src, dst, RoutingRule(kind="hash", queue_pairs=pairs)),
            topology.bandwidth_bytes_per_s,
        ).end_s.mean()
        for pairs in (1, 4, 16)
    ]
    assert times[0] > times[1] > times[2]


@pytest.mark.slow
def test_a_hashed_all_to_all_loses_some_percent(folder):
    """SimGrid: 3.1 % (a2a_128_hash against the bound of the hosts' links)."""
    topology = hosts(folder, 140)
    pattern = unroll(direct_all_to_all(140, 140e6))
    hashed, static = (
        simulate_flows(
            lower(pattern, topology, np.arange(140), rule=RoutingRule(kind=kind)), topology.bandwidth_bytes_per_s
        ).makespan_s
        for kind in ("hash", "d_mod_k")
    )
    assert 1.02 <= hashed / static <= 1.07


@pytest.fixture(scope="module")
def incast(folder):
    """32 storage servers send to host 0 at once; 40 other hosts send to each other."""
    topology = hosts(folder, 128)
    rng = np.random.default_rng(0)
    servers = rng.permutation(np.arange(16, 128))[:32]
    others = np.setdiff1d(np.arange(16, 128), servers)
    to = rng.permutation(np.append(np.arange(1, 16), others[40:]))[:40]
    src, dst = np.append(servers, others[:40]), np.append(np.zeros(32, dtype=int), to)
    lane = np.repeat([0, 1], [32, 40])

    def victims_s(kind, *, blocking, lanes=()):
        flows = flows_between(topology, src, dst, RoutingRule(kind=kind), lane=lane if lanes else None)
        stage = topology.stages() if blocking else None
        times = simulate_flows(flows, topology.bandwidth_bytes_per_s, lanes=lanes, blocking_stage=stage)
        return times.end_s[32:].mean()

    return victims_s


def test_static_routing_beats_spraying_for_the_victims_of_an_incast_on_a_lossless_fabric(incast):
    """Static ways to one host meet early and leave the other spines alone (arXiv 2408.14158 s6.1)."""
    assert incast("spray", blocking=False) < incast("d_mod_k", blocking=False)  # a fluid without queues sees no harm
    static, sprayed = incast("d_mod_k", blocking=True), incast("spray", blocking=True)
    assert static < 0.2 * sprayed
    assert sprayed > 7 * incast("spray", blocking=False)


def test_a_lane_of_their_own_protects_the_victims(incast):
    free = incast("spray", blocking=False)
    assert incast("spray", blocking=True, lanes=(1.0, 1.0)) == pytest.approx(free, rel=1e-6)


def test_a_sender_of_an_incast_is_a_victim_itself(folder):
    """Packet level with RoCE, PFC and no congestion control: 25 times slower at most (2,047 of 83 us)."""
    topology = hosts(folder, 128)
    src, dst = np.append(np.arange(40, 72), 40), np.append(np.zeros(32, dtype=int), 100)
    flows = flows_between(topology, src, dst, RoutingRule())
    free, blocked = (
        simulate_flows(flows, topology.bandwidth_bytes_per_s, blocking_stage=stage).end_s[-1]
        for stage in (None, topology.stages())
    )
    assert blocked / free == pytest.approx(31, abs=1)


def test_on_many_servers_lanes_keep_the_share_of_an_allreduce(folder):
    """One flow of a ring against 30 reads on its way: a thirtieth without lanes, its half with two."""
    topology = hosts(folder, 128)
    src, dst = np.append(np.arange(64, 94), 20), np.append(np.zeros(30, dtype=int), 0)
    lane = np.append(np.zeros(30, dtype=int), 1)
    flows = flows_between(topology, src, dst, RoutingRule(), lane=lane)
    rate = topology.bandwidth_bytes_per_s[flows.links.values].min()
    alone = 2e6 / rate
    shared = simulate_flows(
        Flows(links=flows.links, size_bytes=flows.size_bytes), topology.bandwidth_bytes_per_s
    ).end_s[-1]
    apart = simulate_flows(flows, topology.bandwidth_bytes_per_s, lanes=(1.0, 1.0)).end_s[-1]
    assert shared / alone == pytest.approx(31, rel=0.01)
    assert apart / alone == pytest.approx(2, rel=0.01)
