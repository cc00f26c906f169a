"""How a training step's cost grows: exact counts of tasks and events over a range of sizes, and times beside them.

Counts are what is tested, as times are of the machine: events grow as tasks do, and the solver is asked as often as
something begins or ends at an instant of its own, whatever the number of GPUs that do it alike.
"""

from itertools import pairwise
from math import log

import pytest

from ffsim.engine import execute_crew
from ffsim.study import Scenario
from ffsim.study.scenario import load
from ffsim.training import prepare, simulate
from ffsim.training.replicate import replicate

pytestmark = pytest.mark.slow

V3_SIZES = {7_680: (41_077, 57_165), 15_360: (82_177, 114_225), 30_720: (164_377, 228_345)}
FULL_SIZES = {1_024: (3_471_073, 3_733_953), 2_048: (6_937_985, 7_459_585)}


def prepared(*overrides):
    return prepare(load(Scenario(cluster="h800-2048", workload="deepseek-v3-pretrain", overrides=overrides)))


def exponents(tasks, events):
    """Growth of events over that of tasks, from each size to the next."""
    return [
        log(later / sooner) / log(larger / smaller)
        for (smaller, larger), (sooner, later) in zip(pairwise(tasks), pairwise(events), strict=True)
    ]


@pytest.mark.parametrize("global_batch", V3_SIZES)
def test_folded_by_micro_batches(benchmark, global_batch):
    step = prepared(f"global_batch={global_batch}")
    result = benchmark.pedantic(simulate, (step,), rounds=3)
    assert (step.program.graph.n_tasks, result.n_events) == V3_SIZES[global_batch]


@pytest.mark.parametrize("gpus", FULL_SIZES)
def test_full_by_gpus(benchmark, gpus):
    step = prepared(f"plan.gpus={gpus}", f"global_batch={gpus * 15 // 2}")
    job = replicate(step.inputs, step.layout, step.program, step.messages, step.costs)
    found = benchmark.pedantic(execute_crew, job, rounds=1)
    assert (len(found.end_s), found.n_events) == FULL_SIZES[gpus]


@pytest.mark.parametrize("sizes", [V3_SIZES, FULL_SIZES])
def test_events_grow_no_faster_than_tasks(sizes):
    tasks, events = zip(*sizes.values(), strict=True)
    assert max(exponents(tasks, events)) < 1.01


def test_llama_405b_on_16384_gpus(benchmark):
    """16 stages of four parts, tensor-parallel over nodes: as many tasks as one GPU of each rank has."""
    plan = ("plan.recompute=[norm]",)
    inputs = load(Scenario(cluster="llama3-16384", workload="llama-3.1-405b-pretrain", overrides=plan))
    step = benchmark.pedantic(lambda: simulate(prepare(inputs)), rounds=3)
    assert (step.prepared.layout.gpus, step.prepared.program.graph.n_tasks, step.n_events) == (16_384, 64_160, 100_784)
