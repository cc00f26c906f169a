"""What holds up the last flow, and closed forms around a list of flows."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim.engine import NO_LINK, Csr, Flows, simulate_flows
from ffsim.study.critical_path import (
    LATENCY,
    OWN_CAP,
    WAITING,
    alone_rate,
    busiest_s,
    critical_path,
    earliest,
    serial_s,
)
from ffsim.topology import LinkKind

CABLES = SimpleNamespace(link_kind=[LinkKind.PCIE, LinkKind.ACCESS, LinkKind.ACCESS], link_name="cable {}".format)
RATES = np.array([100.0, 50.0, 25.0])


def flows(links, **columns):
    start = np.cumsum([0, *map(len, links)])
    values = np.concatenate([*map(np.asarray, links), np.zeros(0)]).astype(np.int64)
    return Flows(links=Csr(start, values), **{name: np.array(column) for name, column in columns.items()})


def path_of(sent):
    times = simulate_flows(sent, RATES)
    return critical_path(CABLES, sent, times, int(times.end_s.argmax()))


def test_a_chain_is_taken_apart_into_what_took_its_time():
    """2 s over the 50 B/s cable, then latency 1 s and 4 s over that of 25 B/s; the flow beside it ends sooner."""
    sent = flows(
        [[0, 1], [2], [0]], size_bytes=[100.0, 100.0, 50.0], latency_s=[0.0, 1.0, 0.0], edges=np.array([[0, 1], [2, 1]])
    )
    path = path_of(sent)
    assert path.seconds == pytest.approx({"access": 6.0, LATENCY: 1.0})
    assert path.name == "cable 2"


def test_waiting_own_limits_and_latency_are_named():
    late = flows([[0]], size_bytes=[100.0], start_s=[3.0])
    assert path_of(late).seconds == pytest.approx({WAITING: 3.0, "pcie": 1.0})
    capped = flows([[0]], size_bytes=[100.0], cap_bytes_per_s=[10.0])
    assert (path_of(capped).name, path_of(capped).seconds) == (OWN_CAP, pytest.approx({OWN_CAP: 10.0}))
    empty = flows([[0]], size_bytes=[0.0], latency_s=[2.0])
    assert (path_of(empty).name, path_of(empty).seconds) == (LATENCY, {LATENCY: 2.0})


def test_a_flow_alone_goes_at_the_rate_of_its_narrowest_link():
    sent = flows([[0, 2], [1], [0]], size_bytes=[1.0, 1.0, 1.0], cap_bytes_per_s=[np.inf, 10.0, np.inf])
    rate, held = alone_rate(sent, RATES)
    assert rate.tolist() == [25.0, 10.0, 100.0]
    assert held.tolist() == [2, NO_LINK, 0]


def test_closed_forms_of_a_chain():
    sent = flows([[1], [2]], size_bytes=[100.0, 100.0], edges=np.array([[0, 1]]), latency_s=[1.0, 0.0])
    start, end = earliest(sent, RATES)
    assert (start.tolist(), end.tolist()) == ([0.0, 3.0], [3.0, 7.0])
    assert busiest_s(sent, RATES) == 4.0
    assert serial_s(sent, RATES) == 7.0


@given(st.data())
def test_closed_forms_hold_the_makespan(data):
    n = data.draw(st.integers(1, 8))
    links = [data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)) for _ in range(n)]
    size = data.draw(st.lists(st.floats(0, 1000), min_size=n, max_size=n))
    waits = data.draw(st.lists(st.floats(0, 5), min_size=n, max_size=n))
    pairs = [(a, b) for b in range(n) for a in range(b) if data.draw(st.booleans())]
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    sent = flows(links, size_bytes=size, latency_s=waits, start_s=waits[::-1], edges=edges)
    makespan = simulate_flows(sent, RATES).makespan_s
    low = max(busiest_s(sent, RATES), earliest(sent, RATES)[1].max())
    assert low * (1 - 1e-9) <= makespan <= serial_s(sent, RATES) * (1 + 1e-9)
    assert sum(path_of(sent).seconds.values()) == pytest.approx(makespan, abs=1e-9)
