"""Flows on shared links: what the solver and the building of flows cost. Counts are exact, times pytest-benchmark's.

``make bench`` runs them; the solver is compiled before the clock starts.
"""

import resource
import subprocess
import sys

import numpy as np
import pytest

from ffsim.collectives import (
    direct_all_to_all,
    double_tree_all_reduce,
    fold_steps,
    hfreduce,
    load_hfreduce,
    lower,
    unroll,
)
from ffsim.engine import Costs, Csr, Flows, TaskGraph, execute, simulate_flows
from ffsim.topology import RoutingRule, build_topology, load_cluster

pytestmark = pytest.mark.slow

HOSTS = 1024
GIGABYTE = 1e9


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """1,024 hosts of one port, 32 to a leaf."""
    file = tmp_path_factory.mktemp("clusters") / "hosts.yaml"
    file.write_text(
        "kind: cluster\nbase: h800-2048\ntitle: 1,024 hosts\n"
        "nodes: {count: 1024, gpus: 1, nics: 1, interconnect: pcie}\n"
        "fabric: {kind: two_level, switch: ndr-64x400g, planes: 1}\n"
    )
    topology = build_topology(load_cluster(str(file)))
    warm = lower(unroll(direct_all_to_all(4, 1.0)), topology, np.arange(4))
    simulate_flows(warm, topology.bandwidth_bytes_per_s)
    return topology


@pytest.fixture(scope="module")
def fire_flyer():
    return build_topology(load_cluster("fire-flyer-2"))


def test_all_to_all_expanded(benchmark, hosts):
    """1.05 million flows, their routes included."""

    def run():
        flows = lower(unroll(direct_all_to_all(HOSTS, HOSTS * 1e6)), hosts, np.arange(HOSTS))
        return simulate_flows(flows, hosts.bandwidth_bytes_per_s)

    times = benchmark.pedantic(run, rounds=3)
    assert len(times.end_s) == 1_047_552
    assert times.n_events == 2_095_104
    benchmark.extra_info["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


def test_all_to_all_between_ports(benchmark, hosts):
    """The same flows without what lies inside the hosts: four links each, as SimGrid runs them."""
    pattern = unroll(direct_all_to_all(HOSTS, HOSTS * 1e6))

    def run():
        start, links, _ = hosts.port_routes(pattern.src, pattern.dst).lists()
        flows = Flows(links=Csr(start, links), size_bytes=pattern.bytes_)
        return simulate_flows(flows, hosts.bandwidth_bytes_per_s)

    assert benchmark.pedantic(run, rounds=3).n_events == 2_095_104


def test_all_to_all_folded(benchmark, hosts):
    """The same by symmetry: as long as the last of all flows to within the spread of latencies."""
    collective = direct_all_to_all(HOSTS, HOSTS * 1e6)

    def run():
        return simulate_flows(fold_steps(collective, hosts, np.arange(HOSTS)), hosts.bandwidth_bytes_per_s)

    assert benchmark(run).makespan_s == pytest.approx(0.0227361, rel=1e-4)


def test_double_tree_of_1250_nodes(benchmark, fire_flyer):
    """1 GB in 16 chunks over both trees, all flows with their order."""

    def run():
        flows = lower(double_tree_all_reduce(1250, GIGABYTE, chunks=16), fire_flyer, fire_flyer.hub(np.arange(1250)))
        return simulate_flows(flows, fire_flyer.bandwidth_bytes_per_s)

    times = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    assert len(times.end_s) == 79_936
    assert times.n_events == 159_872


def test_hfreduce_of_128_nodes(benchmark, fire_flyer):
    """186 MiB, from the GPUs' ports up."""

    def run():
        operation = hfreduce(fire_flyer, np.arange(128), 186 * 2**20, load_hfreduce())
        return simulate_flows(operation.flows, fire_flyer.bandwidth_bytes_per_s)

    assert len(benchmark.pedantic(run, rounds=3, warmup_rounds=1).end_s) == 66_176


def one_pipeline(stages, micro_batches):
    """1F1B: three kernels and a send per stage, micro-batch and direction. Returns lanes, slots and edges."""
    first, lane, slot, edges = {}, [], [], []
    for stage in range(stages):
        warm = min(stages - stage, micro_batches)
        order = [("F", i) for i in range(warm)]
        for i in range(micro_batches):
            order.append(("B", i))
            order += [("F", i + warm)] if i + warm < micro_batches else []
        for kind, i in order:
            first[stage, kind, i] = len(lane)
            lane += [2 * stage] * 3 + [2 * stage + 1]
            slot += [0, 1, 2, 6] if kind == "F" else [3, 4, 5, 6]
    for (stage, kind, i), task in first.items():
        edges.append((task + 2, task + 3))
        following = (stage + 1, "F", i) if kind == "F" else (stage - 1, "B", i)
        if following in first:
            edges.append((task + 3, first[following]))
        elif kind == "F":
            edges.append((task + 2, first[stage, "B", i]))
    return np.array(lane), np.array(slot), np.array(edges)


@pytest.mark.usefixtures("hosts")
def test_a_million_tasks_of_pipelines(benchmark):
    """128 replicas of 16 stages and 64 micro-batches: copied, joined and run."""
    lane, slot, edges = one_pipeline(16, 64)
    nothing = np.zeros(0, dtype=np.int64)
    moves = Csr(np.zeros(8, dtype=np.int64), nothing)
    costs = Costs(np.array([1, 1, 1, 2, 2, 2, 0.3]) * 1e-3, nothing, np.zeros(0), moves, np.zeros(0))
    copies = np.arange(128)

    def run():
        graph = TaskGraph(
            (lane + copies[:, None] * 32).ravel(),
            np.tile(slot, len(copies)),
            (edges + copies[:, None, None] * len(lane)).reshape(-1, 2),
        )
        return execute(graph, costs)

    timeline = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    assert timeline.n_events == 1_048_576
    assert timeline.makespan_s == pytest.approx(0.7557)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_open_arrivals(benchmark, hosts, load):
    """10,000 flows of 1 MB on average between random hosts, hashed, as a Poisson process."""
    rng, n = np.random.default_rng(0), 10_000
    src = rng.integers(HOSTS, size=n)
    dst = (src + rng.integers(1, HOSTS, size=n)) % HOSTS
    rate = 45e9
    start, links, _ = hosts.routes(src, dst, RoutingRule(kind="hash")).lists()
    flows = Flows(
        links=Csr(start, links),
        size_bytes=rng.exponential(1e6, n),
        start_s=np.cumsum(rng.exponential(1e6 / rate / load / HOSTS, n)),
    )
    times = benchmark.pedantic(simulate_flows, (flows, hosts.bandwidth_bytes_per_s), rounds=5)
    assert times.n_events == 2 * n


def test_a_window_saves_reallocations(benchmark, hosts):
    """An all-to-all of 64 hosts with sizes all different, hashed; ends within 0.5 % of each other end together."""
    rng = np.random.default_rng(0)
    flows = lower(unroll(direct_all_to_all(64, 64e6)), hosts, np.arange(64), rule=RoutingRule(kind="hash"))
    flows = Flows(links=flows.links, size_bytes=flows.size_bytes * rng.uniform(0.5, 1.5, len(flows)))
    exact = simulate_flows(flows, hosts.bandwidth_bytes_per_s)
    window = 0.005 * exact.makespan_s
    rough = benchmark.pedantic(
        simulate_flows, (flows, hosts.bandwidth_bytes_per_s), {"window_s": window}, rounds=3, warmup_rounds=1
    )
    assert rough.makespan_s == pytest.approx(exact.makespan_s, rel=0.01)
    assert np.abs(rough.end_s / exact.end_s - 1).max() < 0.03
    benchmark.extra_info["reallocations"] = f"{rough.n_reallocations} for {exact.n_reallocations}"


@pytest.mark.usefixtures("hosts")
def test_cached_start(benchmark):
    """A new process that imports the engine and runs a flow, the solver compiled already."""
    code = (
        "import numpy as np; from ffsim.engine import Csr, Flows, simulate_flows; "
        "simulate_flows(Flows(links=Csr(np.array([0, 1]), np.array([0])), size_bytes=np.ones(1)), np.ones(1))"
    )
    benchmark.pedantic(subprocess.run, ([sys.executable, "-c", code],), {"check": True}, rounds=3, warmup_rounds=1)
