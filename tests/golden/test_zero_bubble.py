"""Schedules against the published generators, operation by operation, and their replay (see README.md)."""

import json
from pathlib import Path

import pytest

from ffsim.schedules import SCHEDULES, OpTimes, replay

SHIPPED = Path(__file__).with_name("zero_bubble_golden.json")
NAMES = {
    "1f1b": "1f1b",
    "1f1b_interleaved": "interleaved",
    "1f1b_interleaved_3": "interleaved",
    "zb1p": "zb-h1",
    "zb_1.5p": "zb-1.5p",
    "zb2p": "zb-h2",
    "zbv": "zb-v",
    "1f1b_v": "1f1b-v",
    "v_half": "v-half",
    "v_min": "v-min",
}
NOT_SHIPPED = {"v_auto"}
WRITTEN = {"F": "F", "Bi": "B", "W": "W", "B": "BW"}


def pytest_generate_tests(metafunc):
    entries = json.loads(metafunc.config.getoption("--zero-bubble-golden", SHIPPED).read_text())["entries"]
    metafunc.parametrize("entry", [entry for entry in entries if entry["schedule"] not in NOT_SHIPPED], ids=named)


def named(entry):
    cost = "-".join(f"{kind}{value}" for kind, value in entry["cost"].items())
    return f"{entry['schedule']}-{entry['stages']}-{entry['microbatches']}-{cost}"


def times_of(entry):
    cost = entry["cost"]
    return OpTimes(forward=cost["F"], input_gradient=cost["B"], weight_gradient=cost["W"])


@pytest.fixture
def schedule(entry):
    return SCHEDULES[NAMES[entry["schedule"]]].build(
        entry["stages"],
        entry["microbatches"],
        chunks=entry["chunks_per_stage"],
        times=times_of(entry),
        message_s=entry["cost"]["C"],
    )


def test_operations_are_those_of_the_published_generator(entry, schedule):
    if entry["schedule"] == "v_half" and entry["microbatches"] < 2 * entry["stages"]:
        pytest.skip("with so few micro-batches V-Half ends in another order, as long and with the same peaks")
    assert [[[WRITTEN[op.kind], op.module, op.chunk] for op in ops] for ops in schedule.ops] == entry["ops"]


def test_peak_activations(entry, schedule):
    assert list(schedule.peak_activations(until_weight_gradient=True)) == entry["peak_activations"]


def test_replayed_makespan_bubbles_and_spans(entry, schedule):
    played = replay(schedule, times_of(entry), latency=entry["cost"]["C"])
    assert played.makespan == pytest.approx(entry["makespan"], rel=1e-12)
    assert played.bubble == pytest.approx(entry["bubble"], rel=1e-12)
    assert max(played.span) == pytest.approx(entry["longest_stage_span"], rel=1e-12)
    longest = max(range(len(played.span)), key=played.span.__getitem__)
    assert 1 - played.busy[longest] / played.span[longest] == pytest.approx(entry["span_bubble_rate"], abs=1e-9)
