"""Laws of the fabrics whose ways are not those of a plain tree, small and random."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffsim.topology import (
    DragonflySpec,
    RailOptimizedSpec,
    SlimFlySpec,
    ThreeLevelSpec,
    TwoLevelSpec,
    VertexKind,
    build_topology,
    load_cluster,
    topology_from_graph,
)
from ffsim.topology.dragonfly import Dragonfly

TWO_LEVEL = TwoLevelSpec(kind="two_level", switch="any")
THREE_LEVEL = ThreeLevelSpec(kind="three_level", switch="any")
RAILS = RailOptimizedSpec(kind="rail_optimized", switch="any")
DRAGONFLY = DragonflySpec(kind="dragonfly", switch="any")
SLIM_FLY = SlimFlySpec(kind="slim_fly", switch="any")


@cache
def shipped(name):
    return load_cluster(name)


def small(fabric, ports, count, nics=1, storage=0):
    """A cluster of small switches, as many nodes as asked for, with or without storage."""
    base = shipped("h800-2048")
    nodes = replace(base.spec.nodes, count=count, nics=nics)
    stores = replace(shipped("fire-flyer-2").spec.storage, nodes=storage) if storage else None
    switch = replace(base.switch, ports=replace(base.switch.ports, value=ports))
    spec = replace(base.spec, nodes=nodes, fabric=fabric, storage=stores)
    return replace(base, spec=spec, switch=switch, storage_nic=base.nic if storage else None)


def dragonfly(p, a, h, groups, share, nics, storage, order):
    groups = min(groups, a * h + 1)
    shape = replace(
        DRAGONFLY, endpoints_per_switch=p, switches_per_group=a, global_links_per_switch=h, groups=groups, order=order
    )
    count = max(1, int(share * (groups * a * p - 2 * storage) / nics))
    return small(shape, p + a - 1 + h, count, nics, storage if groups * a * p >= nics + 2 * storage else 0)


storage = st.integers(0, 2)
nics = st.sampled_from([1, 2, 4])
orders = st.sampled_from(["by_node", "by_rail"])
dragonflies = st.builds(
    dragonfly,
    st.integers(4, 5),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 16),
    st.floats(0, 1),
    nics,
    storage,
    orders,
)
slim_flies = st.builds(
    lambda q, order, nics, share, storage: small(
        replace(SLIM_FLY, q=q, order=order), 32, max(1, int(share * (2 * q * q * 3 - 4) / nics)), nics, storage
    ),
    st.sampled_from([3, 5, 7]),
    orders,
    nics,
    st.floats(0, 1),
    storage,
)
rails = st.builds(
    lambda ports, share, nics, storage, ratio: small(
        replace(RAILS, oversubscription=ratio),
        ports,
        max(1, int(share * (ports // nics) * (ports // 2 - 1))),
        nics,
        storage,
    ),
    st.sampled_from([8, 12, 16]),
    st.floats(0, 0.8),
    nics,
    storage,
    st.sampled_from([None, 1.0, 2.0]),
)
thin_trees = st.builds(
    lambda fabric, ports, ratio, share: small(
        replace(fabric, oversubscription=ratio), ports, max(1, int(share * ports * (ports // 2)))
    ),
    st.sampled_from([TWO_LEVEL, THREE_LEVEL]),
    st.sampled_from([6, 8, 12]),
    st.floats(1, 4),
    st.floats(0, 1),
)
clusters = st.one_of(dragonflies, slim_flies, rails, thin_trees)


def ends_of_links(fabric):
    cables = fabric.cables
    return np.column_stack([cables.a, cables.b]).ravel(), np.column_stack([cables.b, cables.a]).ravel()


def walk(fabric, src, dst, keys):
    """Follow the ways link by link, and count their links."""
    links = fabric.paths(src, dst, keys)
    tail, head = ends_of_links(fabric)
    here = src
    for column in links.T:
        used = column >= 0
        assert (tail[column[used]] == here[used]).all()
        here = np.where(used, head[column], here)
    assert (here == dst).all()
    return links, (links >= 0).sum(axis=1)


def pairs_of(topology, seed, n=300):
    rng = np.random.default_rng(seed)
    n_ends = len(topology.wiring.endpoints)
    src, dst = rng.integers(n_ends, size=(2, n))
    keys = rng.integers(2**62, size=n)
    apart = src != dst
    return src[apart], dst[apart], keys[apart]


@given(cluster=clusters, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_ways_are_connected_within_the_diameter_and_always_the_same(cluster, seed):
    topology = build_topology(cluster)
    fabric = topology.wiring.fabric
    src, dst, keys = pairs_of(topology, seed)
    given_keys = keys.copy()
    links, hops = walk(fabric, src, dst, keys)
    most = {"dragonfly": 5, "slim_fly": 4, "rail_optimized": 4, "two_level": 4, "three_level": 6}
    assert hops.max(initial=0) <= most[cluster.spec.fabric.kind]
    assert (keys == given_keys).all()
    assert (build_topology(cluster).wiring.fabric.paths(src, dst, keys) == links).all()


@given(cluster=clusters)
@settings(max_examples=120, deadline=None)
def test_every_switch_is_within_its_ports_and_every_end_point_on_one(cluster):
    topology = build_topology(cluster)
    cables = np.bincount(topology.src, minlength=topology.n_vertices)
    assert cables[topology.vertex_kind >= VertexKind.LEAF].max() <= cluster.switch.ports.value
    assert topology.counts().endpoint_ports == len(topology.wiring.endpoints)


def shortest_ways(fabric, graph, source, destination):
    """By networkx; in a dragonfly those over at most one global cable."""
    if not isinstance(fabric, Dragonfly):
        return set(map(tuple, nx.all_shortest_paths(graph, source, destination)))
    n = len(fabric.endpoints)
    group = {n + switch: switch // fabric.shape.switches for switch in range(graph.number_of_nodes() - n)}
    group |= {end: group[n + switch] for end, switch in enumerate(fabric.home.tolist())}
    near = graph.subgraph([vertex for vertex in graph if group[vertex] in {group[source], group[destination]}])
    ways = map(tuple, nx.all_shortest_paths(near, source, destination))
    return {way for way in ways if sum(group[a] != group[b] for a, b in pairwise(way)) <= 1}


def as_graph(fabric):
    tail, head = ends_of_links(fabric)
    return nx.Graph(zip(tail.tolist(), head.tolist(), strict=True))


@given(cluster=st.one_of(dragonflies, slim_flies, rails), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_ways_are_the_shortest_and_keys_find_them_all(cluster, seed):
    topology = build_topology(cluster)
    fabric = topology.wiring.fabric
    graph = as_graph(fabric)
    _tail, head = ends_of_links(fabric)
    src, dst, _ = pairs_of(topology, seed, n=6)
    for source, destination in zip(src.tolist(), dst.tolist(), strict=True):
        every = np.arange(fabric.n_ways)
        links, _ = walk(fabric, np.full_like(every, source), np.full_like(every, destination), every)
        found = {(source, *head[row[row >= 0]].tolist()) for row in links}
        assert found == shortest_ways(fabric, graph, source, destination)


@given(degree=st.integers(3, 4), half=st.integers(3, 10), parallel=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_random_graph_is_routed_along_shortest_ways(degree, half, parallel, seed):
    drawn = nx.random_regular_graph(degree, 2 * half, seed=seed)
    ends = [f"node{vertex}/nic0" for vertex in drawn if nx.has_path(drawn, 0, vertex)]
    graph = nx.MultiGraph()
    for number, vertex in enumerate(sorted(nx.node_connected_component(drawn, 0))):
        graph.add_node(vertex, kind="switch")
        graph.add_node(ends[number], kind="endpoint", node=number, nic=0)
        graph.add_edge(ends[number], vertex, bandwidth="200 Gbit/s", latency="1 us")
    for a, b in drawn.edges:
        if a in graph:
            graph.add_edge(a, b, bandwidth="200 Gbit/s", latency="1 us", n_links=parallel)
    topology = topology_from_graph(graph, small(TWO_LEVEL, 64, len(ends)))
    fabric = topology.wiring.fabric
    shortest = dict(nx.all_pairs_shortest_path_length(as_graph(fabric)))
    src, dst, keys = pairs_of(topology, seed, n=100)
    _, hops = walk(fabric, src, dst, keys)
    assert hops.tolist() == [shortest[a][b] for a, b in zip(src.tolist(), dst.tolist(), strict=True)]
    used = np.arange(fabric.n_ways)
    paths, _ = walk(fabric, np.full_like(used, src[0]), np.full_like(used, dst[0]), used)
    ways = list(nx.all_shortest_paths(as_graph(fabric), int(src[0]), int(dst[0])))
    assert len(np.unique(paths, axis=0)) == len(ways) * parallel ** (len(ways[0]) - 3)


def max_flow(topology, on_left):
    """The most that the end points on the left can send to the others, by networkx."""
    first = topology.wiring.node.first_nic
    fabric = topology.graph().subgraph(range(first, topology.n_vertices)).copy()
    for _, _, data in fabric.edges(data=True):
        data["capacity"] = round(data["bandwidth_bytes_per_s"])
    for end, left in enumerate(on_left.tolist()):
        fabric.add_edge(*(("left", first + end) if left else (first + end, "right")))
    return nx.maximum_flow_value(fabric, "left", "right")


BISECTIONS = {
    "rails": small(replace(RAILS, nodes_per_group=3), 8, 12, nics=2),
    "thin rails": small(replace(RAILS, oversubscription=2.0), 9, 12, nics=2),
    "thin leaves": small(replace(TWO_LEVEL, oversubscription=3.0), 8, 24),
    "thin spines": small(replace(THREE_LEVEL, oversubscription=3.0), 8, 90),
    "dragonfly": small(replace(DRAGONFLY, groups=4), 8, 32),
    "full dragonfly": small(replace(DRAGONFLY, groups=9), 8, 72),
    "one group": small(replace(DRAGONFLY, groups=1), 8, 8),
    "slim fly": small(replace(SLIM_FLY, q=3, order="by_node"), 8, 54),
}


@pytest.mark.parametrize("case", BISECTIONS)
def test_bisection_is_the_maximum_flow_between_the_halves(case):
    cluster = BISECTIONS[case]
    topology = build_topology(cluster)
    switch = topology.wiring.fabric.cables.b[: len(topology.wiring.endpoints)] - len(topology.wiring.endpoints)
    unit = {"thin spines": 1, "dragonfly": 4, "full dragonfly": 4}.get(case, 1)
    if case == "thin spines":
        unit = topology.wiring.fabric.forest.shape.leaves
    n_units = (int(switch.max()) + 1) // unit
    assert topology.bisection_bytes_per_s() == pytest.approx(max_flow(topology, switch // unit < n_units // 2))
