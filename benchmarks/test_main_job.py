"""The main job, part by part; event and task counts are exact, times are what pytest-benchmark reports.

``make bench`` runs them. A change of a count is a change of the model or a regression, never noise.
"""

import io

import pytest
import simpy

from ffsim.engine import execute
from ffsim.report.html import render_report
from ffsim.report.perfetto import write_trace
from ffsim.schedules import dualpipe
from ffsim.study import Scenario, run
from ffsim.study.scenario import load
from ffsim.training import doubt, prepare, simulate

pytestmark = pytest.mark.slow

V3 = Scenario(cluster="h800-2048", workload="deepseek-v3-pretrain")
N_TASKS = 82_177
N_EVENTS = 114_225
N_TRACE_EVENTS = 79_574
N_UNCERTAIN_INPUTS = 24


@pytest.fixture(scope="module")
def inputs():
    return load(V3)


@pytest.fixture(scope="module")
def prepared(inputs):
    return prepare(inputs)


def test_read_the_files(benchmark):
    assert benchmark(load, V3).cluster.n_gpus == 2048


def test_schedule_dualpipe_16_120(benchmark):
    schedule = benchmark(dualpipe, 16, 120)
    assert sum(map(len, schedule.ops)) == 2_418


def test_lay_out_and_cost(benchmark, inputs):
    prepared = benchmark.pedantic(prepare, (inputs,), rounds=5)
    assert prepared.program.graph.n_tasks == N_TASKS


def test_simulate_folded(benchmark, prepared):
    result = benchmark.pedantic(simulate, (prepared,), rounds=5)
    assert result.n_events == N_EVENTS


def test_events_of_the_engine(benchmark, prepared):
    """Events a second: the executor alone."""
    timeline = benchmark.pedantic(execute, (prepared.program.graph, prepared.costs), rounds=5)
    assert timeline.n_events == N_EVENTS
    if benchmark.stats:
        seconds = benchmark.stats.stats.min
        benchmark.extra_info["events_per_s"] = round(N_EVENTS / seconds)
        benchmark.extra_info["tasks_per_s"] = round(N_TASKS / seconds)


def test_bare_simpy_timeouts(benchmark):
    """The yardstick: as many events of SimPy that do nothing."""

    def timeouts():
        env = simpy.Environment()
        for number in range(N_EVENTS):
            env.timeout(number)
        env.run()
        return env.now

    assert benchmark.pedantic(timeouts, rounds=5) == N_EVENTS - 1


def test_bounds(benchmark, prepared):
    assert benchmark(simulate, prepared, "bounds").n_events == 0


def test_range_of_the_answer(benchmark, prepared):
    found = benchmark.pedantic(doubt, (simulate(prepared),), rounds=3)
    assert len(found.sensitivities) == N_UNCERTAIN_INPUTS


def test_report_and_trace(benchmark):
    result = run(V3)

    def write():
        render_report(result, command="")
        return write_trace(result, io.StringIO())

    assert benchmark.pedantic(write, rounds=3) == N_TRACE_EVENTS
