import time
from dataclasses import replace
from functools import cache

import networkx as nx
import numpy as np
import pytest

from ffsim.errors import InfeasiblePlan
from ffsim.topology import (
    SHELF,
    Counts,
    LinkKind,
    VertexKind,
    build_topology,
    load_cluster,
    place_contiguously,
)

CLUSTERS = SHELF.names()


@cache
def cluster(name):
    return load_cluster(name)


@cache
def topology(name):
    return build_topology(cluster(name))


def with_nodes(name, **changes):
    shipped = cluster(name)
    return replace(shipped, spec=replace(shipped.spec, nodes=replace(shipped.spec.nodes, **changes)))


def test_the_clusters_the_papers_describe_are_shipped():
    assert set(CLUSTERS) >= {
        "dgx-a100-10000",
        "fire-flyer-1",
        "fire-flyer-2",
        "fire-flyer-2-2022",
        "fire-flyer-2-three-level",
        "h800-2048",
    }


def test_h800_2048_counts_as_one_two_level_tree_of_2048_end_points():
    # 8 planes x (8 leaves + 4 spines); 8 planes x 8 leaves x 32 cables up (arXiv 2505.09343 Table 3, FT2)
    assert topology("h800-2048").counts() == Counts(
        gpus=2048,
        nodes=256,
        nics=2048,
        switches=96,
        leaves=64,
        spines=32,
        cores=0,
        interzone_switches=0,
        endpoint_ports=2048,
        interswitch_links=2048,
        interzone_links=0,
        oversubscription=1.0,
    )


def test_the_full_multi_plane_tree_counts_as_published():
    # arXiv 2505.09343 Table 3, MPFT: 16,384 end points, 768 switches, 16,384 links
    counts = build_topology(with_nodes("h800-2048", count=2048)).counts()
    assert (counts.endpoint_ports, counts.switches, counts.interswitch_links) == (16384, 768, 16384)


def test_fire_flyer_2_keeps_the_published_switches_and_gives_up_some_cables_up():
    # a zone: 625 + 180 + 20 = 825 ports below 40 leaves, so 25 leaves have 21 below and 19 up, 15 have 20 and 20
    counts = topology("fire-flyer-2").counts()
    assert (counts.switches, counts.leaves, counts.spines, counts.interzone_switches) == (122, 80, 40, 2)
    assert counts.endpoint_ports == 1250 + 2 * 180
    assert counts.interzone_links == 2 * 20
    assert counts.interswitch_links == 2 * (25 * 19 + 15 * 20) + 40
    assert counts.oversubscription == pytest.approx(21 / 19)


def test_three_levels_of_1600_end_points_are_200_switches():
    counts = topology("fire-flyer-2-three-level").counts()
    assert (counts.leaves, counts.spines, counts.cores, counts.switches) == (80, 80, 40, 200)
    assert counts.endpoint_ports == 1240 + 2 * 180 == 1600


def test_three_levels_of_10000_end_points_are_1250_switches_where_1320_are_published():
    counts = topology("dgx-a100-10000").counts()
    assert (counts.leaves, counts.spines, counts.cores, counts.switches) == (500, 500, 250, 1250)
    published = {count.quantity: count.value for count in cluster("dgx-a100-10000").spec.published}
    assert (published["switches"], published["cores"]) == (1320, 320)


@pytest.mark.parametrize(
    ("name", "differing"),
    [
        ("dgx-a100-10000", {"switches", "cores"}),
        ("fire-flyer-1", set()),
        ("fire-flyer-2", set()),
        ("fire-flyer-2-2022", set()),
        ("fire-flyer-2-three-level", set()),
        ("h800-2048", set()),
    ],
)
def test_only_the_known_published_counts_differ_from_ours(name, differing):
    counts = topology(name).counts()
    published = cluster(name).spec.published
    assert {entry.quantity for entry in published if getattr(counts, entry.quantity) != entry.value} == differing


@pytest.mark.parametrize("name", CLUSTERS)
def test_no_switch_has_more_cables_than_ports(name):
    built = topology(name)
    cables = np.bincount(built.src, minlength=built.n_vertices)[built.vertex_kind >= VertexKind.LEAF]
    assert cables.max() <= cluster(name).switch.ports.value
    assert cables.min() >= 1


def test_every_core_of_a_full_three_level_tree_uses_all_its_ports():
    for name in ("dgx-a100-10000", "fire-flyer-2-three-level"):
        built = topology(name)
        cables = np.bincount(built.src, minlength=built.n_vertices)[built.vertex_kind == VertexKind.CORE]
        assert set(cables.tolist()) == {40}


@pytest.mark.parametrize("name", CLUSTERS)
def test_links_come_in_pairs_and_carry_something(name):
    built = topology(name)
    src, dst, rate = (column[: built.n_cable_links] for column in (built.src, built.dst, built.bandwidth_bytes_per_s))
    assert (src[0::2] == dst[1::2]).all()
    assert (src[1::2] == dst[0::2]).all()
    assert (rate[0::2] == rate[1::2]).all()
    assert (built.bandwidth_bytes_per_s > 0).all()
    assert (built.latency_s >= 0).all()


@pytest.mark.parametrize(
    ("name", "kind", "rate"),
    [
        ("h800-2048", LinkKind.SCALE_UP, 160e9),
        ("h800-2048", LinkKind.NIC_PCIE, 55e9),
        ("h800-2048", LinkKind.ACCESS, 45e9),  # 0.9 of 400 Gbit/s
        ("h800-2048", LinkKind.LEAF_SPINE, 45e9),
        ("fire-flyer-2", LinkKind.PCIE, 27e9),
        ("fire-flyer-2", LinkKind.BRIDGE, 240e9),
        ("fire-flyer-2", LinkKind.ACCESS, 24.5e9),  # 0.98 of 200 Gbit/s
        ("fire-flyer-2", LinkKind.INTERZONE, 24.5e9),
    ],
)
def test_links_carry_the_usable_rate_of_their_parts(name, kind, rate):
    built = topology(name)
    assert np.unique(built.bandwidth_bytes_per_s[built.link_kind == kind]) == pytest.approx([rate])


def test_storage_ports_are_end_points_one_in_each_zone():
    built = topology("fire-flyer-2")
    assert built.storage_endpoints.shape == (180, 2)
    assert (built.vertex_kind[built.storage_endpoints] == VertexKind.STORAGE_NIC).all()
    leaf = built.wiring.fabric.forest.leaf[1250:].reshape(180, 2)
    assert (leaf // 40 == [0, 1]).all()
    assert topology("h800-2048").storage_endpoints.size == 0


def test_compute_and_storage_are_spread_evenly_over_the_leaves():
    forest = topology("fire-flyer-2").wiring.fabric.forest
    compute = np.bincount(forest.leaf[:1250], minlength=80)
    storage = np.bincount(forest.leaf[1250:], minlength=80)
    assert (compute.min(), compute.max()) == (15, 16)
    assert (storage.min(), storage.max()) == (4, 5)
    assert (forest.down.min(), forest.down.max()) == (20, 21)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("h800-2048", 1024 * 45e9),  # half of the 2,048 end points
        ("fire-flyer-2", 20 * 24.5e9),  # the inter-zone cables
        ("fire-flyer-2-three-level", 800 * 24.5e9),  # half of 1,600
        ("dgx-a100-10000", 4800 * 24.5e9),  # 12 of 25 pods
    ],
)
def test_bisection_of_the_shipped_clusters(name, rate):
    assert topology(name).bisection_bytes_per_s() == pytest.approx(rate)


def test_fewer_spines_taper_the_tree():
    shipped = cluster("h800-2048")
    tapered = replace(shipped, spec=replace(shipped.spec, fabric=replace(shipped.spec.fabric, spines=2)))
    built = build_topology(tapered)
    # 2 spines x 64 ports / 8 leaves = 16 cables up for 32 end points
    assert built.counts().interswitch_links == 8 * 8 * 16
    assert built.counts().oversubscription == 2.0
    assert built.bisection_bytes_per_s() == pytest.approx(8 * 4 * 16 * 45e9)


def test_a_cluster_of_one_leaf_has_no_spines():
    built = build_topology(with_nodes("h800-2048", count=4))
    counts = built.counts()
    assert (counts.leaves, counts.spines, counts.interswitch_links, counts.oversubscription) == (8, 0, 0, 1.0)
    assert built.bisection_bytes_per_s() == pytest.approx(8 * 2 * 45e9)
    assert built.routes(0, 24).n_hops.tolist() == [4]


def test_the_graph_has_the_same_links_parallel_cables_joined():
    built = topology("h800-2048")
    graph = built.graph()
    assert graph.number_of_nodes() == built.n_vertices
    assert sum(n for _, _, n in graph.edges(data="n_links")) == built.n_links
    assert nx.is_strongly_connected(graph)
    leaf, spine = (
        built.src[built.link_kind == LinkKind.LEAF_SPINE][0],
        built.dst[built.link_kind == LinkKind.LEAF_SPINE][0],
    )
    assert graph.nodes[int(leaf)] == {"kind": "leaf"}
    assert graph.edges[int(leaf), int(spine)] == {
        "kind": "leaf_spine",
        "bandwidth_bytes_per_s": pytest.approx(8 * 45e9),  # 32 cables up over 4 spines
        "latency_s": pytest.approx(0.45e-6),
        "n_links": 8,
    }


def test_derived_figures_of_a_cluster():
    h800, ff2, ff1 = cluster("h800-2048"), cluster("fire-flyer-2"), cluster("fire-flyer-1")
    assert (h800.n_gpus, h800.n_nodes, h800.gpus_per_node) == (2048, 256, 8)
    assert (h800.scale_up_gpus, ff2.scale_up_gpus, ff1.scale_up_gpus) == (8, 2, 1)
    assert (h800.scale_up_bytes_per_s, ff2.scale_up_bytes_per_s, ff1.scale_up_bytes_per_s) == (160e9, 240e9, 27e9)
    assert h800.scale_out_bytes_per_s == pytest.approx(45e9)
    assert ff2.scale_out_bytes_per_s == pytest.approx(24.5e9 / 8)


def test_ten_thousand_gpus_are_wired_in_a_blink():
    shipped = cluster("dgx-a100-10000")
    start = time.perf_counter()
    build_topology(shipped)
    assert time.perf_counter() - start < 0.3  # about 0.02 s; the design allows 0.3


def test_a_topology_prints_on_one_line():
    assert repr(topology("h800-2048")) == "Topology('h800-2048': 2,048 GPUs, 4,448 vertices, 16,384 links)"


def test_ranks_are_placed_on_gpus_in_order():
    placement = place_contiguously(cluster("fire-flyer-2"), 20)
    assert len(placement) == 20
    assert placement.gpu.tolist() == list(range(20))
    assert placement.node.tolist() == [0] * 8 + [1] * 8 + [2] * 4
    assert placement.local[6:10].tolist() == [6, 7, 0, 1]


def test_more_ranks_than_gpus_are_refused():
    with pytest.raises(InfeasiblePlan, match="h800-2048: 2,049 ranks need a GPU each and there are 2,048"):
        place_contiguously(cluster("h800-2048"), 2049)
    with pytest.raises(ValueError, match="n_ranks >= 1"):
        place_contiguously(cluster("h800-2048"), 0)
