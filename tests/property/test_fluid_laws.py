"""Laws of the fluid solver, both twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim.engine import NO_LINK, Csr, Flows, link_use, simulate_flows
from ffsim.engine.plain import fair_rates, lane_rates
from ffsim.errors import SimulationError

RATES = st.floats(1, 100)


@st.composite
def cases(draw, *, lanes=1, timed=True):
    """Links, and flows over some of them, some after others."""
    n_links, n = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    capacity = np.array(draw(st.lists(RATES, min_size=n_links, max_size=n_links)))
    rows = draw(st.lists(st.sets(st.integers(0, n_links - 1), min_size=1), min_size=n, max_size=n))
    hops = [sorted(row) for row in rows]

    def column(values, length=n):
        return np.array(draw(st.lists(values, min_size=length, max_size=length)))

    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=8)) if pairs and timed else []
    total = sum(map(len, hops))
    return capacity, Flows(
        links=Csr(np.cumsum([0, *map(len, hops)]), np.concatenate(hops)),
        size_bytes=column(RATES),
        weight=column(st.floats(0.5, 4), total),
        latency_s=column(st.sampled_from([0.0, 0.25, 1.0])) if timed else None,
        start_s=column(st.sampled_from([0.0, 0.5, 3.0])) if timed else None,
        edges=np.array(edges, dtype=np.int64).reshape(-1, 2),
        cap_bytes_per_s=column(st.sampled_from([np.inf, np.inf, 0.5, 5.0, 20.0])),
        share=column(st.sampled_from([1.0, 1.0, 2.0, 8.0])),
        lane=column(st.integers(0, lanes - 1)),
    )


def hops_of(flows):
    return np.repeat(np.arange(len(flows)), np.diff(flows.links.start))


@given(cases())
def test_both_twins_agree(case):
    capacity, flows = case
    compiled, plain = (simulate_flows(flows, capacity, twin=twin) for twin in ("compiled", "plain"))
    np.testing.assert_allclose(compiled.end_s, plain.end_s, rtol=1e-8)
    np.testing.assert_allclose(compiled.start_s, plain.start_s, rtol=1e-8)
    assert compiled.n_events == plain.n_events


@given(cases(lanes=3), st.lists(st.floats(0.2, 5), min_size=3, max_size=3))
def test_both_twins_agree_on_lanes(case, lanes):
    capacity, flows = case
    compiled, plain = (simulate_flows(flows, capacity, lanes=lanes, twin=twin) for twin in ("compiled", "plain"))
    np.testing.assert_allclose(compiled.end_s, plain.end_s, rtol=1e-7)


@given(cases(timed=False))
def test_rates_carry_a_certificate_of_max_min_fairness(case):
    """No link over its capacity; every flow at its cap, or on a full link where no level is higher."""
    capacity, flows = case
    flow, link = hops_of(flows), flows.links.values
    rate, held = fair_rates(flow, link, flows.weight, flows.share, flows.cap_bytes_per_s, capacity)
    used = np.bincount(link, rate[flow] * flows.weight, minlength=len(capacity))
    assert (used <= capacity * (1 + 1e-9)).all()
    level = rate / flows.share
    for f, at in enumerate(held):
        if at == NO_LINK:
            assert rate[f] == pytest.approx(flows.cap_bytes_per_s[f], rel=1e-9)
        else:
            assert used[at] >= capacity[at] * (1 - 1e-9)
            assert level[f] >= level[flow[link == at]].max() * (1 - 1e-9)


@given(cases(lanes=3, timed=False), st.lists(st.floats(0.2, 5), min_size=3, max_size=3))
def test_a_lane_gets_at_least_what_its_share_of_every_link_would_give_it_alone(case, lanes):
    capacity, flows = case
    flow, link, shares = hops_of(flows), flows.links.values, np.array(lanes)
    rate, _ = lane_rates(flow, link, flows.weight, flows.share, flows.cap_bytes_per_s, capacity, flows.lane, shares)
    used = np.bincount(link, rate[flow] * flows.weight, minlength=len(capacity))
    assert (used <= capacity * (1 + 1e-9)).all()
    full = np.zeros(len(flows), dtype=bool)
    np.logical_or.at(full, flow, (used >= capacity * (1 - 1e-8))[link])
    assert (full | (rate >= flows.cap_bytes_per_s * (1 - 1e-9))).all()  # nothing is left unused
    busy = np.zeros((len(capacity), 3), dtype=bool)
    busy[link, flows.lane[flow]] = True
    for lane in set(flows.lane.tolist()):
        mine = np.flatnonzero(flows.lane == lane)
        hops = flows.lane[flow] == lane
        part = capacity * shares[lane] / np.maximum(busy @ shares, 1e-300)
        renumbered = np.searchsorted(mine, flow[hops])
        columns = (flows.weight[hops], flows.share[mine], flows.cap_bytes_per_s[mine], part)
        alone, _ = fair_rates(renumbered, link[hops], *columns)
        assert (rate[mine] >= alone * (1 - 1e-9)).all()


@given(cases())
def test_bytes_are_conserved_and_no_link_does_more_than_it_can(case):
    capacity, flows = case
    times = simulate_flows(flows, capacity)
    moved = np.bincount(flows.links.values, flows.size_bytes[hops_of(flows)] * flows.weight, minlength=len(capacity))
    np.testing.assert_allclose(times.link_bytes, moved)
    use = link_use(flows, capacity, times.makespan_s, bins=7)
    np.testing.assert_allclose(use.sum(axis=0) * capacity * times.makespan_s / 7, moved, rtol=1e-6)
    assert use.max() <= 1 + 1e-6


@given(cases(), st.floats(0.1, 10))
def test_scaling_bytes_and_times_scales_every_end(case, factor):
    capacity, flows = case
    scaled = Flows(
        **{name: getattr(flows, name) for name in ("links", "weight", "edges", "share", "lane", "cap_bytes_per_s")},
        size_bytes=flows.size_bytes * factor,
        latency_s=flows.latency_s * factor,
        start_s=flows.start_s * factor,
    )
    ends = simulate_flows(flows, capacity).end_s
    np.testing.assert_allclose(simulate_flows(scaled, capacity).end_s, ends * factor, rtol=1e-8)


@given(cases())
def test_the_same_flows_give_the_same_bytes(case):
    capacity, flows = case
    first, second = (simulate_flows(flows, capacity) for _ in range(2))
    assert first.end_s.tobytes() == second.end_s.tobytes()
    assert first.bottleneck.tobytes() == second.bottleneck.tobytes()


@given(cases(), st.floats(0, 0.2))
def test_a_window_moves_no_end_by_more_than_it_may(case, share):
    capacity, flows = case
    exact = simulate_flows(flows, capacity)
    window = share * exact.makespan_s
    rough = simulate_flows(flows, capacity, window_s=window)
    assert abs(rough.makespan_s - exact.makespan_s) <= window * len(flows) + 1e-9
    assert rough.n_reallocations <= exact.n_reallocations * 4 + 8


def test_what_cannot_be_run_is_refused():
    one = Csr(np.array([0, 1]), np.array([0]))
    bad = {
        "capacity": (np.array([0.0]), {}),
        "links": (np.array([]), {}),
        "size": (np.ones(1), {"size_bytes": np.array([np.nan])}),
        "latency": (np.ones(1), {"latency_s": np.array([-1.0])}),
        "share": (np.ones(1), {"share": np.array([0.0])}),
        "lane": (np.ones(1), {"lane": np.array([1])}),
    }
    for name, (capacity, columns) in bad.items():
        with pytest.raises(ValueError, match=name):
            simulate_flows(Flows(links=one, **{"size_bytes": np.ones(1)} | columns), capacity)
    circle = Flows(
        links=Csr(np.array([0, 1, 2]), np.array([0, 0])), size_bytes=np.ones(2), edges=np.array([[0, 1], [1, 0]])
    )
    for twin in ("compiled", "plain"):
        with pytest.raises(SimulationError, match="2 of 2 flows never ran"):
            simulate_flows(circle, np.ones(1), twin=twin)
