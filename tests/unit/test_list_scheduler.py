"""The generic list scheduler: published pipeline schedules come out of it, laws hold, and every mistake is named."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim.errors import InfeasiblePlan, ScenarioError
from ffsim.schedules import OpTimes, Task, list_schedule, one_f_one_b, replay, zero_bubble


def pipeline(n_ranks, n_micro_batches, *, forward, backward, weight=0):
    """Backwards first, then forwards; weight gradients, where apart, only when there is nothing else to do."""
    tasks = []
    for rank in range(n_ranks):
        for m in range(n_micro_batches):
            before = (f"F{rank - 1}.{m}",) if rank else ()
            back = (f"F{rank}.{m}", *((f"B{rank + 1}.{m}",) if rank + 1 < n_ranks else ()))
            tasks.append(Task(name=f"F{rank}.{m}", rank=rank, duration=forward, after=before, priority=1, memory=1))
            freed = 0 if weight else -1
            tasks.append(Task(name=f"B{rank}.{m}", rank=rank, duration=backward, after=back, priority=2, memory=freed))
            if weight:
                after = (f"B{rank}.{m}",)
                tasks.append(Task(name=f"W{rank}.{m}", rank=rank, duration=weight, after=after, memory=-1))
    return tasks


@pytest.mark.parametrize(("n_ranks", "n"), [(1, 3), (4, 2), (4, 9), (6, 12)])
def test_1f1b_is_backward_first_within_its_memory(n_ranks, n):
    limits = [n_ranks - rank for rank in range(n_ranks)]
    found = list_schedule(pipeline(n_ranks, n, forward=2, backward=3), memory_limits=limits)
    wanted = one_f_one_b(n_ranks, n)
    assert found.order == tuple(
        tuple(f"{op.kind}{rank}.{op.chunk}" for op in ops) for rank, ops in enumerate(wanted.ops)
    )
    times = OpTimes(forward=2, input_gradient=3, weight_gradient=0)
    assert found.makespan == replay(wanted, times).makespan
    assert found.peak_memory == wanted.peak_activations()


@pytest.mark.parametrize("costs", [(1, 1, 1), (10, 11, 7), (18, 18, 9)])
def test_zb_h2_is_no_better_than_weight_gradients_last(costs):
    """Its published heuristic is a list scheduler at heart."""
    forward, backward, weight = costs
    times = OpTimes(forward=forward, input_gradient=backward, weight_gradient=weight)
    published = replay(zero_bubble("zb-h2", 4, 16, 8, times, 0), times)
    tasks = pipeline(4, 16, forward=forward, backward=backward, weight=weight)
    assert list_schedule(tasks, memory_limits=[8] * 4).makespan == published.makespan


@st.composite
def task_lists(draw):
    n_ranks = draw(st.integers(1, 4))
    tasks = []
    for number in range(draw(st.integers(1, 25))):
        earlier = st.lists(st.integers(0, number - 1), max_size=3, unique=True) if number else st.just([])
        tasks.append(
            Task(
                name=f"t{number}",
                rank=draw(st.integers(0, n_ranks - 1)),
                duration=draw(st.integers(0, 5)),
                after=tuple(f"t{before}" for before in draw(earlier)),
                priority=draw(st.integers(0, 3)),
                memory=draw(st.integers(-2, 2)),
            )
        )
    return tasks


@given(task_lists(), st.integers(0, 2), st.integers(2, 8))
def test_no_order_beats_the_longest_chain_or_the_busiest_rank_or_takes_more_than_there_is(tasks, message, limit):
    limits = [limit] * 4
    try:
        found = list_schedule(tasks, memory_limits=limits, message=message)
    except InfeasiblePlan:  # greedy orders may run out of memory
        return
    rank = {task.name: task.rank for task in tasks}
    chain = {}
    for task in tasks:
        arrivals = [chain[b] + message * (rank[b] != task.rank) for b in task.after]
        assert found.start[task.name] >= max(
            (found.end[b] + message * (rank[b] != task.rank) for b in task.after), default=0
        )
        chain[task.name] = max(arrivals, default=0) + task.duration
    assert found.makespan >= max(chain.values())
    for number, order in enumerate(found.order):
        assert sum(task.duration for task in tasks if task.rank == number) <= found.makespan
        assert all(found.end[a] <= found.start[b] for a, b in pairwise(order))
    assert all(peak <= limit for peak in found.peak_memory)
    assert sorted(name for order in found.order for name in order) == sorted(rank)


@given(task_lists())
def test_the_same_tasks_give_the_same_order(tasks):
    assert list_schedule(tasks) == list_schedule(list(tasks))


def test_every_mistake_is_named_at_once():
    tasks = [
        Task(name="a", rank=0, duration=1, after=("c",)),
        Task(name="b", rank=0, duration=-1, after=("a", "nobody")),
        Task(name="c", rank=3, duration=1, after=("b",)),
        Task(name="d", rank=-1, duration=1, memory=float("nan")),
        Task(name="e", rank=0, duration=1),
        Task(name="e", rank=0, duration=1),
    ]
    with pytest.raises(ScenarioError) as error:
        list_schedule(tasks, memory_limits=[1, 1, -1], message=float("inf"))
    for says in (
        "b: duration -1 is no finite time",
        "c: rank 3 has no memory limit, there are 3",
        "d: rank -1 is negative",
        "d: memory nan or priority 0.0 is not finite",
        "memory limit -1 of rank 2 is no size",
        "message time inf",
        "e: there are 2 tasks of this name",
        "b: follows the unknown task 'nobody'",
        "tasks wait for each other: a after c after b after a",
    ):
        assert says in str(error.value)


def test_limits_that_cannot_be_met():
    big = Task(name="big", rank=0, duration=1, memory=3)
    with pytest.raises(InfeasiblePlan, match="big: needs 3 of memory alone, rank 0 has 2"):
        list_schedule([big], memory_limits=[2])
    taken = [Task(name=f"x{n}", rank=0, duration=1, memory=2) for n in range(3)]
    with pytest.raises(InfeasiblePlan, match=r"rank 0 comes to a stop: it holds 4 of 5 .* raise its limit to 6"):
        list_schedule(taken, memory_limits=[5])
