"""Fabrics beyond plain trees: rails, fewer cables up, dragonflies, slim flies, a user's graph; counts and prices."""

import csv
import json
from dataclasses import replace
from functools import cache

import networkx as nx
import numpy as np
import pytest

from ffsim.config import Override
from ffsim.economics import network_cost
from ffsim.errors import ModelDomainError, ScenarioError
from ffsim.hardware import Switch, load_part
from ffsim.study import Scenario, run
from ffsim.topology import (
    DragonflySpec,
    LinkKind,
    NetworkCounts,
    RailOptimizedSpec,
    SlimFlySpec,
    ThreeLevelSpec,
    TwoLevelSpec,
    VertexKind,
    build_topology,
    full_network,
    load_cluster,
    topology_from_graph,
)

TWO_LEVEL = TwoLevelSpec(kind="two_level", switch="any")
THREE_LEVEL = ThreeLevelSpec(kind="three_level", switch="any")
RAILS = RailOptimizedSpec(kind="rail_optimized", switch="any")
DRAGONFLY = DragonflySpec(kind="dragonfly", switch="any")
SLIM_FLY = SlimFlySpec(kind="slim_fly", switch="any")


@cache
def shipped(name):
    return load_cluster(name)


def under(fabric, count=256, ports=64, nics=8):
    """Nodes of H800 under a fabric of switches with so many ports."""
    base = shipped("h800-2048")
    nodes = replace(base.spec.nodes, count=count, nics=nics)
    switch = replace(base.switch, ports=replace(base.switch.ports, value=ports))
    return replace(base, spec=replace(base.spec, fabric=fabric, nodes=nodes), switch=switch)


def refused(fabric, **size):
    with pytest.raises(ScenarioError) as caught:
        build_topology(under(fabric, **size))
    return str(caught.value)


def switches_joined(topology, kind):
    """The two switches of every cable of a kind."""
    links = np.flatnonzero(topology.link_kind == kind)[::2]
    return topology.src[links], topology.dst[links]


# --- rails ------------------------------------------------------------------------------------------------------------


def test_rails_of_2048_gpus_take_the_switches_of_eight_planes():
    # 8 groups of 32 nodes x 8 rails = 64 leaves of 32 + 32 ports; 32 spines of 64
    counts = build_topology(shipped("h800-2048-mrft")).counts()
    assert (counts.leaves, counts.spines, counts.interswitch_links) == (64, 32, 2048)
    assert counts.network == build_topology(shipped("h800-2048")).counts().network


def test_a_rail_turns_at_its_leaf_within_a_group_and_spines_reach_the_other_rails():
    topology = build_topology(shipped("h800-2048-mrft"))
    # GPU 3 of node 0 to: GPU 3 of node 31 (same group), GPU 4 there, GPU 3 of node 32 (next group)
    routes = topology.routes(3, [31 * 8 + 3, 31 * 8 + 4, 32 * 8 + 3])
    assert routes.n_hops.tolist() == [4, 6, 6]
    arrived = topology.src[routes.links[1, 5]]
    assert arrived == topology.wiring.node.first_nic + 31 * 8 + 4  # the destination's own NIC


def test_groups_are_filled_evenly_unless_their_size_is_given():
    even = build_topology(under(RAILS, count=33)).wiring.fabric.forest
    assert np.bincount(even.leaf).tolist() == [17] * 8 + [16] * 8
    filled = build_topology(under(replace(RAILS, nodes_per_group=32), count=33)).wiring.fabric.forest
    assert np.bincount(filled.leaf).tolist() == [32] * 8 + [1] * 8


def test_rails_that_need_more_leaves_than_a_spine_has_ports_are_refused():
    message = refused(RAILS, count=257)
    assert "257 nodes in groups of 29 need 72 leaf switches, and spines of 64 ports join 64" in message


@pytest.mark.slow
def test_training_takes_as_long_on_rails_as_on_planes(v3):
    # arXiv 2505.09343 Table 4 finds no difference
    rails = run(Scenario(cluster="h800-2048-mrft", workload="deepseek-v3-pretrain", ranges=False))
    assert rails.headline["step_s"] == pytest.approx(v3.headline["step_s"], rel=0.002)


# --- fewer cables up --------------------------------------------------------------------------------------------------


def test_four_ports_down_for_each_cable_up():
    # 64 ports: 12 up, 48 down; 1,600 end points on 34 leaves, at most 48 each; 34 x 12 cables fill 6.4 spines
    topology = build_topology(under(replace(TWO_LEVEL, oversubscription=4.0), count=200))
    counts = topology.counts()
    assert (counts.leaves, counts.spines, counts.interswitch_links) == (34, 7, 34 * 12)
    assert counts.oversubscription == 4.0
    access = shipped("h800-2048").port_bytes_per_s(shipped("h800-2048").nic)
    assert topology.bisection_bytes_per_s() == pytest.approx(17 * 12 * access, rel=0.02)


def test_the_ratio_holds_for_the_ports_in_use():
    # 100 end points on 3 leaves: 34 or 33 down, so ceil(34 / 4) = 9 up
    counts = build_topology(under(replace(TWO_LEVEL, oversubscription=4.0), count=100, nics=1)).counts()
    assert (counts.leaves, counts.spines, counts.interswitch_links) == (3, 1, 27)
    assert counts.oversubscription == pytest.approx(34 / 9)


def test_the_top_of_three_levels_can_be_thinner():
    # spines of 48 down and 16 up: pods of 48 leaves and 32 spines hold 1,536; 6 pods of 42 leaves, 28 spines, 16 up
    counts = build_topology(under(replace(THREE_LEVEL, oversubscription=3.0), count=1000)).counts()
    assert (counts.leaves, counts.spines, counts.cores) == (6 * 42, 6 * 28, 6 * 28 * 16 // 64)
    assert counts.interswitch_links == 6 * (42 * 32 + 28 * 16)
    assert counts.oversubscription == 3.0


def test_ratios_that_do_not_fit_are_refused():
    thin = replace(TWO_LEVEL, oversubscription=64.0)
    assert refused(thin) == (
        "h800-2048: fabric: at oversubscription 64 a switch of 64 ports has none to go up; use at most 63"
    )
    many = refused(replace(TWO_LEVEL, oversubscription=3.0), count=400)
    assert "3,200 end points are needed a plane; two levels of 64-port switches offer 3,072" in many
    with pytest.raises(ValueError, match="spines and oversubscription both say how many cables go up"):
        replace(TWO_LEVEL, oversubscription=2.0, spines=4)


# --- dragonfly --------------------------------------------------------------------------------------------------------


def test_a_full_dragonfly_joins_any_two_groups_once():
    shape = replace(DRAGONFLY, endpoints_per_switch=2, switches_per_group=4, global_links_per_switch=2)
    topology = build_topology(under(shape, count=9 * 4 * 2, nics=1))
    assert topology.counts().interswitch_links == 9 * 6 + 36
    src, dst = switches_joined(topology, LinkKind.GLOBAL)
    first = np.flatnonzero(topology.vertex_kind == VertexKind.LEAF)[0]
    pairs = set(zip(((src - first) // 4).tolist(), ((dst - first) // 4).tolist(), strict=True))
    assert len(pairs) == 36


@pytest.mark.parametrize(
    ("groups", "least", "most", "unused"), [(2, 8, 8, 0), (3, 4, 4, 0), (4, 2, 3, 0), (7, 1, 2, 0)]
)
def test_global_cables_are_dealt_evenly(groups, least, most, unused):
    shape = replace(DRAGONFLY, endpoints_per_switch=2, switches_per_group=4, global_links_per_switch=2, groups=groups)
    topology = build_topology(under(shape, count=groups * 8, nics=1))
    src, dst = switches_joined(topology, LinkKind.GLOBAL)
    first = np.flatnonzero(topology.vertex_kind == VertexKind.LEAF)[0]
    between = np.zeros((groups, groups), dtype=int)
    np.add.at(between, ((src - first) // 4, (dst - first) // 4), 1)
    between = (between + between.T)[np.triu_indices(groups, 1)]
    assert (between.min(), between.max()) == (least, most)
    assert 2 * len(src) == groups * 8  # no port stays free


def test_a_port_left_over_in_an_odd_number_of_groups_stays_free():
    # 3 global ports a group and two other groups: one cable to each, one port free
    shape = replace(DRAGONFLY, endpoints_per_switch=1, switches_per_group=3, global_links_per_switch=1, groups=3)
    assert build_topology(under(shape, count=9, nics=1)).counts().interswitch_links == 3 * 3 + 3
    assert full_network(shape, 4).interswitch_links == 3 * 3 + 3


def test_a_shift_by_a_group_uses_all_global_cables_alike():
    topology = build_topology(shipped("h800-2048-dragonfly"))
    gpus = np.arange(2048)
    loads = topology.loads(topology.routes(gpus, (gpus + 512) % 2048), 1.0)[topology.link_kind == LinkKind.GLOBAL]
    # 512 GPUs of a group over 170 or 171 cables to the next
    assert loads.max() <= 2 * 512 / 170


def test_a_broken_global_cable_is_avoided_while_there_is_another():
    topology = build_topology(shipped("h800-2048-dragonfly"))
    way = topology.routes(0, 1024).links[0]
    cable = int(way[topology.link_kind[way] == LinkKind.GLOBAL][0])
    again = topology.degraded([cable, cable ^ 1], 0.0).routes(0, 1024).links[0]
    assert cable not in again
    assert (topology.link_kind[again] == LinkKind.GLOBAL).sum() == 1


def test_neighbours_share_a_switch_by_rail_or_by_node():
    by_rail = build_topology(shipped("h800-2048-dragonfly"))
    by_node = build_topology(load_cluster("h800-2048-dragonfly", [Override.parse("fabric.order=by_node")]))
    assert by_rail.routes(3, [8 + 3, 8 + 4]).n_hops.tolist() == [4, 5]
    assert by_node.routes(3, [8 + 3, 8 + 4, 16 + 3]).n_hops.tolist() == [4, 4, 5]


def test_everything_that_does_not_fit_a_dragonfly_is_named_at_once():
    shape = replace(DRAGONFLY, endpoints_per_switch=30, switches_per_group=32, global_links_per_switch=10, groups=400)
    message = refused(shape)
    assert message.splitlines() == [
        (
            "h800-2048: fabric: a switch needs 71 ports (30 for end points, 31 for its group, 10 for others) "
            "and has 64; use fewer of one of them"
        ),
        (
            "h800-2048: fabric: 400 groups are needed, and 32 switches with 10 global links each join 321; "
            "use larger groups, more global links or fewer nodes"
        ),
    ]
    assert "2,048 end points are needed; 3 groups offer 1,536" in refused(replace(DRAGONFLY, groups=3))


# --- slim fly ---------------------------------------------------------------------------------------------------------


def switch_graph(topology):
    src, dst = switches_joined(topology, LinkKind.LOCAL)
    return nx.Graph(zip(src.tolist(), dst.tolist(), strict=True))


def test_the_slim_fly_of_five_is_the_hoffman_singleton_graph():
    # the only 7-regular graph of 50 vertices with diameter 2 and girth 5
    graph = switch_graph(build_topology(under(replace(SLIM_FLY, q=5), count=25)))
    assert {degree for _, degree in graph.degree} == {7}
    assert (len(graph), nx.diameter(graph), nx.girth(graph)) == (50, 2, 5)


@pytest.mark.parametrize(("q", "degree"), [(3, 5), (7, 11), (11, 17), (13, 19), (17, 25)])
def test_slim_flies_are_regular_and_have_diameter_two(q, degree):
    topology = build_topology(under(replace(SLIM_FLY, q=q), count=2 * q * q, nics=1))
    graph = switch_graph(topology)
    assert {each for _, each in graph.degree} == {degree}
    assert len(graph) == 2 * q * q
    assert topology.wiring.fabric.diameter == nx.diameter(graph) == 2


def test_slim_flies_that_cannot_be_wired_are_refused():
    assert refused(replace(SLIM_FLY, q=28)) == (
        "h800-2048: fabric: q is 28, and only a slim fly of an odd prime can be wired here; use 23 or 29"
    )
    assert "q = 29 needs 43 ports of a switch for others and 22 for end points, and it has 64" in refused(
        replace(SLIM_FLY, q=29)
    )
    assert "2,048 end points are needed; q = 5 offers 200; use a larger q" in refused(replace(SLIM_FLY, q=5))
    assert "the largest slim fly of 64-port switches wired here offers 19,044" in refused(SLIM_FLY, count=4000)
    with pytest.raises(ScenarioError, match="a slim fly needs q = 4w - 1"):
        full_network(replace(SLIM_FLY, q=6), 64)


# --- counts and prices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fabric", "ports", "count", "nics"),
    [
        (TWO_LEVEL, 16, 128, 1),
        (replace(TWO_LEVEL, planes=4), 16, 128, 4),
        (replace(TWO_LEVEL, oversubscription=3.0), 16, 192, 1),
        (RAILS, 16, 16, 8),
        (THREE_LEVEL, 8, 128, 1),
        (replace(THREE_LEVEL, oversubscription=3.0), 8, 192, 1),
        (replace(DRAGONFLY, groups=5), 12, 18 * 5, 1),
        (replace(DRAGONFLY, groups=19), 12, 18 * 19, 1),
        (replace(SLIM_FLY, q=7), 17, 588, 1),
        (replace(SLIM_FLY, q=5), 17, 200, 1),
    ],
)
def test_wired_networks_count_as_the_closed_forms(fabric, ports, count, nics):
    assert build_topology(under(fabric, count, ports, nics)).counts().network == full_network(fabric, ports)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fabric", "count", "switches", "links"),
    [(THREE_LEVEL, 8192, 5120, 131072), (replace(DRAGONFLY, groups=511), 32704, 16352, 384272)],
)
def test_the_largest_published_networks_can_be_wired(fabric, count, switches, links):
    # arXiv 2505.09343 Table 3, FT3 and DF
    counts = build_topology(under(fabric, count)).counts()
    assert counts.network == NetworkCounts(endpoints=8 * count, switches=switches, interswitch_links=links)


def test_two_zones_count_as_fire_flyer_2_would_when_full():
    # 2 x 40 leaves x 20 ports less 2 x 20 to the other zone
    assert full_network(shipped("fire-flyer-2").spec.fabric, 40) == NetworkCounts(
        endpoints=1560, switches=122, interswitch_links=2 * 40 * 20 + 40
    )


def test_a_network_costs_its_switches_and_the_links_between_them():
    switch = load_part(Switch, "ndr-64x400g")
    cost = network_cost(NetworkCounts(endpoints=100, switches=3, interswitch_links=50), switch)
    assert (cost.switches_usd, cost.links_usd, cost.cost_usd) == (3 * 83e3, 50 * 500, 274e3)
    assert cost.cost_per_endpoint_usd == 2740
    assert (cost.low_usd, cost.high_usd) == (3 * 36e3 + 50 * 460, 3 * 120e3 + 50 * 3000)
    with pytest.raises(ModelDomainError, match=r"Mellanox QM8700.*has no prices"):
        network_cost(NetworkCounts(endpoints=1, switches=1, interswitch_links=0), load_part(Switch, "qm8700"))


# --- a user's own graph -----------------------------------------------------------------------------------------------


def ring(n_switches=4, nodes=4, **edge):
    """One port of each node on a ring of switches, as a user would draw it."""
    graph = nx.Graph(name="ring")
    cable = {"bandwidth": "400 Gbit/s", "latency": "0.5 us", **edge}
    for number in range(n_switches):
        graph.add_node(f"s{number}", kind="switch")
        graph.add_edge(f"s{number}", f"s{(number + 1) % n_switches}", **cable)
    for node in range(nodes):
        graph.add_node(f"node{node}/nic0", kind="endpoint", node=node, nic=0)
        graph.add_edge(f"node{node}/nic0", f"s{node % n_switches}", **cable)
    return graph


def of_nodes(count, nics=1):
    return under(TWO_LEVEL, count=count, nics=nics)


def complaints(graph, count=4, nics=1):
    with pytest.raises(ScenarioError) as caught:
        topology_from_graph(graph, of_nodes(count, nics))
    return str(caught.value).splitlines()


def test_a_ring_is_routed_the_short_way_and_both_ways_where_they_are_equal():
    topology = topology_from_graph(ring(), of_nodes(4))
    hosts = topology.wiring.endpoints
    paths = topology.wiring.fabric.paths(np.array([0, 0, 0]), np.array([1, 2, 2]), np.array([0, 0, 1]))
    assert (paths >= 0).sum(axis=1).tolist() == [3, 4, 4]
    assert paths[1, 1] != paths[2, 1]
    assert topology.wiring.fabric.n_ways == 2
    nic = shipped("h800-2048").nic
    assert hosts.n_compute == 4
    assert topology.bandwidth_bytes_per_s[topology.link_kind == LinkKind.LOCAL] == pytest.approx(50e9 * 0.9)
    assert topology.routes(0, 8).latency_s[0] == pytest.approx(2 * nic.latency.value + 3 * 0.5e-6)
    assert topology.bisection_bytes_per_s() == pytest.approx(2 * 45e9)  # nodes 0 and 1 from 2 and 3: two cables


def test_a_slow_cable_of_an_end_point_binds_its_nic():
    graph = ring()
    graph.edges["node1/nic0", "s1"]["bandwidth"] = "100 Gbit/s"
    topology = topology_from_graph(graph, of_nodes(4))
    access = topology.bandwidth_bytes_per_s[topology.link_kind == LinkKind.ACCESS][::2]
    assert access == pytest.approx([45e9, 12.5e9, 45e9, 45e9])  # a faster NIC fills a slower port


def tree_as_graph(topology):
    """A wired cluster's fabric in the form in which users give theirs."""
    graph = nx.MultiGraph()
    first = topology.wiring.node.first_nic
    nics = topology.counts().nics // topology.counts().nodes
    for vertex in range(first, topology.n_vertices):
        place = vertex - first
        port = {"kind": "endpoint", "node": place // nics, "nic": place % nics}
        graph.add_node(vertex, **(port if place < topology.counts().nics else {"kind": "switch"}))
    for src, dst in zip(topology.src[::2].tolist(), topology.dst[::2].tolist(), strict=True):
        if src >= first and dst >= first:
            graph.add_edge(src, dst, bandwidth="400 Gbit/s", latency="0.45 us")
    return graph


@pytest.mark.parametrize(
    ("fabric", "ports"),
    [(TWO_LEVEL, 8), (replace(TWO_LEVEL, oversubscription=2.0), 12), (THREE_LEVEL, 4), (RAILS, 8)],
)
def test_a_tree_given_as_a_graph_is_the_same_tree(fabric, ports):
    cluster = under(fabric, count=8, ports=ports, nics=2)
    tree = build_topology(cluster)
    again = topology_from_graph(tree_as_graph(tree), cluster)
    assert again.counts().network == tree.counts().network
    src, dst = np.divmod(np.arange(16 * 16), 16)
    apart = src != dst
    assert (again.port_routes(src[apart], dst[apart]).n_hops == tree.port_routes(src[apart], dst[apart]).n_hops).all()
    if fabric is not RAILS:  # its leaves are halved, not its nodes
        assert again.bisection_bytes_per_s() == pytest.approx(tree.bisection_bytes_per_s())


CLUSTER = """\
kind: cluster
title: A ring
nodes:
  count: 4
  gpu: h800-sxm
  gpus: 8
  interconnect: nvswitch
  nic: cx7-400g
  nics: 1
  power: {value: 8 kW, source: {ref: test, kind: published}}
fabric: {kind: graph, file: FILE}
rental: {value: 2 USD/GPU-hour, source: {ref: test, kind: published}}
pue: {value: 1.2, source: {ref: test, kind: published}}
energy_price: {value: 0.08 USD/kWh, source: {ref: test, kind: published}}
"""


def write(folder, name, graph):
    path = folder / name
    if path.suffix == ".graphml":
        nx.write_graphml(graph, path)
    elif path.suffix == ".json":
        links = [{"source": a, "target": b, **data} for a, b, data in graph.edges(data=True)]
        path.write_text(
            json.dumps({"nodes": [{"id": v, **data} for v, data in graph.nodes(data=True)], "links": links})
        )
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["a", "b", "bandwidth", "latency"])
            writer.writerows((a, b, data["bandwidth"], data["latency"]) for a, b, data in graph.edges(data=True))
    (folder / "ring.yaml").write_text(CLUSTER.replace("FILE", name))
    return str(folder / "ring.yaml")


@pytest.mark.parametrize("name", ["mine.graphml", "mine.json", "mine.csv"])
def test_a_graph_file_stands_beside_its_cluster_file(tmp_path, name):
    topology = build_topology(load_cluster(write(tmp_path, name, ring())))
    counts = topology.counts()
    assert (counts.nics, counts.switches, counts.interswitch_links) == (4, 4, 4)
    assert topology.routes(0, 16).n_hops.tolist() == [6]


def test_everything_wrong_with_a_graph_is_said_at_once():
    graph = ring()
    graph.add_node("odd", kind="router")
    graph.add_node("bare")
    graph.add_node("lost", kind="endpoint", node=4)
    graph.nodes["node3/nic0"]["node"] = 2
    graph.edges["s0", "s1"]["bandwidth"] = "0 Gbit/s"
    graph.edges["s1", "s2"]["bandwidth"] = "-5 Gbit/s"
    graph.edges["s2", "s3"]["bandwidth"] = float("nan")
    del graph.edges["s3", "s0"]["latency"]
    graph.edges["node0/nic0", "s0"]["n_links"] = 2
    assert complaints(graph) == [
        "graph: vertex odd: got kind 'router'; use endpoint or switch",
        "graph: vertex bare: has no kind; use endpoint or switch",
        "graph: vertex lost: has no nic; an end point needs node and nic, whole numbers from 0",
        "graph: vertex node3/nic0: is node 2 nic 0, as vertex node2/nic0 is; name each port once",
        "graph: has no end point for node 3 nic 0; the cluster has 4 nodes x 1 nics",
        "graph: edge s0 - s1: bandwidth '0 Gbit/s' is zero; leave out cables that carry nothing",
        "graph: edge s0 - s3: has no latency; add it, such as 0.5 us",
        "graph: edge s1 - s2: bandwidth '-5 Gbit/s' is negative; give more than 0",
        (
            "graph: edge s2 - s3: bandwidth: nan has no unit; add one of Mbit/s, Gbit/s, Tbit/s, MB/s, GB/s, TB/s, "
            "MiB/s, GiB/s, TiB/s"
        ),
        "graph: vertex node0/nic0: hangs on 2 cables; a port has one: give the node more nics",
        "graph: falls into 4 parts without a way between them: those of bare, lost, node0/nic0 and 1 more; add cables",
    ]


def test_a_graph_must_fit_the_cluster_and_its_switch(tmp_path):
    assert complaints(ring(), count=6) == [
        "graph: has no end point for node 4 nic 0, node 5 nic 0; the cluster has 6 nodes x 1 nics"
    ]
    assert complaints(ring(nodes=6)) == [
        "graph: has end points that the cluster lacks: node 4 nic 0, node 5 nic 0; the cluster has 4 nodes x 1 nics"
    ]
    path = write(tmp_path, "wide.graphml", ring(n_links=40))
    (tmp_path / "ring.yaml").write_text(
        (tmp_path / "ring.yaml").read_text().replace("wide.graphml", "wide.graphml, switch: ndr-64x400g")
    )
    with pytest.raises(ScenarioError, match="vertex s0: has 120 cables, and the switch has 64 ports"):
        load_cluster(path)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none.graphml", None, "cannot be read: No such file or directory; check the path"),
        ("mine.png", "", "cannot tell what '.png' is; use one of .graphml, .json, .csv"),
        ("mine.graphml", "<graphml><", "is not GraphML: "),
        ("mine.json", "{", "is not a node-link graph: "),
        ("mine.json", '{"nodes": []}', "is not a node-link graph: no 'edges'; write"),
        ("mine.json", '{"directed": true, "nodes": [], "links": []}', "is a directed graph; save it undirected"),
        ("mine.csv", "from,to\ns0,s1\n", "mine.csv:2: got from, to; needs columns a, b, bandwidth, latency, n_links"),
        ("mine.csv", "a,b\n", "has no vertices; add end points and switches"),
    ],
)
def test_files_that_are_no_graphs(tmp_path, name, text, expected):
    path = write(tmp_path, "mine.csv", ring())
    (tmp_path / "mine.csv").unlink()
    (tmp_path / "ring.yaml").write_text(CLUSTER.replace("FILE", name))
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_cluster(path)
    assert expected in str(caught.value)


def test_switches_of_a_graph_keep_their_names():
    topology = topology_from_graph(ring(), of_nodes(4))
    first = np.flatnonzero(topology.vertex_kind == VertexKind.LEAF)[0]
    assert [topology.vertex_name(first + number) for number in range(4)] == ["s0", "s1", "s2", "s3"]
