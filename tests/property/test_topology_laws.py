"""Laws that hold for every cluster, shipped or small and random."""

from contextlib import suppress
from dataclasses import replace
from functools import cache

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffsim.errors import InfeasiblePlan
from ffsim.topology import (
    SHELF,
    RoutingRule,
    ThreeLevelSpec,
    TwoLevelSpec,
    TwoZoneSpec,
    VertexKind,
    build_topology,
    load_cluster,
)


@cache
def shipped(name):
    return load_cluster(name)


@cache
def shipped_topology(name):
    return build_topology(shipped(name))


def small(ports, fabric, count, nics=1, storage=0, gpus=4, interconnect="nvswitch"):
    """A cluster of small switches."""
    base = shipped("h800-2048")
    spec = shipped("fire-flyer-2").spec
    nodes = replace(base.spec.nodes, count=count, gpus=gpus, nics=nics, interconnect=interconnect)
    stores = replace(spec.storage, nodes=storage) if storage else None
    switch = replace(base.switch, ports=replace(base.switch.ports, value=ports))
    return replace(
        base, spec=replace(base.spec, nodes=nodes, fabric=fabric, storage=stores), switch=switch, storage_nic=base.nic
    )


def zones(links, leaves, spines, joints=1):
    figure = replace(shipped("fire-flyer-2").spec.fabric.interzone_links_per_zone, value=links, low=links, high=links)
    return TwoZoneSpec(
        kind="two_zone",
        switch="any",
        leaves_per_zone=leaves,
        spines_per_zone=spines,
        interzone_switches=joints,
        interzone_links_per_zone=figure,
    )


TWO_LEVEL = TwoLevelSpec(kind="two_level", switch="any")
THREE_LEVEL = ThreeLevelSpec(kind="three_level", switch="any")

interconnects = st.sampled_from(["nvswitch", "nvlink_pairs", "pcie"])
two_level = st.builds(
    lambda ports, share, nics, planes, storage, interconnect: small(
        ports,
        replace(TWO_LEVEL, planes=min(planes, nics)),
        count=max(1, int(share * (ports * ports // 2 - 2 * storage) * min(planes, nics) / nics)),
        nics=nics,
        storage=storage,
        interconnect=interconnect,
    ),
    st.sampled_from([4, 6, 8, 10]),
    st.floats(0, 1),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 2),
    interconnects,
)
two_zone = st.builds(
    lambda count, spines, links, storage, interconnect: small(
        8, zones(links, leaves=4, spines=spines), count, storage=storage, interconnect=interconnect
    ),
    st.integers(2, 36),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 6),
    interconnects,
)
three_level = st.builds(
    lambda ports, share, nics, interconnect: small(
        ports, THREE_LEVEL, count=max(1, int(share * ports**3 // 4 / nics)), nics=nics, interconnect=interconnect
    ),
    st.sampled_from([4, 6, 8]),
    st.floats(0, 1),
    st.sampled_from([1, 2, 4]),
    interconnects,
)
clusters = st.one_of(two_level, two_zone, three_level)


def random_pairs(topology, seed, n=200):
    rng = np.random.default_rng(seed)
    return rng.integers(topology.n_gpus, size=(2, n))


def assert_routes_are_simple_ways(topology, src, dst, rule=None):
    routes = topology.routes(src, dst, rule)
    here = np.array(src)
    seen = [here]
    for column in routes.links.T:
        used = column >= 0
        assert (topology.src[column[used]] == here[used]).all()
        here = np.where(used, topology.dst[column], here)
        moves = used & (column < topology.n_cable_links)
        seen.append(np.where(moves, here, -1 - len(seen)))  # never equal to a vertex or to another filler
    assert (here == dst).all()
    ways = np.sort(np.column_stack(seen), axis=1)
    assert (np.diff(ways, axis=1) != 0).all()


@pytest.mark.parametrize("name", SHELF.names())
def test_routes_of_shipped_clusters_are_simple_ways(name):
    """Those of one queue pair: a flow that is split goes several ways at once."""
    topology = shipped_topology(name)
    rule = replace(shipped(name).spec.routing, queue_pairs=1)
    assert_routes_are_simple_ways(topology, *random_pairs(topology, seed=0, n=20_000), rule)


@given(cluster=clusters, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_routes_are_simple_ways(cluster, seed):
    topology = build_topology(cluster)
    for kind in ("d_mod_k", "s_mod_k", "hash"):
        assert_routes_are_simple_ways(topology, *random_pairs(topology, seed), RoutingRule(kind=kind, seed=seed))


@given(cluster=clusters, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_flows_of_several_ways_bring_all_their_bytes_and_the_same_ones_each_time(cluster, seed):
    topology = build_topology(cluster)
    src, dst = random_pairs(topology, seed, n=40)
    sizes = np.random.default_rng(seed).uniform(1, 1000, size=len(src))
    for rule in (RoutingRule(kind="spray"), RoutingRule(kind="hash", queue_pairs=5, seed=seed)):
        routes = topology.routes(src, dst, rule)
        assert (routes.weight >= 0).all()
        assert (routes.weight <= 1 + 1e-12).all()
        loads = topology.loads(routes, sizes)
        n = topology.n_vertices
        into = np.bincount(topology.dst, loads, minlength=n) + np.bincount(src, sizes, minlength=n)
        out = np.bincount(topology.src, loads, minlength=n) + np.bincount(dst, sizes, minlength=n)
        assert into == pytest.approx(out)
        again = topology.routes(src, dst, rule)
        assert (again.links == routes.links).all()
        assert (again.weight == routes.weight).all()


@given(cluster=clusters, seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=60, deadline=None)
def test_broken_cables_between_switches_carry_nothing(cluster, seed, data):
    topology = build_topology(cluster)
    trunks = np.flatnonzero(topology.vertex_kind[topology.src] >= VertexKind.LEAF)
    trunks = trunks[(topology.vertex_kind[topology.dst[trunks]] >= VertexKind.LEAF)]
    if not len(trunks):
        return
    dead = np.random.default_rng(seed).choice(trunks, size=data.draw(st.integers(1, 4)))
    broken = topology.degraded(np.unique(np.append(dead, dead ^ 1)), 0)
    src, dst = random_pairs(topology, seed, n=40)
    for kind in ("d_mod_k", "hash", "spray"):
        with suppress(InfeasiblePlan):  # nothing but dead cables between two of them
            assert broken.loads(broken.routes(src, dst, RoutingRule(kind=kind)), 1.0)[dead].max() == 0


@given(cluster=clusters, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_keys_give_every_way_between_leaves_however_large_they_are(cluster, seed):
    fabric = build_topology(cluster).wiring.fabric
    rng = np.random.default_rng(seed)
    ports = len(fabric.forest.leaf)
    src = int(rng.integers(ports))
    same_plane = np.flatnonzero((np.arange(ports) - src) % fabric.n_planes == 0)
    dst = int(rng.choice(same_plane))
    if src == dst:
        return
    keys = np.arange(fabric.n_ways)
    few = np.unique(fabric.paths(np.full_like(keys, src), np.full_like(keys, dst), keys), axis=0)
    more = rng.integers(2**62, size=500)
    every = np.unique(fabric.paths(np.full_like(more, src), np.full_like(more, dst), more), axis=0)
    assert {tuple(way) for way in every.tolist()} <= {tuple(way) for way in few.tolist()}


@given(cluster=clusters.filter(lambda cluster: cluster.spec.storage), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_routes_to_and_from_storage_are_simple_ways(cluster, seed):
    topology = build_topology(cluster)
    gpus, _ = random_pairs(topology, seed)
    ports = np.random.default_rng(seed).choice(topology.storage_endpoints.ravel(), size=len(gpus))
    assert_routes_are_simple_ways(topology, ports, gpus)
    assert_routes_are_simple_ways(topology, gpus, ports)


@given(cluster=clusters)
@settings(max_examples=100, deadline=None)
def test_every_switch_is_within_its_ports_and_every_end_point_on_a_leaf(cluster):
    topology = build_topology(cluster)
    cables = np.bincount(topology.src, minlength=topology.n_vertices)
    assert cables[topology.vertex_kind >= VertexKind.LEAF].max() <= cluster.switch.ports.value
    ports = np.isin(topology.vertex_kind, [VertexKind.NIC, VertexKind.STORAGE_NIC])
    counts = topology.counts()
    assert counts.endpoint_ports == ports.sum()
    storage = cluster.spec.storage
    assert counts.endpoint_ports == counts.nics + (storage.nodes * storage.nics if storage else 0)


@given(cluster=clusters, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_bytes_are_conserved(cluster, seed):
    topology = build_topology(cluster)
    src, dst = random_pairs(topology, seed)
    sizes = np.random.default_rng(seed).integers(1, 1000, size=len(src))
    routes = topology.routes(src, dst)
    loads = topology.loads(routes, sizes)
    assert loads.sum() == (sizes * routes.n_hops).sum()
    # what enters a vertex and what starts there is what leaves it and what ends there
    n = topology.n_vertices
    into = np.bincount(topology.dst, loads, minlength=n) + np.bincount(src, sizes, minlength=n)
    out = np.bincount(topology.src, loads, minlength=n) + np.bincount(dst, sizes, minlength=n)
    assert (into == out).all()


@given(cluster=two_level, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_leaf_reaches_a_destination_through_one_spine(cluster, seed):
    topology = build_topology(cluster)
    forest = topology.wiring.fabric.forest
    src, dst = np.random.default_rng(seed).integers(len(forest.leaf), size=(2, 300))
    plane = topology.wiring.endpoints.nic % topology.wiring.fabric.n_planes
    same = plane[src] == plane[dst]
    src, dst = src[same], dst[same]
    paths = topology.wiring.fabric.paths(src, dst, topology.wiring.fabric.slot[dst])
    first = {}
    for leaf, destination, up, down in zip(forest.leaf[src], dst, paths[:, 1], paths[:, 2], strict=True):
        assert first.setdefault((leaf, destination), (up, down)) == (up, down)


@given(cluster=clusters, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_way_there_and_back_take_as_long(cluster, seed):
    topology = build_topology(cluster)
    src, dst = random_pairs(topology, seed)
    there, back = topology.routes(src, dst), topology.routes(dst, src)
    direct = topology.wiring.fabric.n_planes == 1 and cluster.spec.fabric.kind != "two_zone"
    if direct:  # elsewhere the rail, or the border leaf that the destination picks, may differ
        assert there.latency_s == pytest.approx(back.latency_s)
    assert (there.latency_s >= 0).all()


def max_flow(topology, left, right):
    """The most that end points on the left can send to those on the right, by networkx."""
    first = topology.wiring.node.first_nic
    fabric = topology.graph().subgraph(range(first, topology.n_vertices)).copy()
    for _, _, data in fabric.edges(data=True):
        data["capacity"] = round(data["bandwidth_bytes_per_s"])
    for end in left:
        fabric.add_edge("left", first + end)
    for end in right:
        fabric.add_edge(first + end, "right")
    return nx.maximum_flow_value(fabric, "left", "right")


BISECTIONS = {
    "full": small(8, TWO_LEVEL, count=32),
    "half full": small(8, TWO_LEVEL, count=20),
    "irregular": small(8, TWO_LEVEL, count=24),
    "planes": small(8, replace(TWO_LEVEL, planes=2), count=24, nics=2),
    "tapered": small(8, replace(TWO_LEVEL, leaves=8, spines=2), count=32),
    "overfull": small(8, replace(TWO_LEVEL, leaves=4, spines=3), count=21),
    "pods": small(4, THREE_LEVEL, count=16),
    "irregular pods": small(6, THREE_LEVEL, count=40),
    "zones": small(8, zones(links=2, leaves=4, spines=4), count=20, storage=4),
    "narrow zones": small(8, zones(links=4, leaves=4, spines=1), count=24, storage=1),
}


@pytest.mark.parametrize("case", BISECTIONS)
def test_bisection_is_the_maximum_flow_between_the_halves(case):
    cluster = BISECTIONS[case]
    topology = build_topology(cluster)
    forest = topology.wiring.fabric.forest
    leaves, trees = forest.shape.leaves, forest.shape.n_trees
    halvings = {"two_level": ["leaf"], "two_zone": ["leaf", "tree"], "three_level": ["tree"]}
    flows = []
    for halving in halvings[cluster.spec.fabric.kind]:
        within = forest.leaf % leaves < leaves // 2
        on_left = within if halving == "leaf" else forest.leaf // leaves < trees // 2
        flows.append(max_flow(topology, np.flatnonzero(on_left).tolist(), np.flatnonzero(~on_left).tolist()))
    assert topology.bisection_bytes_per_s() == pytest.approx(min(flows))
