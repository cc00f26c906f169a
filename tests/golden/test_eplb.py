"""Expert placement against the published program (stored outputs, see README.md beside this file)."""

import json

import numpy as np
import pytest

from ffsim.model.eplb import busiest_over_mean, contiguous, policy, rebalance


def pytest_generate_tests(metafunc):
    entries = json.loads(metafunc.config.getoption("--eplb-golden").read_text())["entries"]
    metafunc.parametrize("entry", entries, ids=[entry["name"] for entry in entries])


@pytest.fixture
def loads(entry):
    return np.array(entry["load"], dtype=float)


@pytest.fixture
def placed(entry, loads):
    return rebalance(loads, entry["replicas"], entry["groups"], entry["nodes"], entry["gpus"])


def test_experts_are_copied_as_published(entry, placed):
    assert policy(entry["groups"], entry["nodes"]) == entry["policy"]
    np.testing.assert_array_equal(placed.copies, entry["logcnt"])


def test_every_slot_holds_the_published_expert(entry, placed):
    """The original's sort is not stable; the golden file has its output with a stable one, too, where that differs."""
    np.testing.assert_array_equal(placed.expert, entry["phy2log_stable_sort"] or entry["phy2log"])


def test_gpus_and_nodes_are_as_even_as_published_or_better(entry, loads, placed):
    gpus = placed.part_loads(loads, entry["gpus"])
    assert (gpus.max(axis=1) <= np.array(entry["max_gpu_load"]) * (1 + 1e-9)).all()
    np.testing.assert_allclose(gpus.mean(axis=1), entry["mean_gpu_load"], rtol=1e-9)
    assert (busiest_over_mean(gpus) <= np.array(entry["max_over_mean"]) * (1 + 1e-9)).all()
    nodes = busiest_over_mean(placed.part_loads(loads, entry["nodes"]))
    assert (nodes <= np.array(entry["node_max_over_mean"]) * (1 + 1e-9)).all()


def test_without_copies_experts_in_order_are_as_uneven_as_published(entry, loads):
    if "baseline_contiguous_max_over_mean" not in entry:
        pytest.skip("more GPUs than divide the experts, or not stated")
    gpus = contiguous(*loads.shape).part_loads(loads, entry["gpus"])
    np.testing.assert_allclose(busiest_over_mean(gpus), entry["baseline_contiguous_max_over_mean"], rtol=1e-9)
