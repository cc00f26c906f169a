"""Task graphs that many members run: against every copy spelled out and run by the plain solver."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffsim.engine import Costs, Crew, CrewCosts, Csr, Flows, TaskGraph, execute_crew, simulate_flows, transfers
from ffsim.errors import SimulationError


def crew_costs(durations, moves, capacity, first, **others):
    """Durations per slot, and for every message a dict of link -> bytes."""
    rows = [row for row, links in enumerate(moves) for _ in links]
    costs = Costs(
        np.zeros(len(moves)),
        np.array([link for links in moves for link in links], dtype=np.int64),
        np.array([size for links in moves for size in links.values()], dtype=float),
        Csr.of(np.array(rows, dtype=np.int64), np.arange(len(rows)), len(moves)),
        np.array(capacity, dtype=float),
    )
    return CrewCosts(
        duration_s=np.array(durations, dtype=float),
        first=np.array(first),
        messages=transfers(costs),
        capacity_bytes_per_s=costs.capacity_bytes_per_s,
        **others,
    )


@st.composite
def jobs(draw):
    """A graph, its crew, and costs: every slot with its own division of the members, some of them with messages."""
    n, n_members = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    n_slots, n_links = draw(st.integers(1, n)), draw(st.integers(1, 4))
    kinds = [list(range(n_members))]
    for _ in range(draw(st.integers(0, 2))):
        division = draw(st.lists(st.integers(0, n_members - 1), min_size=n_members, max_size=n_members))
        kinds.append(np.unique(division, return_inverse=True)[1].tolist())
    kind = draw(st.lists(st.integers(0, len(kinds) - 1), min_size=n_slots, max_size=n_slots))
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=10)) if pairs else []
    graph = TaskGraph(
        np.array(draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))),
        np.array(draw(st.lists(st.integers(0, n_slots - 1), min_size=n, max_size=n)), dtype=np.int64),
        np.array(edges, dtype=np.int64).reshape(-1, 2),
    )
    first, moves = [], []
    amounts = st.dictionaries(st.integers(0, n_links - 1), st.floats(1, 100), min_size=1)
    for slot in range(n_slots):
        sends = draw(st.booleans())
        first.append(len(moves) if sends else -1)
        moves += [draw(amounts) for _ in range(max(kinds[kind[slot]]) + 1 if sends else 0)]
    durations = draw(st.lists(st.floats(0, 5), min_size=n_slots, max_size=n_slots))
    capacity = draw(st.lists(st.floats(1, 100), min_size=n_links, max_size=n_links))
    return graph, Crew(kind=np.array(kind), team=np.array(kinds)), crew_costs(durations, moves, capacity, first)


def spelled_out(graph, crew, costs):
    """Every task of every team as a flow of its own, waiting for the work of all its members."""
    kind = crew.kind[graph.slot]
    work = [(task, team) for task in range(graph.n_tasks) for team in range(crew.n_teams[kind[task]])]
    number = {pair: place for place, pair in enumerate(work)}
    edges = [
        [number[task, crew.team[kind[task], member]] for task in edge]
        for edge in graph.all_edges.tolist()
        for member in range(crew.n_members)
    ]
    slots = [int(graph.slot[task]) for task, _ in work]
    sent = [(costs.first[slot], team) for slot, (_, team) in zip(slots, work, strict=True)]
    messages = [first + team if first >= 0 else -1 for first, team in sent]
    start, values, weight, sizes = [0], [], [], []
    for message in messages:
        own = slice(*costs.messages.links.start[message : message + 2]) if message >= 0 else slice(0)
        values += costs.messages.links.values[own].tolist()
        weight += costs.messages.weight[own].tolist()
        sizes.append(costs.messages.size_bytes[message] if message >= 0 else 0.0)
        start.append(len(values))
    return Flows(
        links=Csr(np.array(start), np.array(values, dtype=np.int64)),
        size_bytes=np.array(sizes),
        weight=np.array(weight),
        latency_s=costs.duration_s[slots],
        edges=np.array(edges, dtype=np.int64).reshape(-1, 2),
    )


@settings(max_examples=300)
@given(jobs())
def test_a_crew_takes_as_long_as_its_members_spelled_out(job):
    graph, crew, costs = job
    found = execute_crew(graph, crew, costs)
    slow = simulate_flows(spelled_out(graph, crew, costs), costs.capacity_bytes_per_s, twin="plain")
    np.testing.assert_allclose(found.start_s, slow.start_s, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.end_s, slow.end_s, rtol=1e-9, atol=1e-9)
    assert found.n_events == slow.n_events


def test_a_team_waits_for_its_slowest_member_and_members_see_their_own_times():
    """Two teams of two; member 3 computes twice as long, and only its team waits: 1 + 2 s against 2 + 2 s."""
    graph = TaskGraph(np.array([0, 1]), np.array([0, 1]), np.array([[0, 1]]))
    crew = Crew(kind=np.array([0, 1]), team=np.array([[0, 1, 2, 3], [0, 0, 1, 1]]))
    pace = {"row": np.array([0, -1]), "pace": np.array([[1.0, 1.0, 1.0, 2.0]])}
    costs = crew_costs([1, 0], [{0: 10.0}, {1: 10.0}], [5.0, 5.0], [-1, 0], **pace)
    found = execute_crew(graph, crew, costs)
    assert [found.of(member).end_s.tolist() for member in range(4)] == [[1, 3], [1, 3], [1, 4], [2, 4]]
    assert found.last() == 2
    assert found.makespan_s == 4


def test_noise_is_of_every_task_of_every_member():
    graph = TaskGraph(np.array([0]), np.array([0]), np.zeros((0, 2), dtype=np.int64))
    crew = Crew(kind=np.array([0]), team=np.array([[0, 1]]))
    costs = crew_costs([2], [], [], [-1], noise=np.array([1.0, 1.5], dtype=np.float32))
    assert execute_crew(graph, crew, costs).end_s.tolist() == [2, 3]


def test_a_circle_is_our_bug_and_says_so():
    graph = TaskGraph(np.array([-1, -1]), np.array([0, 0]), np.array([[0, 1], [1, 0]]))
    with pytest.raises(SimulationError, match="4 of 4 tasks never ran"):
        execute_crew(graph, Crew(kind=np.array([0]), team=np.array([[0, 1]])), crew_costs([1], [], [], [-1]))
