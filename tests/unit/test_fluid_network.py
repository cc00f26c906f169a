"""The bridge to SimPy: batches of flows from several processes on one set of links."""

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from ffsim.engine import Csr, Flows, FluidNetwork, joined, simulate_flows
from ffsim.errors import SimulationError


def flows(rows, sizes, **columns):
    links = Csr(np.cumsum([0, *map(len, rows)]), np.concatenate([np.array(row, dtype=int) for row in rows]))
    return Flows(links=links, size_bytes=np.array(sizes, dtype=float), **columns)


@st.composite
def batches(draw):
    """Batches that begin at different times, over three links."""
    result = []
    for _ in range(draw(st.integers(1, 5))):
        n = draw(st.integers(1, 5))
        rows = [sorted(draw(st.sets(st.integers(0, 2), min_size=1))) for _ in range(n)]
        sizes = draw(st.lists(st.floats(1, 50), min_size=n, max_size=n))
        edges = np.array([(i, i + 1) for i in range(n - 1) if draw(st.booleans())], dtype=int).reshape(-1, 2)
        result.append((draw(st.sampled_from([0.0, 0.5, 1.0, 2.5])), flows(rows, sizes, edges=edges)))
    return result


@given(batches())
def test_batches_end_as_they_would_if_known_from_the_start(case):
    capacity = np.array([3.0, 5.0, 8.0])
    env = simpy.Environment()
    network, ended = FluidNetwork(env, capacity), {}

    def job(number, start, batch):
        yield env.timeout(start)
        yield network.send(batch)
        ended[number] = env.now

    for number, (start, batch) in enumerate(case):
        env.process(job(number, start, batch))
    env.run()
    whole = joined([batch for _, batch in case])
    starts = np.repeat([start for start, _ in case], [len(batch) for _, batch in case])
    late = Flows(links=whole.links, size_bytes=whole.size_bytes, edges=whole.edges, start_s=starts)
    times, stop = simulate_flows(late, capacity), np.cumsum([len(batch) for _, batch in case])
    for number, part in enumerate(np.split(times.end_s, stop[:-1])):
        assert ended[number] == pytest.approx(part.max(), rel=1e-9)
    assert network.n_events == times.n_events


def test_a_link_that_degrades_slows_what_is_under_way():
    """10 bytes at 10 bytes/s; after half a second the link has 2 left: 5 bytes more take 2.5 s."""
    env = simpy.Environment()
    network = FluidNetwork(env, np.array([10.0]))

    def fault():
        yield env.timeout(0.5)
        network.set_capacity(0, 2.0)

    env.process(fault())
    assert env.run(network.send(flows([[0]], [10.0]))) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="capacity of link 0"):
        network.set_capacity(0, 0.0)


def test_lanes_hold_on_the_clock_too():
    env = simpy.Environment()
    network = FluidNetwork(env, np.array([8.0]), lanes=(3.0, 1.0))
    many = flows([[0]] * 6, [6.0] * 6)
    one = flows([[0]], [2.0], lane=np.array([1]))
    network.send(many)
    assert env.run(network.send(one)) == pytest.approx(1.0)  # a quarter of 8, not a seventh


def test_nothing_to_send_is_done_at_once_and_circles_are_named():
    env = simpy.Environment()
    network = FluidNetwork(env, np.array([1.0]))
    empty = Flows(links=Csr(np.zeros(1, dtype=int), np.zeros(0, dtype=int)), size_bytes=np.zeros(0))
    assert env.run(network.send(empty)) == 0
    network.send(flows([[0], [0]], [1, 1], edges=np.array([[0, 1], [1, 0]])))
    with pytest.raises(SimulationError, match="2 flows never ran"):
        env.run()


def test_simpy_sees_a_batch_not_its_flows():
    env = simpy.Environment()
    network = FluidNetwork(env, np.array([1.0]))
    done = network.send(flows([[0]] * 500, np.arange(1, 501)))
    steps = 0
    while not done.processed:
        env.step()
        steps += 1
    assert steps < 10
    assert network.n_events == 1000
