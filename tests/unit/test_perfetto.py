"""The trace: valid, complete, one lane for each kind of work."""

import io
import json

import numpy as np
import pytest

from ffsim.report.perfetto import write_trace
from ffsim.training.blocks import LANES


def trace_of(result):
    file = io.StringIO()
    count = write_trace(result, file)
    data = json.loads(file.getvalue())
    spans = [event for event in data["traceEvents"] if event["ph"] == "X"]
    assert count == len(spans)
    return data, spans


def test_every_task_that_takes_time_is_there_with_its_time(tiny):
    data, spans = trace_of(tiny)
    program, timeline = tiny.step.prepared.program, tiny.step.timeline
    lanes = [event for event in spans if event["tid"] > 0]
    timed = (timeline.end_s > timeline.start_s) & (program.graph.lane >= 0)
    assert len(lanes) == timed.sum()
    assert sum(event["dur"] for event in lanes) == pytest.approx(
        float((timeline.end_s - timeline.start_s)[timed].sum()) * 1e6, rel=1e-3
    )
    assert max(event["ts"] + event["dur"] for event in spans) == pytest.approx(tiny.step.step_s * 1e6, abs=0.01)
    assert data["otherData"]["scenario_sha256"] == tiny.provenance.sha256


def test_kinds_of_work_stand_on_lanes_of_their_own(tiny):
    data, spans = trace_of(tiny)
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in data["traceEvents"]
        if event["name"] == "thread_name"
    }
    assert len(names) == 4 * (1 + len(LANES))
    found = {}
    for event in spans:
        found.setdefault(names[event["pid"], event["tid"]], set()).add(event["cat"])
    assert found == {
        "schedule": {"schedule"},
        "compute": {"forward", "input_gradient", "weight_gradient", "optimizer"},
        "expert dispatch and combine": {"dispatch", "combine"},
        "pipeline sends, to the next rank": {"send"},
        "pipeline sends, to the previous rank": {"send"},
        "gradient and parameter sync": {"sync"},
    }


def test_spans_of_a_lane_do_not_overlap(tiny):
    _, spans = trace_of(tiny)
    lanes = {}
    for event in spans:
        lanes.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for times in lanes.values():
        begin, end = np.array(sorted(times)).T
        assert (begin[1:] >= end[:-1] - 0.002).all()


def test_operations_say_what_they_work_on(tiny_1f1b):
    _, spans = trace_of(tiny_1f1b)
    first = next(event for event in spans if event["cat"] == "schedule")
    assert first["name"] == "forward of micro-batch 0 on stage 0"
