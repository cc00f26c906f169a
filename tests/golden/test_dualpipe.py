"""Schedules against the published scheduler, operation by operation and message by message (see README.md)."""

import json
from pathlib import Path

import pytest

from ffsim.schedules import OpTimes, dualpipe, dualpipe_bubble, dualpipe_v, dualpipe_v_bubble, replay

ENTRIES = json.loads(Path(__file__).with_name("dualpipe_golden.json").read_text())["entries"]
MAKERS = {"DualPipe": dualpipe, "DualPipeV": dualpipe_v}
BUBBLES = {"DualPipe": dualpipe_bubble, "DualPipeV": dualpipe_v_bubble}
REPLAYS = {"value": "overlapped", "value_recv_blocking": "blocking", "value_rendezvous": "rendezvous"}


def written(op):
    if op.kind == "FB":
        return ["FB", [op.module, op.chunk], [op.module2, op.chunk2]]
    return [op.kind, op.module, op.chunk]


@pytest.fixture(params=ENTRIES, ids=lambda entry: f"{entry['schedule']}-{entry['pp']}-{entry['chunks']}")
def entry(request):
    return request.param


@pytest.fixture
def schedule(entry):
    return MAKERS[entry["schedule"]](entry["pp"], entry["chunks"])


def test_operations_and_messages_are_those_of_the_published_code(entry, schedule):
    assert [[written(op) for op in ops] for ops in schedule.ops] == entry["ranks"]
    assert [[[list(message) for message in group] for group in groups] for groups in schedule.messages] == entry["comm"]


def test_peak_activations(entry, schedule):
    assert list(schedule.peak_activations()) == entry["peak_activations"]
    assert list(schedule.peak_activations(until_weight_gradient=True)) == entry["peak_activations_held_to_w"]


def test_replayed_makespans_and_bubbles(entry, schedule):
    for case in entry["makespans"]:
        cost = case["cost"]
        times = OpTimes(
            forward=cost["F"],
            input_gradient=cost["Bi"],
            weight_gradient=cost["W"],
            backward=cost["B"],
            pair=cost["FB"],
        )
        for key, messages in REPLAYS.items():
            if key not in case:
                continue
            played = replay(schedule, times, latency=case["p2p_latency"], messages=messages)
            assert played.makespan == case[key]
            assert list(played.busy) == case["busy"]
            if key == "value":
                assert list(played.bubble) == case["bubble"]
        if "formula_bubble" in case:
            assert BUBBLES[entry["schedule"]](entry["pp"], times) == case["formula_bubble"]
