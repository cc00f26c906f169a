"""Collectives: what they move, their closed forms against the engine, and DeepEP's published rates."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim.collectives import (
    Routing,
    direct_all_to_all,
    dissemination_barrier,
    double_tree_all_reduce,
    double_tree_all_reduce_s,
    expert_exchange,
    experts_at_same_cost,
    fold,
    hierarchical_all_reduce,
    hierarchical_all_to_all,
    idle_s,
    load_expert_kernels,
    lower,
    member_loads,
    ring_all_gather,
    ring_all_reduce,
    ring_all_reduce_s,
    ring_reduce_scatter,
    send_recv,
    send_recv_s,
    unroll,
)
from ffsim.collectives.rings import channel_orders
from ffsim.collectives.trees import parents
from ffsim.engine import simulate_flows
from ffsim.topology import LinkKind, build_topology, load_cluster

H800 = build_topology(load_cluster("h800-2048"))
FF2 = build_topology(load_cluster("fire-flyer-2"))
V3 = Routing(experts=256, top_k=8, groups=8, top_groups=4)


@pytest.mark.parametrize("n", [2, 3, 8, 64])
def test_a_ring_moves_twice_the_buffer_less_a_share(n):
    collective = ring_all_reduce(n, 1e9)
    assert collective.total_bytes / n == pytest.approx(2 * 1e9 * (n - 1) / n)
    assert collective.n_flows == 2 * (n - 1) * n


@given(n=st.integers(2, 70))
def test_a_double_tree_sums_and_spreads_everything(n):
    """Every rank gives each half up once and gets it back once, over both trees."""
    collective = double_tree_all_reduce(n, 1.0, chunks=4)
    sent = np.bincount(collective.src[collective.pair], collective.bytes_, minlength=n)
    assert collective.total_bytes == pytest.approx(2 * (n - 1))
    assert sent.max() <= 2.0 + 1e-12


@given(n=st.integers(1, 300))
def test_the_first_tree_hangs_together_and_odd_ranks_are_its_leaves(n):
    parent = parents(n)
    assert (parent < 0).sum() == 1
    inner = set(parent.tolist())
    assert all(rank % 2 == 0 for rank in inner if rank > 0)
    for start in range(n):
        rank, seen = start, set()
        while rank >= 0:
            assert rank not in seen
            seen.add(rank)
            rank = parent[rank]


@given(nodes=st.integers(1, 9), per_node=st.integers(1, 8))
def test_every_channel_visits_every_rank_and_shares_the_nics_evenly(nodes, per_node):
    orders = channel_orders(nodes * per_node, per_node)
    assert all(sorted(order.tolist()) == list(range(nodes * per_node)) for order in orders)
    if nodes > 1:
        leaving = []
        for order in orders:
            following = np.roll(order, -1)
            leaving += order[order // per_node != following // per_node].tolist()
        assert np.bincount(leaving, minlength=nodes * per_node).max() == 1


CASES = [
    ("ring over nodes", lambda: ring_all_reduce(16, 64e6), np.arange(16) * 8),
    ("ring over whole nodes", lambda: ring_reduce_scatter(32, 64e6, ranks_per_node=8), np.arange(32)),
    ("all-gather inside a node", lambda: ring_all_gather(8, 64e6, ranks_per_node=8), np.arange(8)),
    ("all-to-all", lambda: direct_all_to_all(24, 64e6), np.arange(24)),
    ("all-to-all in two stages", lambda: hierarchical_all_to_all(24, 64e6, ranks_per_node=8), np.arange(24)),
    ("allreduce in two stages", lambda: hierarchical_all_reduce(32, 64e6, ranks_per_node=8), np.arange(32)),
    ("barrier", lambda: dissemination_barrier(11), np.arange(11) * 8),
    ("send", lambda: send_recv(64e6), np.array([3, 1027])),
    ("dispatch", lambda: expert_exchange("dispatch", 4, 8, V3.reach(4, 8), 7392, 1024), np.arange(32)),
    ("combine", lambda: expert_exchange("combine", 2, 8, V3.reach(2, 8), 14336, 1024), np.arange(16)),
]


@pytest.mark.parametrize("topology", [H800, FF2], ids=["nvswitch", "pcie"])
@pytest.mark.parametrize(("collective", "gpus"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_idle_time_is_what_the_engine_finds_flow_by_flow(topology, collective, gpus):
    """Exact where all flows of a step have one latency; else those with less begin, and may end, sooner."""
    built = collective()
    flows = lower(unroll(built, barriers=True), topology, gpus)
    latencies = [topology.routes(gpus[step.src], gpus[step.dst]).latency_s for step in built.steps]
    longest = sum(step.repeat * times.max() for step, times in zip(built.steps, latencies, strict=True))
    spread = sum(step.repeat * np.ptp(times) for step, times in zip(built.steps, latencies, strict=True))
    closed = idle_s(built, topology, gpus)
    without = simulate_flows(replace(flows, latency_s=None), topology.bandwidth_bytes_per_s).makespan_s
    assert without == pytest.approx(closed - longest, rel=1e-9, abs=1e-15)
    simulated = simulate_flows(flows, topology.bandwidth_bytes_per_s).makespan_s
    assert closed - spread - 1e-12 <= simulated <= closed * (1 + 1e-9)


ONE_STAGE = [case for case in CASES if "two stages" not in case[0]]


@pytest.mark.parametrize(("collective", "gpus"), [case[1:] for case in ONE_STAGE], ids=[case[0] for case in ONE_STAGE])
def test_folding_keeps_the_time_of_symmetric_collectives(collective, gpus):
    built = collective()
    assert fold(built, H800, gpus[None, :]).idle_s == pytest.approx(idle_s(built, H800, gpus), rel=1e-9)


def test_textbook_forms_on_one_rank_per_node():
    nic, latency = 45e9, float(H800.routes(0, 8).latency_s[0])
    assert idle_s(ring_all_reduce(16, 1e9), H800, np.arange(16) * 8) == pytest.approx(
        ring_all_reduce_s(1e9, 16, nic, latency), rel=1e-9
    )
    assert idle_s(send_recv(1e9), H800, np.array([0, 8])) == pytest.approx(send_recv_s(1e9, nic, latency), rel=1e-9)
    flows = lower(double_tree_all_reduce(16, 1e9, chunks=64), H800, np.arange(16) * 8)
    tree = simulate_flows(flows, H800.bandwidth_bytes_per_s).makespan_s
    assert 2 * 15 / 16 * 1e9 / nic <= tree <= double_tree_all_reduce_s(1e9, 16, nic, latency, chunks=64)


def test_ring_allreduce_by_hand():
    """1 GB over 4 ranks at 25 GB/s: 2 x 3 steps of 10 ms."""
    assert ring_all_reduce_s(1e9, 4, 25e9, 0.0) == pytest.approx(0.06)


@pytest.mark.parametrize(("nodes", "dispatch", "combine"), [(4, 58, 57), (8, 51, 50)])
def test_expert_traffic_reaches_deepeps_published_rates(nodes, dispatch, combine):
    """GB/s per GPU, a token counted once per destination node. Source: DeepEP README, April 2025, 32 and 64 H800."""
    gpus = np.arange(nodes * 8)
    for name, size, published in (("dispatch", 7392, dispatch), ("combine", 14336, combine)):
        collective = expert_exchange(name, nodes, 8, V3.reach(nodes, 8), size, 4096)
        rate = collective.size_bytes / idle_s(collective, H800, gpus) / 1e9
        assert rate == pytest.approx(published, rel=0.06)


def test_the_network_binds_expert_traffic_over_eight_nodes():
    demand = fold(expert_exchange("dispatch", 8, 8, V3.reach(8, 8), 7392, 4096), H800, np.arange(64)[None, :])
    assert demand.binding is LinkKind.ACCESS
    assert demand.imbalance == pytest.approx(1)


def test_routing_statistics_against_counting():
    rng = np.random.default_rng(3)
    nodes, ranks = [], []
    for _ in range(4000):
        groups = rng.choice(8, 4, replace=False)
        allowed = np.concatenate([np.arange(32) + 32 * group for group in groups])
        experts = rng.choice(allowed, 8, replace=False)
        nodes.append(len(set((experts // 32).tolist())))
        ranks.append(len(set((experts // 4).tolist())))
    assert V3.touched(8) == pytest.approx(np.mean(nodes), rel=0.01)
    assert V3.touched(64) == pytest.approx(np.mean(ranks), rel=0.01)
    assert V3.touched(1) == pytest.approx(1)


def test_routing_statistics_where_a_part_holds_several_groups():
    rng = np.random.default_rng(4)
    halves = []
    for _ in range(4000):
        groups = rng.choice(8, 4, replace=False)
        allowed = np.concatenate([np.arange(32) + 32 * group for group in groups])
        experts = rng.choice(allowed, 8, replace=False)
        halves.append(len(set((experts // 128).tolist())))
    assert V3.touched(2) == pytest.approx(np.mean(halves), rel=0.01)


def test_published_experts_at_the_same_cost():
    """arXiv 2412.19437 s3.2.2: 3.2 experts on each of 4 nodes, about 13 in all."""
    assert experts_at_same_cost(160e9, 50e9, 4) == pytest.approx(13, rel=0.02)


def test_a_busy_fabric_counts_all_groups_that_run_at_once():
    one = fold(ring_all_reduce(4, 1e9), FF2, np.arange(4)[None, :] * 8)
    eight = fold(ring_all_reduce(4, 1e9), FF2, np.arange(8)[:, None] + np.arange(4)[None, :] * 8)
    assert eight.idle_s > 7 * one.idle_s  # eight GPUs of a node share its one NIC


def test_kernel_figures_have_ranges_and_sources():
    kernels = load_expert_kernels()
    assert kernels.beside_compute_share.bounds == (0.5, 0.9)
    assert "profile-data" in kernels.beside_compute_share.source.ref


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: ring_all_reduce(0, 1.0), "n_ranks >= 1"),
        (lambda: ring_all_reduce(4, -1.0), "size_bytes >= 0"),
        (lambda: ring_all_reduce(4, float("nan")), "size_bytes >= 0"),
        (lambda: ring_all_reduce(6, 1.0, ranks_per_node=4), "do not fill nodes"),
        (lambda: double_tree_all_reduce(4, 1.0, chunks=0), "chunks >= 1"),
        (lambda: V3.touched(3), "do not spread evenly over 3"),
    ],
)
def test_senseless_collectives_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_a_single_rank_has_nothing_to_say():
    assert ring_all_reduce(1, 1e9).n_flows == 0
    assert double_tree_all_reduce(1, 1e9).n_flows == 0
    assert idle_s(ring_all_reduce(1, 1e9), H800, np.array([0])) == 0


@pytest.mark.parametrize(("n_nodes", "per_node"), [(2, 8), (3, 8), (5, 4), (32, 8)])
def test_every_ring_stays_on_its_rail_and_every_nic_carries_one(n_nodes, per_node):
    orders = channel_orders(n_nodes * per_node, per_node)
    following = np.roll(orders, -1, axis=1)
    between = orders // per_node != following // per_node
    np.testing.assert_array_equal(orders[between] % per_node, following[between] % per_node)
    np.testing.assert_array_equal(np.sort(orders[between]), np.arange(n_nodes * per_node))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(n_nodes * per_node), (per_node, 1)))


def test_members_together_load_the_links_as_all_flows_do():
    collective = expert_exchange("dispatch", 2, 8, Routing(experts=64, top_k=4).reach(2, 8), 100.0, 64)
    groups = np.arange(32).reshape(2, 16)
    _, links, sizes = member_loads(collective, H800, groups)
    step = collective.steps[0]
    routes = H800.routes(groups[:, step.src].ravel(), groups[:, step.dst].ravel())
    expected = H800.loads(routes, np.tile(step.bytes_, 2))
    np.testing.assert_allclose(np.bincount(links, weights=sizes, minlength=H800.n_links), expected)
