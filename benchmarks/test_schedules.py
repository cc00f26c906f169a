"""Making schedules whose order is searched for; ``make bench`` runs them. Makespans are exact, times are reported."""

import pytest

from ffsim.schedules import SCHEDULES, OpTimes, replay

pytestmark = pytest.mark.slow

TIMES = OpTimes(forward=10, input_gradient=12, weight_gradient=8)


@pytest.mark.parametrize(
    ("name", "makespan"), [("zb-h1", 7_530), ("zb-1.5p", 7_406), ("zb-h2", 7_380), ("zb-v", 14_726)]
)
def test_zero_bubble_16_240(benchmark, name, makespan):
    schedule = benchmark.pedantic(
        SCHEDULES[name].build, (16, 240), {"times": TIMES, "message_s": 2}, rounds=3, warmup_rounds=0
    )
    assert replay(schedule, TIMES, latency=2).makespan == makespan


@pytest.mark.parametrize("name", ["zb-h2", "zb-v"])
def test_zero_bubble_64_512(benchmark, name):
    family = SCHEDULES[name]
    schedule = benchmark.pedantic(family.build, (64, 512), {"times": TIMES, "message_s": 2}, rounds=1)
    assert len(schedule.ops[0]) == 3 * 512 * family.stages()
