"""A simulated step as a Chrome trace, for https://ui.perfetto.dev and chrome://tracing.

One process a pipeline rank, one thread a lane: schedule operations above, then computing, expert dispatch and combine,
pipeline sends by direction, gradient and parameter synchronisation.
Source: Trace Event Format (complete events ``X``, metadata ``M``); times in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from ffsim.engine import NO_LANE
from ffsim.schedules import Op
from ffsim.study.result import SCHEMA, RunResult
from ffsim.training import operation_times
from ffsim.training.blocks import LANES

Floats = np.ndarray[Any, Any]

SCHEDULE_THREAD = 0  # the lanes follow
LANE_NAMES = {
    "compute": "compute",
    "experts": "expert dispatch and combine",
    "send_next": "pipeline sends, to the next rank",
    "send_previous": "pipeline sends, to the previous rank",
    "sync": "gradient and parameter sync",
    "tensor": "exchanges of tensor groups",
    "context": "exchanges of context groups",
    "expert_tensor": "exchanges of expert-tensor groups",
    "host": "host, issuing kernels",
}


def write_trace(result: RunResult, file: TextIO) -> int:
    """Write the simulated timeline of one pipeline.

    Args:
        result: simulated at depth ``folded`` or ``full``; of several data-parallel replicas the first is written.
        file: open for text.

    Returns:
        How many events were written, metadata not counted.
    """
    step, provenance = result.step, result.provenance
    other = {
        "ffsim_version": provenance.version,
        "scenario_sha256": provenance.sha256,
        "result_schema": SCHEMA,
        "step_s": step.step_s,
    }
    head = {"displayTimeUnit": "ms", "otherData": other}
    file.write(json.dumps(head)[:-1] + ', "traceEvents": [\n')
    file.write(",\n".join(json.dumps(event) for event in _metadata(result)))
    events = list(_events(result))
    file.write(",\n" + ",\n".join(events) + "\n]}\n")
    return len(events)


def _metadata(result: RunResult) -> Iterator[dict[str, Any]]:
    """Names and order of processes and threads."""
    threads = ["schedule", *(LANE_NAMES[lane] for lane in LANES)]
    for rank, stages in enumerate(result.step.prepared.layout.schedule.placement):
        name = f"pipeline rank {rank} (stage {' and '.join(map(str, stages))})"
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": rank, "args": {"sort_index": rank}}
        for number, thread in enumerate(threads):
            yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": number, "args": {"name": thread}}
            yield {"ph": "M", "name": "thread_sort_index", "pid": rank, "tid": number, "args": {"sort_index": number}}


def _events(result: RunResult) -> Iterator[str]:
    """Operations, then kernels and transfers, each as one line of JSON; what takes no time is left out."""
    program, timeline = result.step.prepared.program, result.step.timeline
    assert timeline is not None
    placement = result.step.prepared.layout.schedule.placement
    first, last = operation_times(program, timeline)
    long = np.flatnonzero(last > first)
    names = [_operation_name(op, placement[rank]) for rank, op in (program.ops[number] for number in long)]
    ranks = [program.ops[number][0] for number in long]
    n = len(names)
    yield from _complete(names, ["schedule"] * n, ranks, [SCHEDULE_THREAD] * n, first[long], last[long])
    shown = np.flatnonzero((program.graph.lane != NO_LANE) & (timeline.end_s > timeline.start_s))
    yield from _complete(
        program.label[shown].tolist(),
        program.category[shown].tolist(),
        program.rank[shown].tolist(),
        (program.graph.lane[shown] % len(LANES) + 1).tolist(),
        timeline.start_s[shown],
        timeline.end_s[shown],
    )


def _operation_name(op: Op, stages: tuple[int, ...]) -> str:
    parts = []
    if op.forward is not None:
        module, chunk = op.forward
        parts.append(f"forward of micro-batch {chunk} on stage {stages[module]}")
    if op.backward is not None:
        module, chunk = op.backward
        half = "input gradient" if op.kind == "Bi" else "backward"
        parts.append(f"{half} of micro-batch {chunk} on stage {stages[module]}")
    if op.kind == "W":
        parts.append(f"weight gradient of micro-batch {op.chunk} on stage {stages[op.module]}")
    return ", ".join(parts)


def _complete(
    names: list[str], categories: list[str], pids: list[int], tids: list[int], start_s: Floats, end_s: Floats
) -> Iterator[str]:
    """Complete events; nanoseconds are kept."""
    keys = list(zip(names, categories, pids, tids, strict=True))
    heads = {key: _head(*key) for key in set(keys)}  # few, against tens of thousands of events
    begin = np.round(start_s * 1e6, 3)
    length = np.round(end_s * 1e6 - begin, 3)
    for key, ts, dur in zip(keys, begin.tolist(), length.tolist(), strict=True):
        yield f'{heads[key]}, "ts": {ts}, "dur": {dur}}}'


def _head(name: str, category: str, pid: int, tid: int) -> str:
    return json.dumps({"name": name, "cat": category, "ph": "X", "pid": pid, "tid": tid})[:-1]
