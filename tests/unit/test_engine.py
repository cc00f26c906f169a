"""Clock, lanes and links: numbers worked out by hand, and laws."""

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from ffsim.engine import NO_LANE, Costs, Csr, FluidNetwork, TaskGraph, end_times_s, execute, task_flows
from ffsim.errors import SimulationError


def graph(lanes, slots=None, edges=()):
    slots = list(range(len(lanes))) if slots is None else slots
    return TaskGraph(np.array(lanes), np.array(slots, dtype=np.int64), np.array(edges, dtype=np.int64).reshape(-1, 2))


def costs(durations, moves=None, capacity=()):
    """Durations, and per slot a dict of link -> bytes."""
    moves = moves or [{} for _ in durations]
    rows = [row for row, links in enumerate(moves) for _ in links]
    return Costs(
        np.array(durations, dtype=float),
        np.array([link for links in moves for link in links], dtype=np.int64),
        np.array([size for links in moves for size in links.values()], dtype=float),
        Csr.of(np.array(rows, dtype=np.int64), np.arange(len(rows)), len(durations)),
        np.array(capacity, dtype=float),
    )


def test_a_lane_runs_its_tasks_one_at_a_time_in_order():
    timeline = execute(graph([0, 0, 1, 0]), costs([3, 1, 2, 1]))
    assert timeline.start_s.tolist() == [0, 3, 0, 4]
    assert timeline.makespan_s == 5


def test_a_task_waits_for_every_predecessor():
    timeline = execute(graph([0, 1, 2], edges=[(0, 2), (1, 2)]), costs([3, 5, 1]))
    assert timeline.start_s[2] == 5


def test_tasks_without_time_or_lane_only_order_others():
    timeline = execute(graph([0, NO_LANE, 1], edges=[(0, 1), (1, 2)]), costs([2, 0, 1]))
    assert timeline.end_s.tolist() == [2, 2, 3]


def test_an_empty_graph_takes_no_time():
    assert execute(graph([]), costs([])).makespan_s == 0


def test_a_circle_is_our_bug_and_says_so():
    circle = graph([NO_LANE, NO_LANE], edges=[(0, 1), (1, 0)])
    with pytest.raises(SimulationError, match="2 of 2 tasks never ran"):
        execute(circle, costs([1, 1]))
    with pytest.raises(SimulationError, match="2 of 2 tasks wait for each other"):
        _ = circle.levels


def test_a_transfer_takes_its_latency_and_then_its_bytes():
    timeline = execute(graph([0]), costs([0.5], [{0: 10.0}], [5.0]))
    assert timeline.makespan_s == 2.5


def test_two_transfers_share_a_link_fairly():
    """10 and 30 bytes on 10 bytes/s: half each until 2 s, then the rest alone until 4 s."""
    timeline = execute(graph([0, 1]), costs([0, 0], [{0: 10.0}, {0: 30.0}], [10.0]))
    assert timeline.end_s.tolist() == [2, 4]


def test_a_transfer_bound_elsewhere_leaves_its_share_to_the_other():
    """A is held to 2 bytes/s by its own link; B gets the other 8 of the shared 10."""
    timeline = execute(graph([0, 1]), costs([0, 0], [{0: 4.0, 1: 4.0}, {0: 16.0}], [10.0, 2.0]))
    assert timeline.end_s.tolist() == [2, 2]


def test_a_transfer_that_moves_more_on_one_link_is_counted_there():
    """Twice the bytes on link 1: bound by it at 5 bytes/s of its own, 2.5 on link 0."""
    timeline = execute(graph([0, 1]), costs([0, 0], [{0: 5.0, 1: 10.0}, {0: 15.0}], [10.0, 5.0]))
    assert timeline.end_s.tolist() == pytest.approx([2, 2])


def test_links_are_shared_with_other_processes_on_the_clock():
    env = simpy.Environment()
    network = FluidNetwork(env, np.array([10.0]))
    ten_bytes = task_flows(graph([0]), costs([0], [{0: 10.0}], [10.0]))
    seen = []

    def intruder():
        yield env.timeout(0.5)
        yield network.send(ten_bytes)
        seen.append(env.now)

    env.process(intruder())
    assert env.run(network.send(ten_bytes)) == 1.5  # half done alone, the other half at half rate
    env.run()
    assert seen == [2.0]


def test_the_same_graph_gives_the_same_times_and_the_same_number_of_events():
    work = costs([0.1, 0.2, 0], [{0: 10.0}, {0: 30.0}, {}], [10.0])
    first, second = (execute(graph([0, 1, 0]), work) for _ in range(2))
    assert first.end_s.tobytes() == second.end_s.tobytes()
    assert first.n_events == second.n_events == 5  # two latencies, two ends, and a task of no time


@st.composite
def problems(draw):
    n = draw(st.integers(1, 12))
    lanes = draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    durations = draw(st.lists(st.floats(0, 5), min_size=n, max_size=n))
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=15)) if pairs else []
    return lanes, durations, edges


@given(problems())
def test_without_contention_the_event_loop_and_the_longest_path_agree(problem):
    lanes, durations, edges = problem
    tasks = graph(lanes, edges=edges)
    timeline = execute(tasks, costs(durations))
    scenarios = np.stack([np.array(durations), 2 * np.array(durations)], axis=1)
    ends = end_times_s(tasks, scenarios)
    np.testing.assert_allclose(ends[:, 0], timeline.end_s, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ends[:, 1], 2 * timeline.end_s, rtol=1e-12, atol=1e-12)


@st.composite
def traffic(draw):
    n_links = draw(st.integers(1, 5))
    capacity = draw(st.lists(st.floats(1, 100), min_size=n_links, max_size=n_links))
    flows = draw(
        st.lists(st.dictionaries(st.integers(0, n_links - 1), st.floats(1, 100), min_size=1), min_size=1, max_size=8)
    )
    return capacity, flows


@given(traffic())
def test_transfers_take_at_least_their_own_time_and_at_most_everything_in_a_row(case):
    capacity, flows = case
    timeline = execute(graph(list(range(len(flows)))), costs([0] * len(flows), flows, capacity))
    alone = [max(size / capacity[link] for link, size in flow.items()) for flow in flows]
    assert (timeline.end_s >= np.array(alone) * (1 - 1e-9)).all()
    assert timeline.makespan_s <= sum(alone) * (1 + 1e-9)
    for link, limit in enumerate(capacity):
        assert sum(flow.get(link, 0) for flow in flows) <= limit * timeline.makespan_s * (1 + 1e-9)


@given(traffic(), st.floats(0.1, 10))
def test_scaling_every_rate_scales_every_time(case, factor):
    capacity, flows = case
    lanes = list(range(len(flows)))
    base = execute(graph(lanes), costs([0] * len(flows), flows, capacity))
    fast = execute(graph(lanes), costs([0] * len(flows), flows, [c * factor for c in capacity]))
    np.testing.assert_allclose(fast.end_s * factor, base.end_s, rtol=1e-9)
