"""How flows choose among ways: rules, faults, names."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ffsim.errors import InfeasiblePlan, ModelDomainError, ScenarioError
from ffsim.topology import (
    TRAFFIC_CLASSES,
    FaultSpec,
    LinkKind,
    RoutingRule,
    ThreeLevelSpec,
    TwoLevelSpec,
    VertexKind,
    build_topology,
    load_cluster,
)

SPRAY = RoutingRule(kind="spray")
HASH = RoutingRule(kind="hash")


@cache
def shipped(name):
    return build_topology(load_cluster(name))


@cache
def hosts(count, fabric="two_level", ports=40, spines=20, faults=()):
    """Hosts with one NIC each under switches of so many ports, all in use below."""
    base = load_cluster("fire-flyer-1")
    kinds = {
        "two_level": TwoLevelSpec(kind="two_level", switch="any", leaves=-(-2 * count // ports), spines=spines),
        "three_level": ThreeLevelSpec(kind="three_level", switch="any"),
    }
    switch = replace(base.switch, ports=replace(base.switch.ports, value=ports))
    spec = replace(base.spec, nodes=replace(base.spec.nodes, count=count), fabric=kinds[fabric], faults=faults)
    return build_topology(replace(base, spec=spec, switch=switch))


def all_to_all(n):
    src, dst = np.divmod(np.arange(n * n), n)
    return src[src != dst], dst[src != dst]


def spines(topology, routes):
    """The spine that every flow passes, counted from 0."""
    passed = topology.dst[routes.links[:, 1]]
    return passed - int((topology.vertex_kind < VertexKind.SPINE).sum())


def test_hash_is_that_of_the_published_scenarios():
    # SimGrid scenarios: x = (src * 2654435761 mod 2^32) xor (dst * 2246822519 mod 2^32), spine (x >> 15) % S
    topology = hosts(160)
    expected = [
        ((src * 2654435761 % 2**32) ^ (dst * 2246822519 % 2**32)) >> 15
        for src in range(160)
        for dst in range(160)
        if src // 20 != dst // 20
    ]
    src, dst = all_to_all(160)
    far = src // 20 != dst // 20
    found = spines(topology, topology.port_routes(src[far], dst[far], HASH))
    assert found.tolist() == [key % 20 for key in expected]


def test_static_rules_go_by_the_place_of_one_end():
    topology = hosts(160)
    src, dst = all_to_all(160)
    far = src // 20 != dst // 20
    src, dst = src[far], dst[far]
    assert (spines(topology, topology.port_routes(src, dst)) == dst % 20).all()
    assert (spines(topology, topology.port_routes(src, dst, RoutingRule(kind="s_mod_k"))) == src % 20).all()


def test_ports_are_routed_as_their_hosts_are():
    topology = hosts(160)
    src, dst = all_to_all(160)
    for rule in (RoutingRule(), HASH):
        inner = topology.port_routes(src, dst, rule).links
        outer = topology.routes(topology.hub(src), topology.hub(dst), rule).links
        assert (outer[:, 1:3] == inner[:, :2]).all()
        assert (np.sort(outer)[:, -inner.shape[1] :].max(axis=1) >= inner.max(axis=1)).all()


@pytest.mark.parametrize("kind", ["d_mod_k", "s_mod_k", "spray"])
@pytest.mark.parametrize(("fabric", "ports", "count"), [("two_level", 8, 32), ("three_level", 4, 16)])
def test_an_all_to_all_is_even_by_static_rules_and_spray_and_uneven_by_hash(kind, fabric, ports, count):
    topology = hosts(count, fabric, ports, spines=ports // 2)
    src, dst = all_to_all(count)
    trunks = np.isin(topology.link_kind, [LinkKind.LEAF_SPINE, LinkKind.SPINE_CORE])
    for layer in (LinkKind.LEAF_SPINE, LinkKind.SPINE_CORE):
        loads = topology.loads(topology.port_routes(src, dst, RoutingRule(kind=kind)), 1.0)[topology.link_kind == layer]
        assert loads == pytest.approx(np.full(len(loads), loads.mean() if len(loads) else 0))
    hashed = topology.loads(topology.port_routes(src, dst, HASH), 1.0)[trunks]
    assert hashed.max() > 1.1 * hashed.mean()


def test_queue_pairs_split_a_flow_and_keep_its_bytes():
    topology = hosts(160)
    rule = RoutingRule(kind="hash", queue_pairs=8)
    routes = topology.port_routes(np.arange(20), np.arange(20) + 40, rule)
    start, links, weight = routes.lists()
    assert start[-1] == len(links) == len(weight)
    for flow in range(20):
        own = links[start[flow] : start[flow + 1]]
        assert len(set(own.tolist())) == len(own)
        up = (topology.link_kind[own] == LinkKind.LEAF_SPINE) & (own % 2 == 0)
        assert 2 <= up.sum() <= 8
        assert weight[start[flow] : start[flow + 1]][up].sum() == pytest.approx(1)
    assert topology.loads(routes, 3.0).sum() == pytest.approx(20 * 3.0 * 4)
    # the first pair is the flow that is not split
    single = topology.port_routes(0, 40, HASH).links[0]
    assert set(single.tolist()) <= set(routes.links[0].tolist())


def test_seed_and_message_change_the_hash_and_nothing_else_does():
    topology = hosts(160)
    src, dst = np.arange(20), np.arange(20) + 40
    ways = {
        name: topology.port_routes(src, dst, rule, message).links.tolist()
        for name, rule, message in (
            ("plain", HASH, None),
            ("again", HASH, None),
            ("seed", RoutingRule(kind="hash", seed=7), None),
            ("first", HASH, 0),
            ("messages", HASH, np.arange(20)),
        )
    }
    assert ways["plain"] == ways["again"]
    assert ways["messages"][0] == ways["first"][0]
    assert len({str(links) for links in ways.values()}) == 4
    assert (
        topology.port_routes(src, dst, RoutingRule(), 5).links.tolist() == topology.port_routes(src, dst).links.tolist()
    )


@pytest.mark.parametrize("name", ["h800-2048", "fire-flyer-2-three-level", "fire-flyer-2"])
def test_spray_is_the_mean_over_all_different_ways(name):
    topology = shipped(name)
    fabric = topology.wiring.fabric
    offset = 2 * topology.wiring.node.n_cables
    n = len(topology.wiring.endpoints)
    for src, dst in ((0, fabric.n_planes), (0, n // 2 - n // 2 % fabric.n_planes)):
        keys = np.arange(fabric.n_ways)
        ways = np.unique(fabric.paths(np.full_like(keys, src), np.full_like(keys, dst), keys), axis=0)
        expected = np.bincount(offset + ways[ways >= 0], minlength=topology.n_links) / len(ways)
        assert topology.loads(topology.port_routes(src, dst, SPRAY), 1.0) == pytest.approx(expected)


def test_spray_between_zones_takes_every_interzone_cable_and_every_pair_of_spines():
    topology = shipped("fire-flyer-2")
    routes = topology.port_routes(0, 700, SPRAY)
    links, weight = routes.links[0], routes.weight[0]
    for kind, both_ways in ((LinkKind.INTERZONE, 1.0), (LinkKind.ACCESS, 1.0)):
        assert weight[topology.link_kind[links] == kind].sum() == pytest.approx(2 * both_ways)
    assert (topology.link_kind[links] == LinkKind.INTERZONE).sum() == 40
    # the longest way: two access cables, a leaf, spine and border leaf each side, an inter-zone switch
    assert routes.latency_s[0] == pytest.approx(topology.port_routes(0, 700).latency_s[0])


def test_sprayed_flows_inside_a_node_and_to_themselves_have_their_one_way():
    topology = shipped("h800-2048")
    routes = topology.routes([0, 5, 0], [7, 5, 2040], SPRAY)
    assert routes.n_hops.tolist() == [2, 0, 2 + 2 + 64]
    assert routes.weight[0, :2].tolist() == [1, 1]
    assert routes.latency_s == pytest.approx(topology.routes([0, 5, 0], [7, 5, 2040]).latency_s)


def test_more_sprayed_flows_than_fit_are_refused():
    with pytest.raises(ModelDomainError, match="sprayed flows cross up to 840 links each"):
        shipped("dgx-a100-10000").port_routes(
            np.repeat(np.arange(0, 10000, 20), 400), np.tile(np.arange(0, 10000, 25), 500), SPRAY
        )


def test_a_cluster_file_says_its_rule_and_its_lanes():
    cluster = load_cluster("fire-flyer-2")
    assert cluster.spec.routing == RoutingRule(kind="d_mod_k")
    assert cluster.spec.lanes.weights == (0.25,) * len(TRAFFIC_CLASSES)
    assert load_cluster("h800-2048").spec.lanes is None
    hashed = build_topology(replace(cluster, spec=replace(cluster.spec, routing=HASH)))
    src, dst = np.arange(100), np.arange(100) + 300
    assert (hashed.port_routes(src, dst).links == hashed.port_routes(src, dst, HASH).links).all()
    assert (hashed.port_routes(src, dst).links != shipped("fire-flyer-2").port_routes(src, dst).links).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "magic"}, "use one of d_mod_k"),
        ({"queue_pairs": 0}, "use 1 to 1,024"),
        ({"seed": -1}, "use 0 or more"),
    ],
)
def test_rules_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        RoutingRule(**wrong)


def test_no_flow_crosses_a_dead_link_and_the_others_stay():
    topology = hosts(160)
    src, dst = all_to_all(160)
    before = topology.port_routes(src, dst)
    dead = int(before.links[np.flatnonzero((src == 0) & (dst == 45))[0], 1])
    broken = topology.degraded([dead, dead ^ 1], 0)
    for rule in (RoutingRule(), RoutingRule(kind="s_mod_k"), HASH, SPRAY, RoutingRule(kind="hash", queue_pairs=4)):
        healthy, after = topology.port_routes(src, dst, rule), broken.port_routes(src, dst, rule)
        loads = broken.loads(after, 1.0)
        assert topology.loads(healthy, 1.0)[dead] > 0
        assert loads[dead] == loads[dead ^ 1] == 0
        assert loads.sum() == pytest.approx(topology.loads(healthy, 1.0).sum())
        if after.weight is None:
            touched = ((healthy.links == dead) | (healthy.links == dead ^ 1)).any(axis=1)
            assert (after.links[~touched] == healthy.links[~touched]).all()
            # the next key, so the next spine
            assert (spines(broken, after)[touched] == (spines(topology, healthy)[touched] + 1) % 20).all()
    assert broken.busy_s(loads)[dead] == 0
    assert np.isfinite(broken.busy_s(loads)).all()


def test_a_dead_interzone_cable_and_a_dead_core_are_passed_by():
    for name, kind in (("fire-flyer-2", LinkKind.INTERZONE), ("dgx-a100-10000", LinkKind.SPINE_CORE)):
        topology = shipped(name)
        src, dst = np.arange(0, 300), np.arange(300, 600)[::-1] + len(topology.wiring.endpoints) // 3
        links = topology.port_routes(src, dst).links
        dead = links[(links >= 0) & (topology.link_kind[links] == kind)][:3]
        broken = topology.degraded(np.append(dead, dead ^ 1), 0)
        assert not np.isin(broken.port_routes(src, dst).links, dead).any()


def test_a_dead_nic_is_refused_by_name():
    fault = FaultSpec(node=12, nic=0, capacity=0)
    topology = hosts(160, faults=(fault,))
    assert topology.port_routes(0, 11).n_hops.tolist() == [2]
    for rule in (RoutingRule(), HASH, SPRAY):
        with pytest.raises(
            InfeasiblePlan, match=r"no way is left for a flow over leaf 0 -> node 12 NIC 0, which is down"
        ):
            topology.port_routes([0, 1], [11, 12], rule)
    with pytest.raises(InfeasiblePlan, match="node 12 NIC 0 -> leaf 0"):
        topology.routes(int(topology.hub(12)), int(topology.hub(0)))


def test_an_island_is_refused():
    topology = hosts(40, ports=40, faults=(FaultSpec(at="leaf 1", capacity=0),))
    with pytest.raises(InfeasiblePlan, match="no way is left"):
        topology.port_routes(0, 30)


def test_slow_links_keep_their_ways_and_faults_multiply():
    faults = (
        FaultSpec(between=("leaf 3", "spine 2"), capacity=0.5),
        FaultSpec(at="leaf 3", capacity=0.5),
    )
    slow, healthy = hosts(160, faults=faults), hosts(160)
    src, dst = all_to_all(160)
    assert (slow.port_routes(src, dst).links == healthy.port_routes(src, dst).links).all()
    left = slow.bandwidth_bytes_per_s / healthy.bandwidth_bytes_per_s
    # leaf 3: 20 cables down and 20 up, both directions
    assert {value: int((left == value).sum()) for value in set(left.tolist())} == {1: len(left) - 80, 0.5: 78, 0.25: 2}
    [quarter, _] = np.flatnonzero(left == 0.25)
    assert slow.link_name(int(quarter)) == "leaf 3 -> spine 2"


def test_every_fault_that_names_nothing_is_reported_at_once():
    faults = (
        FaultSpec(between=("leaf 99", "spine 2"), capacity=0),
        FaultSpec(between=("leaf 3", "leaf 4"), capacity=0),
        FaultSpec(between=("leaf 3", "spine 2"), cable=1, capacity=0),
        FaultSpec(node=3, nic=4, capacity=0),
        FaultSpec(at="blade 5", capacity=0.5),
    )
    with pytest.raises(ScenarioError) as caught:
        hosts(160, faults=faults)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "faults.0.between",
        "faults.1",
        "faults.2.cable",
        "faults.3",
        "faults.4.at",
    ]
    assert "there is no 'leaf 99'; the last of these is 'leaf 7'" in lines[0]
    assert "no cable joins leaf 3 and leaf 4" in lines[1]
    assert "got 1, and 1 cable joins leaf 3 and spine 2; use 0 to 0" in lines[2]
    assert "with numbers for #, use one of node # GPU #, node # host, node # NIC #, leaf #, spine #" in lines[4]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"capacity": 0}, "give one of `between`"),
        ({"at": "leaf 1", "node": 3, "nic": 1, "capacity": 0}, "give one of `between`"),
        ({"node": 3, "capacity": 0}, "`node` with `nic`"),
        ({"at": "leaf 1", "cable": 2, "capacity": 0}, "it needs `between`"),
    ],
)
def test_faults_that_are_no_place_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FaultSpec(**wrong)


@pytest.mark.parametrize("name", ["fire-flyer-2", "h800-2048", "dgx-a100-10000"])
def test_names_are_unique_and_found_again(name):
    from ffsim.topology.names import all_names

    topology = shipped(name)
    names = all_names(topology)
    assert len(names) == topology.n_vertices
    for vertex in range(0, topology.n_vertices, 997):
        assert names[topology.vertex_name(vertex)] == vertex


def test_links_are_named_by_their_ends():
    topology = shipped("fire-flyer-2")
    names = [topology.link_name(int(link)) for link in topology.port_routes(0, 1249).links[0]]
    assert names[0] == "node 0 NIC 0 -> zone 0 leaf 0"
    assert names[1].startswith("zone 0 leaf 0 -> spine ")
    assert "inter-zone switch" in names[3]
    assert names[-1] == "zone 1 leaf 39 -> node 1249 NIC 0"
    rail = shipped("h800-2048")
    assert [rail.link_name(int(link)) for link in rail.routes(3, 5).links[0]] == [
        "node 0 GPU 3 -> NVSwitch",
        "node 0 NVSwitch -> GPU 5",
    ]
    assert rail.link_name(int(rail.routes(3, 11).links[0, 0])) == "node 0 GPU 3 -> NIC 3"
    port = int(topology.storage_endpoints[3, 1])
    assert topology.link_name(int(topology.routes(port, 9999).links[0, 0])).startswith(
        "storage node 3 NIC 1 -> zone 1 leaf"
    )
    parallel = hosts(12, ports=8, spines=2)  # three leaves, two spines, two cables between each pair
    assert parallel.link_name(2 * parallel.wiring.node.n_cables + 24) == "leaf 0 -> spine 0 (cable 0)"
    for link in (-1, topology.n_links):
        with pytest.raises(ValueError, match=f"there is no link {link}"):
            topology.link_name(link)


def test_degraded_refuses_what_is_no_link_or_no_share():
    topology = hosts(160)
    with pytest.raises(ValueError, match="links are 0 to"):
        topology.degraded([topology.n_links], 0.5)
    with pytest.raises(ValueError, match="factors are 0 to 1"):
        topology.degraded([0], 1.5)
    with pytest.raises(ValueError, match="factors are 0 to 1"):
        topology.degraded([0], float("nan"))
