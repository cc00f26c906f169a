"""Both flow solvers against SimGrid, flow by flow (see README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest

from ffsim.engine import Csr, Flows, simulate_flows

DATA = json.loads(Path(__file__).with_name("simgrid_golden.json").read_text())
MANY = 100_000  # flows


def leaf_spine_links(topology, src, dst):
    """``[n, 4]`` links as the file numbers them, -1 where a flow stays on its leaf; and the rates of all links."""
    hosts, per_leaf, spines = topology["hosts"], topology["hosts_per_leaf"], topology["spines"]
    leaves = -(-hosts // per_leaf)
    spine = {
        "dmodk": dst % spines,
        "smodk": src % spines,
        "hash": (((src * 2654435761) % 2**32 ^ (dst * 2246822519) % 2**32) >> 15) % spines,
    }[topology["routing"]]
    far = src // per_leaf != dst // per_leaf
    up = np.where(far, 2 * hosts + src // per_leaf * spines + spine, -1)
    down = np.where(far, 2 * hosts + (leaves + dst // per_leaf) * spines + spine, -1)
    capacity = np.concatenate(
        [np.full(2 * hosts, topology["host_Bps"]), np.full(2 * leaves * spines, topology["trunk_Bps"])]
    )
    for link, rate in topology["link_Bps_override"].items():
        capacity[int(link)] = rate
    return np.stack([src, up, down, hosts + dst], axis=1), capacity


def traffic(scenario):
    """Sources, destinations, bytes, starts and edges of a scenario's flows."""
    kind = scenario["traffic"]
    if "flows" in scenario:
        src, dst, size, start = (np.array(column) for column in zip(*(f[:4] for f in scenario["flows"]), strict=True))
        edges = [(before, flow) for flow, row in enumerate(scenario["flows"]) for before in row[4]]
        return src, dst, size, start, edges
    if kind["kind"] == "all_to_all":
        src, dst = np.divmod(np.arange(kind["hosts"] ** 2), kind["hosts"])
        src, dst = src[src != dst], dst[src != dst]
        return src, dst, np.full(len(src), kind["bytes"]), None, []
    n = kind["ranks"]
    step, rank = np.divmod(np.arange(2 * (n - 1) * n), n)
    later = np.flatnonzero(step > 0)
    before = [(step[later] - 1) * n + (rank[later] - back) % n for back in (1, 0)]
    edges = np.concatenate([np.stack([b, later], axis=1) for b in before])
    return rank, (rank + 1) % n, np.full(len(rank), kind["bytes"] // n), None, edges


def flows_of(scenario):
    topology = scenario["topology"]
    src, dst, size, start, edges = traffic(scenario)
    if topology["kind"] == "explicit":
        rows = [topology["routes"][f"{a}-{b}"] for a, b in zip(src, dst, strict=True)]
        capacity, links = np.array(topology["link_Bps"]), np.full((len(rows), max(map(len, rows))), -1)
        for row, route in enumerate(rows):
            links[row, : len(route)] = route
    else:
        links, capacity = leaf_spine_links(topology, src, dst)
    hops = (links >= 0).sum(axis=1)
    return Flows(
        links=Csr(np.append(0, np.cumsum(hops)), links[links >= 0]),
        size_bytes=size.astype(float),
        start_s=start,
        latency_s=hops * topology["link_latency_s"],
        edges=np.array(edges, dtype=np.int64).reshape(-1, 2),
    ), capacity


SLOW = {"a2a_1024_dmodk_400g", "a2a_128_hash", "poisson_160_load60"}
CASES = [
    pytest.param(name, twin, marks=[pytest.mark.slow] if name in SLOW and twin == "plain" else [], id=f"{name}-{twin}")
    for name in DATA["scenarios"]
    for twin in ("compiled", "plain")
]


@pytest.mark.parametrize(("name", "twin"), CASES)
def test_every_flow_ends_when_simgrid_says(name, twin):
    scenario = DATA["scenarios"][name]
    flows, capacity = flows_of(scenario)
    times = simulate_flows(flows, capacity, twin=twin)
    assert len(flows) == scenario["n_flows"]
    np.testing.assert_allclose(times.end_s[:: scenario["stride"]], scenario["finish_s"], rtol=1e-6)
    assert times.makespan_s == pytest.approx(scenario["makespan_s"], rel=1e-6)
    assert times.end_s.mean() == pytest.approx(scenario["mean_finish_s"], rel=1e-6)
    assert (times.end_s**2).sum() == pytest.approx(scenario["sum_sq_finish_s2"], rel=1e-6)
