"""Every operation by every algorithm: folded against expanded, closed forms against the engine, refusals."""

import numpy as np
import pytest

from ffsim.collectives.catalogue import ALGORITHMS, Request, build, bus_factor
from ffsim.engine import simulate_flows
from ffsim.errors import InfeasiblePlan, ModelDomainError
from ffsim.topology import RoutingRule, build_topology, load_cluster

CLUSTERS = {name: load_cluster(name) for name in ("h800-2048", "fire-flyer-2")}
TOPOLOGIES = {name: build_topology(cluster) for name, cluster in CLUSTERS.items()}
SIZE = 64 * 2**20
CASES = [(name, algorithm, op) for name in CLUSTERS for algorithm, ops in ALGORITHMS.items() for op in ops]


def run(name, algorithm, op, *, detail="steps", nodes=4, per_node=8, size=SIZE, rule=None):
    if op == "send_recv":
        nodes, per_node = 2, 1
    request = Request(
        op=op, algorithm=algorithm, size_bytes=size, nodes=tuple(range(nodes)), gpus_per_node=per_node, rule=rule
    )
    built = build(TOPOLOGIES[name], CLUSTERS[name], request, detail=detail)
    return built, simulate_flows(built.flows, TOPOLOGIES[name].bandwidth_bytes_per_s).makespan_s


def refused(name, algorithm):
    return algorithm.startswith("hfreduce") and name == "h800-2048"


@pytest.mark.parametrize(("name", "algorithm", "op"), [case for case in CASES if not refused(*case[:2])])
def test_folded_and_expanded_take_the_same_time(name, algorithm, op):
    """To the latencies that ranks in different places have: steps begin together when folded, one by one expanded."""
    folded, seconds = run(name, algorithm, op)
    every, expanded = run(name, algorithm, op, detail="flows")
    assert expanded == pytest.approx(seconds, rel=0.02)
    assert expanded <= seconds * (1 + 1e-9)
    for built, took in ((folded, seconds), (every, expanded)):
        assert built.lower_s <= took * (1 + 1e-9)
    if folded.upper_s is not None and "tree" not in algorithm:
        assert seconds <= folded.upper_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("algorithm", "op"), [("ring", "all_reduce"), ("direct", "all_to_all"), ("nccl", "all_gather")]
)
def test_folding_is_exact_where_all_ranks_are_alike(algorithm, op):
    """Eight nodes at one leaf, one rank each: every step has one latency."""
    folded, expanded = (
        run("h800-2048", algorithm, op, detail=detail, nodes=8, per_node=1)[1] for detail in ("steps", "flows")
    )
    assert expanded == pytest.approx(folded, rel=1e-9)


def test_runs_of_a_step_together_load_every_link_as_all_of_them_do():
    topology = TOPOLOGIES["fire-flyer-2"]
    together, apart = (
        run("fire-flyer-2", "ring", "all_reduce", detail=detail)[0].flows for detail in ("links", "flows")
    )
    loads = [simulate_flows(flows, topology.bandwidth_bytes_per_s).link_bytes for flows in (together, apart)]
    np.testing.assert_allclose(*loads)
    assert len(together) * 50 < len(apart)


def test_a_rule_is_followed():
    static, sprayed = (
        run("fire-flyer-2", "direct", "all_to_all", nodes=40, per_node=1, detail="flows", rule=rule)[0].flows
        for rule in (None, RoutingRule(kind="spray"))
    )
    assert static.weight is None
    assert sprayed.weight.min() == pytest.approx(1 / 19)  # all cables of a leaf with 21 ports below


@pytest.mark.parametrize("n_nodes", [2, 8, 32, 64])
def test_nccls_ring_on_fire_flyer_is_within_the_published_band(n_nodes):
    """3.73 to 4.83 GB/s at 16 to 512 GPUs, 186 MiB (arXiv 2408.14158 Figure 7a)."""
    size = 186 * 2**20
    _, seconds = run("fire-flyer-2", "nccl-ring", "all_reduce", nodes=n_nodes, size=size)
    assert 3.73e9 <= size / seconds <= 4.83e9


def test_nccl_chooses_by_size():
    chosen = {size: run("h800-2048", "nccl", "all_reduce", nodes=16, size=size)[0].chosen for size in (2**10, 2**32)}
    assert "LL" in chosen[2**10]
    assert chosen[2**32] == "ring Simple"


def test_bus_bandwidth_follows_nccl_tests():
    assert [bus_factor(op, 4) for op in ("all_reduce", "reduce_scatter", "all_to_all", "send_recv")] == [
        1.5,
        0.75,
        0.75,
        1,
    ]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"algorithm": "rng"}, ModelDomainError, "did you mean ring?"),
        ({"op": "all_to_all"}, ModelDomainError, "ring does no all_to_all; use one of hierarchical, direct, nccl"),
        ({"nodes": (0, 9999)}, InfeasiblePlan, "10,000 nodes are wanted and 1,250 are there"),
        ({"nodes": (3, 3)}, ModelDomainError, "named twice"),
        ({"gpus_per_node": 9}, InfeasiblePlan, "9 GPUs of a node are wanted and it has 8"),
        ({"algorithm": "hfreduce", "gpus_per_node": 4}, ModelDomainError, "all 8 GPUs"),
        ({"algorithm": "nccl-tree", "nodes": (0,)}, ModelDomainError, "joins nodes"),
    ],
)
def test_what_cannot_be_is_refused(changes, error, says):
    fields = {"op": "all_reduce", "algorithm": "ring", "size_bytes": SIZE, "nodes": (0, 1), "gpus_per_node": 8}
    with pytest.raises(error, match=says.replace("?", r"\?")):
        build(TOPOLOGIES["fire-flyer-2"], CLUSTERS["fire-flyer-2"], Request(**fields | changes))


def test_too_many_flows_are_refused_before_they_are_built():
    with pytest.raises(ModelDomainError, match="flows, 5,000,000 can run"):
        run("fire-flyer-2", "ring", "all_reduce", nodes=128, detail="flows")


def test_links_that_carry_nothing_leave_no_trace():
    cluster = CLUSTERS["fire-flyer-2"]
    whole = TOPOLOGIES["fire-flyer-2"]
    dead = whole.degraded(np.flatnonzero(whole.src == whole.dst[whole.link_kind == 5][0]), 0.0)
    request = Request(op="all_reduce", algorithm="nccl-ring", size_bytes=SIZE, nodes=tuple(range(32)), gpus_per_node=8)
    built = build(dead, cluster, request)
    assert 0 < built.lower_s < built.upper_s < 1
