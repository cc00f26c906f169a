"""3FS reads: where chunks lie, what binds, what request-to-send and virtual lanes do."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ffsim.config import Override
from ffsim.engine import simulate_flows
from ffsim.errors import InfeasiblePlan, ModelDomainError, ScenarioError
from ffsim.report import present_storage, present_storage_explanation, render
from ffsim.storage import find_paths, load_storage_inputs, simulate_storage, storage_document, unloaded_s, upper_bounds
from ffsim.storage.chains import chain_nodes, choose_servers
from ffsim.storage.reads import draw_reads, links_of
from ffsim.study import Scenario, run_storage
from ffsim.topology import load_cluster

NIC = 24.5e9
SMALL = ("storage.nodes=8", "storage.ssds=4")
STORAGE = tuple(f"storage.{part}" for part in ("nodes=8", "nic=cx7-400g", "nics=1", "ssd=nvme-15tb", "ssds=4"))
SIZE = 128 * 1024


def overrides(texts):
    return [Override.parse(text) for text in texts]


def inputs(*changes, cluster=SMALL, workload="3fs-read"):
    changes = ("clients=4", *changes)
    return load_storage_inputs(
        load_cluster("fire-flyer-2", overrides(cluster)), storage_document(workload, overrides(changes))
    )


@cache
def sample(*changes, cluster=SMALL, seed=0):
    return simulate_storage(inputs(*changes, cluster=cluster), seed).alone


def with_ssd(given, **figures):
    changed = {
        name: replace(getattr(given.ssd, name), value=value, low=value, high=value) for name, value in figures.items()
    }
    return replace(given, ssd=replace(given.ssd, **changed))


def test_every_ssd_holds_and_heads_as_many_targets_and_no_chain_uses_a_node_twice():
    nodes = chain_nodes(7, 3, 6)
    assert nodes.shape == (14, 3)
    assert np.bincount(nodes.ravel()).tolist() == [6] * 7
    assert np.bincount(nodes[:, 0]).tolist() == [2] * 7
    assert all(len(set(chain)) == 3 for chain in nodes.tolist())


def test_load_balance_takes_the_copy_on_the_node_that_serves_fewer_of_the_clients_reads():
    copies = np.array([[[0, 1], [0, 1], [0, 2], [1, 2]]])
    chosen = choose_servers(copies, 3, 4, "load_balance", np.random.default_rng(0))[0]
    assert set(chosen[:2]) == {0, 1}
    assert chosen[2] == 2
    assert chosen[3] == 1 or chosen[3] == 2


def test_one_read_at_a_time_takes_what_its_parts_take():
    given = inputs("clients=1", "in_flight=1", "sample=100")
    run = simulate_storage(given).alone
    way = 2 * 1.175e-6 + 3 * 0.45e-6  # two NICs, three switches: none of these servers shares the client's leaf
    by_hand = 4 * way + 10e-6 + 80e-6 + SIZE / 6.5e9 + SIZE / NIC
    assert unloaded_s(given, find_paths(given)) == pytest.approx(by_hand, rel=1e-9)
    assert run.latency_s == pytest.approx(np.full(len(run.latency_s), by_hand), rel=1e-6)
    assert run.bytes_per_s == pytest.approx(SIZE / by_hand, rel=0.01)  # a sample holds no whole number of reads


def test_with_few_clients_their_nics_bind():
    given = inputs("clients=2", "in_flight=128")
    assert upper_bounds(find_paths(given))["client NICs"] == pytest.approx(2 * NIC)
    run = simulate_storage(given).alone
    assert 0.95 < run.bytes_per_s / (2 * NIC) < 1.01
    assert max(run.parts, key=run.parts.get) == "client NICs"


def test_with_slow_ssds_those_bind():
    given = with_ssd(inputs("in_flight=128"), read=0.2e9)
    bounds = upper_bounds(find_paths(given))
    assert min(bounds, key=bounds.get) == "SSDs"
    assert bounds["SSDs"] == pytest.approx(8 * 4 * 0.2e9)
    assert 0.85 < simulate_storage(given).alone.bytes_per_s / bounds["SSDs"] <= 1.01


def test_small_reads_are_bound_by_the_request_rate_of_ssds():
    given = with_ssd(inputs("size=4 KiB"), read_io_rate=1000.0)
    assert upper_bounds(find_paths(given))["SSDs"] == pytest.approx(8 * 4 * 1000 * 4096)


def test_many_clients_of_one_zone_reach_only_the_nics_in_it():
    both, one = (inputs("clients=40", f"placement={how}") for how in ("spread", "contiguous"))
    assert upper_bounds(find_paths(both))["storage NICs"] == pytest.approx(16 * NIC)
    assert upper_bounds(find_paths(one))["storage NICs"] == pytest.approx(8 * NIC)


def test_bytes_and_times_add_up():
    run = sample("clients=12")
    assert run.server_bytes_per_s.sum() == pytest.approx(run.client_bytes_per_s.sum())
    assert sum(run.parts.values()) == pytest.approx(run.latency_s.mean())
    # Little's law; ends of the sample and reads that have run dry leave some percent
    assert run.bytes_per_s * run.latency_s.mean() == pytest.approx(12 * 32 * SIZE, rel=0.05)
    bounds = upper_bounds(find_paths(inputs("clients=12")))
    assert bounds["all"] == pytest.approx(min(bounds.values()), rel=1e-6)
    assert run.bytes_per_s < bounds["all"] * 1.01


def test_links_that_cannot_bind_are_left_out_without_changing_anything():
    given = inputs("clients=12", "in_flight=8")
    paths = find_paths(given)
    reads = draw_reads(given, paths, 0, 4)
    links, weight = links_of(paths, reads.way, reads.ssd, np.ones_like(paths.can_bind))
    full = simulate_flows(replace(reads.flows, links=links, weight=weight), paths.capacity_bytes_per_s)
    assert paths.can_bind.mean() < 0.7
    assert simulate_flows(reads.flows, paths.capacity_bytes_per_s).end_s == pytest.approx(full.end_s)


def test_the_seed_decides_everything():
    again = simulate_storage(inputs("clients=12"), 0).alone
    assert again.latency_s.tolist() == sample("clients=12").latency_s.tolist()
    assert again.latency_s.tolist() != sample("clients=12", seed=1).latency_s.tolist()


def test_more_reads_in_flight_never_read_less():
    rates = [sample("clients=12", f"in_flight={n}").bytes_per_s for n in (1, 8, 32, 128)]
    assert rates == sorted(rates)


def test_request_to_send_caps_senders_and_costs_a_round_trip():
    capped, free = sample("clients=12", "request_to_send=4"), sample("clients=12", "request_to_send=0")
    assert capped.senders[1] <= 4 < free.senders[1]
    assert capped.parts["waiting for grant"] > 0 == free.parts["waiting for grant"]
    assert free.parts["grant"] == 0
    assert sample("clients=12").parts["grant"] == pytest.approx(2 * free.parts["way back"], rel=0.05)


def test_lanes_keep_the_training_job_going_at_the_expense_of_reads():
    job = ("in_flight=64", "background.nodes=4", "background.chunk=256 KiB", "background.buffer=4 MiB")
    results = {
        lanes: simulate_storage(inputs(*job, f"lanes={lanes}", workload="3fs-read-beside-training")).disturbed
        for lanes in ("on", "off")
    }
    assert results["on"].alone_bytes_per_s == pytest.approx(results["off"].alone_bytes_per_s)
    assert 1 < results["on"].slowdown < 0.8 * results["off"].slowdown
    assert results["on"].reads.bytes_per_s < 0.9 * results["off"].reads.bytes_per_s
    assert results["on"].slowdown < 2.2  # equal shares leave it half of a link, or more where reads want less


def test_a_run_without_request_to_send_warns_of_head_of_line_blocking():
    scenario = Scenario(
        cluster="fire-flyer-2", workload="3fs-read", overrides=(*SMALL, "clients=12", "request_to_send=0")
    )
    result = run_storage(scenario)
    assert "7 to 25 times" in result.warnings[0]
    risk = result.to_dict()["incast"]
    assert risk["victim_latency_s"]["low"] == pytest.approx(7 * result.headline["latency_mean_s"])


def test_an_answer_has_ranges_sources_and_what_binds():
    result = run_storage(Scenario(cluster="fire-flyer-2", workload="3fs-read", overrides=(*SMALL, "clients=24")))
    h, span = result.headline, result.range["read_bytes_per_s"]
    assert span["low"] < h["read_bytes_per_s"] < span["high"]
    assert h["client_min_bytes_per_s"] <= h["client_mean_bytes_per_s"] <= h["client_max_bytes_per_s"]
    assert h["latency_p50_s"] < h["latency_p99_s"]
    assert h["latency_mean_s"] < h["latency_p99_s"]
    assert result.limits[0] == "SSDs"
    assert {row["input"] for row in result.sensitivities()} >= {"file_system.in_flight", "ssd.read", "nic.latency"}
    assert sum(row["seconds"] for row in result.parts()) == pytest.approx(h["latency_mean_s"])
    text = render(present_storage(result), "table")
    assert "per storage node" in text
    assert "bound first by SSDs" in render(present_storage_explanation(result), "table")


def test_depth_bounds_simulates_nothing():
    result = run_storage(Scenario(cluster="fire-flyer-2", workload="3fs-read", depth="bounds"))
    assert result.headline["read_bytes_per_s"] == pytest.approx(360 * NIC)
    assert (result.limits[0], result.to_dict()["events"]) == ("storage NICs", 0)
    assert "storage NICs" in render(present_storage(result), "table")


@pytest.mark.parametrize(
    ("cluster", "changes", "error", "message"),
    [
        ("fire-flyer-1", (), ScenarioError, "no storage nodes"),
        ("fire-flyer-2", ("clients=2000",), InfeasiblePlan, "2,000 nodes are wanted and there are 1,250"),
        ("fire-flyer-2", ("storage.nodes=3",), InfeasiblePlan, "need more than 3 storage nodes"),
        ("fire-flyer-2", ("file_system.replicas.value=4",), InfeasiblePlan, "use a multiple of 4"),
        ("h800-2048", STORAGE, ModelDomainError, "not modelled as readers"),
        ("fire-flyer-2", ("size=65 MiB",), ScenarioError, "a read lies in one block"),
        ("fire-flyer-2", ("in_flight=100000",), ScenarioError, "too many to simulate"),
        ("fire-flyer-2", ("replica=random",), ScenarioError, "did you mean 'replica_choice'"),
        ("fire-flyer-2", ("operation=write",), ScenarioError, "use one of 'read'"),
    ],
)
def test_what_cannot_be_simulated_is_refused(cluster, changes, error, message):
    with pytest.raises(error, match=message):
        run_storage(Scenario(cluster=cluster, workload="3fs-read", overrides=changes))


@pytest.mark.slow
def test_fire_flyer_reads_as_its_authors_measured():
    given = inputs("clients=400", cluster=())
    published = 8e12  # arXiv 2408.14158 s6.2
    rates = [simulate_storage(given, seed).alone.bytes_per_s for seed in range(2)]
    assert rates == pytest.approx([published] * 2, rel=0.05)
    assert rates[0] == pytest.approx(rates[1], rel=0.01)


@pytest.mark.slow
def test_the_completion_window_moves_the_rate_by_less_than_two_percent():
    given = inputs("clients=24", "sample=8")
    exact, fast = (simulate_storage(given, window=window).alone.bytes_per_s for window in (0.0, 0.01))
    assert fast == pytest.approx(exact, rel=0.02)
