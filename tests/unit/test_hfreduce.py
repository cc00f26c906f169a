from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ffsim.collectives import HfReduceStage, hfreduce, hfreduce_bounds, load_hfreduce
from ffsim.engine import simulate_flows
from ffsim.topology import LinkKind, RoutingRule, build_topology, load_cluster

MIB = 2**20
MESSAGE = 186 * MIB  # arXiv 2408.14158 Figure 7
FIGURES = load_hfreduce()


@cache
def fire_flyer():
    return build_topology(load_cluster("fire-flyer-2"))


def simulated(nodes, size=MESSAGE, figures=FIGURES, **options):
    operation = hfreduce(fire_flyer(), nodes, size, figures, **options)
    return operation, simulate_flows(operation.flows, fire_flyer().bandwidth_bytes_per_s)


@cache
def algbw(n_nodes, across=False, **options):
    """Algorithm bandwidth in GB/s of the published message."""
    nodes = np.arange(n_nodes)
    if across:
        nodes[n_nodes // 2 :] += 625
    return MESSAGE / simulated(nodes, **options)[1].makespan_s / 1e9


@pytest.mark.parametrize(
    ("n_nodes", "published", "rel_tol"),
    [(2, 8.1, 0.05), (16, 7.78, 0.07), pytest.param(128, 6.31, 0.12, marks=pytest.mark.slow)],
)
def test_bandwidth_over_pcie_as_published(n_nodes, published, rel_tol):
    """arXiv 2408.14158 Figure 7a. Buffers, trees and root_port_both were chosen within their ranges knowing these."""
    assert algbw(n_nodes) == pytest.approx(published, rel=rel_tol)


@pytest.mark.parametrize(("n_nodes", "published"), [(4, 13.0), (8, 12.07), (16, 10.3)])
def test_bandwidth_with_nvlink_as_published(n_nodes, published):
    """arXiv 2408.14158 Figure 7b; 2 nodes (19.18) are out of reach, see root_port_both in the catalogue."""
    assert algbw(n_nodes, nvlink=True) == pytest.approx(published, rel=0.10)


def test_two_zones_are_as_much_slower_as_published():
    """arXiv 2408.14158 Figure 7b: 9.27 of 10.3 GB/s at 16 nodes."""
    assert algbw(16, across=True, nvlink=True) / algbw(16, nvlink=True) == pytest.approx(0.90, abs=0.04)


def test_one_pair_of_nodes_talks_across_zones():
    built, nodes = fire_flyer(), np.append(np.arange(8), 625 + np.arange(8))
    flows = hfreduce(built, nodes, MESSAGE, FIGURES).flows
    joints = np.isin(flows.links.values, np.flatnonzero(built.link_kind == LinkKind.INTERZONE))
    across = np.unique(np.repeat(np.arange(len(flows)), np.diff(flows.links.start))[joints])
    ends = {
        frozenset(np.intersect1d(flows.links.values[slice(*flows.links.start[f : f + 2])], memory(nodes)))
        for f in across
    }
    assert ends == {frozenset(memory(nodes[[0, 8]]))}


def memory(nodes):
    """Links of the memories by the NICs of some nodes."""
    built = fire_flyer()
    return np.flatnonzero((built.link_kind == LinkKind.MEMORY) & np.isin(built.src, built.hub(nodes)))


@pytest.mark.parametrize("n_nodes", [2, 16])
def test_the_shared_root_port_binds(n_nodes):
    operation = hfreduce(fire_flyer(), range(n_nodes), MESSAGE, FIGURES)
    bounds = hfreduce_bounds(operation, fire_flyer())
    assert bounds.kind is LinkKind.ROOT_PORT_BUS
    assert bounds.lower_s == pytest.approx(4 * MESSAGE / 33e9)  # two GPUs, in and out


def test_with_nvlink_the_nic_binds_and_turned_trees_load_all_alike():
    size = 48 * 4 * MIB  # chunks go round the four pairs of trees twelve times
    bounds = hfreduce_bounds(hfreduce(fire_flyer(), range(8), size, FIGURES, nvlink=True), fire_flyer())
    assert bounds.kind is LinkKind.ACCESS
    assert bounds.lower_s == pytest.approx(2 * size * 7 / 8 / 24.5e9)
    once = replace(FIGURES, tree_pairs=replace(FIGURES.tree_pairs, value=1))
    alone = hfreduce_bounds(hfreduce(fire_flyer(), range(8), size, once, nvlink=True), fire_flyer())
    assert alone.lower_s == pytest.approx(2 * size / 24.5e9)  # a node with four edges


@pytest.mark.parametrize("nvlink", [False, True])
@pytest.mark.parametrize("size", [1, MIB, 20 * MIB, MESSAGE])
@pytest.mark.parametrize("nodes", [(0,), (3, 7), (0, 1, 2, 3, 4), (0, 1, 2, 700, 701)])
def test_simulated_time_lies_between_the_closed_forms(nodes, size, nvlink):
    operation, times = simulated(nodes, size, nvlink=nvlink)
    bounds = hfreduce_bounds(operation, fire_flyer())
    assert bounds.lower_s <= times.makespan_s * (1 + 1e-9)
    assert times.makespan_s <= bounds.upper_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("options", "in_node"),
    [
        ({}, 8 + 8 + 1 + 2),
        ({"gdrcopy": False}, 8 + 8 + 1 + 8),
        ({"nvlink": True}, 4 + 4 + 1 + 2),
    ],
)
@pytest.mark.parametrize("n_nodes", [1, 2, 8, 31])
def test_memory_operations_add_up_to_the_published_count(n_nodes, options, in_node):
    """24 times the data with GDRCopy and 30 with copies (arXiv 2408.14158 s4.4), 16 with NVLink, for many nodes."""
    operation, times = simulated(range(n_nodes), 8 * MIB, **options)
    moved = times.link_bytes[fire_flyer().link_kind == LinkKind.MEMORY].sum() / n_nodes / operation.size_bytes
    between = 5 * (n_nodes - 1) / n_nodes  # sent and received twice, added up once
    assert moved == pytest.approx(in_node + between)


@pytest.mark.parametrize("options", [{}, {"nvlink": True}, {"gdrcopy": False}])
def test_folding_gpus_changes_nothing(options):
    folded, expanded = (simulated(range(5), 50 * MIB, fold=fold, **options) for fold in (True, False))
    assert len(expanded[0].flows) > 1.5 * len(folded[0].flows)
    assert folded[1].makespan_s == pytest.approx(expanded[1].makespan_s, rel=1e-9)
    for stage in (HfReduceStage.CPU_REDUCE, HfReduceStage.TREE_DOWN):
        ends = [times.end_s[operation.stage == stage] for operation, times in (folded, expanded)]
        assert ends[0] == pytest.approx(ends[1], rel=1e-9)


def test_bytes_are_conserved():
    operation, times = simulated(range(6), 30 * MIB)
    flows, n = operation.flows, operation.size_bytes
    sent = {stage: flows.size_bytes[operation.stage == stage] for stage in HfReduceStage}
    assert sent[HfReduceStage.COPY_OUT].sum() == pytest.approx(6 * 3 * n)  # three groups of GPUs a node
    assert sent[HfReduceStage.CPU_REDUCE].sum() == pytest.approx(6 * n)
    access = times.link_bytes[fire_flyer().link_kind == LinkKind.ACCESS]
    assert access.sum() == pytest.approx(2 * 2 * 5 * n)  # five edges a tree, up and down, out of a NIC and into one
    moved = np.repeat(flows.size_bytes, np.diff(flows.links.start)) * flows.weight
    assert times.link_bytes.sum() == pytest.approx(moved.sum())


def test_sprayed_flows_carry_as_much():
    shipped = load_cluster("fire-flyer-2")
    sprayed = build_topology(replace(shipped, spec=replace(shipped.spec, routing=RoutingRule(kind="spray"))))
    nodes = range(0, 120, 20)  # on different leaves
    loads = [
        simulate_flows(hfreduce(built, nodes, 30 * MIB, FIGURES).flows, built.bandwidth_bytes_per_s).link_bytes
        for built in (fire_flyer(), sprayed)
    ]
    kind = sprayed.link_kind
    assert np.bincount(kind, loads[0]) == pytest.approx(np.bincount(kind, loads[1]))
    assert loads[1][kind == LinkKind.LEAF_SPINE].max() < loads[0][kind == LinkKind.LEAF_SPINE].max() / 5


def test_chunks_wait_for_buffers():
    small = replace(FIGURES, copy_buffers=replace(FIGURES.copy_buffers, value=64.0 * MIB))  # two chunks
    operation, times = simulated(range(4), 40 * MIB, small)
    assert operation.n_in_flight == 2
    out, into = (operation.stage == stage for stage in (HfReduceStage.COPY_OUT, HfReduceStage.COPY_IN))
    node = np.arange(operation.n_chunks * 4 * 3) // 3 % 4
    begins = times.start_s[out][(operation.chunk[out] == 5) & (node == 2)]
    assert begins.min() >= times.end_s[into][(operation.chunk[into] == 3) & (node == 2)].max()
    assert times.makespan_s > simulated(range(4), 40 * MIB)[1].makespan_s


def test_a_host_without_description_limits_only_its_gpus_links():
    built = build_topology(load_cluster("fire-flyer-1"))
    operation = hfreduce(built, range(4), 40 * MIB, FIGURES)
    bounds = hfreduce_bounds(operation, built)
    assert bounds.kind is LinkKind.ACCESS
    assert simulate_flows(operation.flows, built.bandwidth_bytes_per_s).makespan_s >= bounds.lower_s


def test_nothing_to_add_up_takes_no_time():
    assert simulated(range(4), 0)[1].makespan_s == 0


@pytest.mark.parametrize(
    ("cluster", "nodes", "options", "message"),
    [
        ("h800-2048", [0, 1], {}, "nodes whose GPUs meet on PCIe"),
        ("fire-flyer-2-2022", [0, 1], {"nvlink": True}, "no NVLink bridges"),
        ("fire-flyer-1", [0, 0], {}, "give each once, from 0 to 274"),
        ("fire-flyer-1", [275], {}, "give each once, from 0 to 274"),
        ("fire-flyer-1", [], {}, "n_ranks >= 1"),
    ],
)
def test_what_cannot_be_run_is_refused(cluster, nodes, options, message):
    with pytest.raises(ValueError, match=message):
        hfreduce(build_topology(load_cluster(cluster)), nodes, MIB, FIGURES, **options)
