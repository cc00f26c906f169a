"""Pictures of the simulated timeline as SVG text: the whole pipeline, and one operation kernel by kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ffsim.engine import NO_LANE
from ffsim.report.canvas import (
    ACTIVITY,
    INK,
    SMALL_PT,
    WIDTH_PT,
    Box,
    cells,
    drawing,
    fits,
    grid,
    legend,
    sheet,
    text_on,
    to_svg,
)
from ffsim.report.wording import SCHEDULE_NAMES, seconds_scale
from ffsim.study.result import RunResult
from ffsim.training import operation_times
from ffsim.training.blocks import LANES
from ffsim.units import TIME, percent

Floats = np.ndarray[Any, Any]
Ints = np.ndarray[Any, Any]
Span = tuple[int, str, float, float]  # pipeline rank, kind of operation, start and end in seconds

MAX_SPANS = 6000  # a picture with more operations shows what runs at evenly spaced instants instead
SAMPLES = 400
GAP_PT = 4.0
KIND_ACTIVITY = {"F": "forward", "B": "backward", "Bi": "input_gradient", "W": "weight_gradient"}
ACTIVITY_NAMES = {
    "forward": "forward (F)",
    "backward": "backward (B)",
    "input_gradient": "input gradient (Bi)",
    "weight_gradient": "weight gradient (W)",
    "sync": "gradient and parameter sync",
    "optimizer": "optimizer",
}
PAIR = "overlapped pair (F above B)"
# Rows of the close-up: which lanes they show and how high they are.
ROWS = {
    "compute": (("compute",), 46.0),
    "experts": (("experts",), 46.0),
    "groups": (("tensor", "context", "expert_tensor"), 30.0),
    "sends": (("send_next", "send_previous"), 16.0),
}
KERNEL_NAMES = {
    "forward": "forward",
    "input_gradient": "input gradient",
    "weight_gradient": "weight gradient",
    "dispatch": "dispatch, gradient of a combine",
    "combine": "combine, gradient of a dispatch",
    "backward": "backward",
    "tensor": "tensor group",
    "context": "context group",
    "expert_tensor": "expert-tensor group",
    "send": "pipeline send",
}


def pipeline(result: RunResult) -> str:
    """One row a pipeline rank, time to the right, operations coloured by kind: the whole step."""
    layout, step = result.step.prepared.layout, result.step.step_s
    unit, factor = seconds_scale(step)
    title = (
        f"{SCHEDULE_NAMES[layout.schedule.name]}, {layout.pp} pipeline ranks, {layout.n_micro_batches} micro-batches: "
        f"on average a rank waits {percent(result.headline['bubble_s'] / step)} of the step"
    )
    spans = operation_spans(result)
    boxes = _boxes(result, _sampled(spans, step) if len(spans) > MAX_SPANS else spans)
    row = min(max(230.0 / layout.pp, 5.0), 15.0)
    with drawing("pipeline"):
        figure, axes = sheet(title, row * layout.pp, left=26.0, legend=26.0)
        cells(axes, [(0.0, step * factor, rank - 0.4, rank + 0.4) for rank in range(layout.pp)], INK, alpha=0.07)
        for name, shapes in boxes.items():
            cells(axes, [(a * factor, b * factor, c, d) for a, b, c, d in shapes], ACTIVITY[name], outline=0.25)
        names: dict[str, str | tuple[str, ...]] = {
            ACTIVITY_NAMES[name]: ACTIVITY[name] for name, shapes in boxes.items() if shapes
        }
        if any(kind == "FB" for _, kind, *_ in spans):
            names = {PAIR: (ACTIVITY["forward"], ACTIVITY["backward"])} | names
        legend(axes, names, columns=4, bbox_to_anchor=(0.0, 1.0))
        axes.set_xlim(0, step * factor)
        axes.set_ylim(layout.pp - 0.5, -0.5)
        axes.set_yticks(range(0, layout.pp, max(1, round(9.0 / row))))
        axes.set_ylabel("pipeline rank")
        axes.set_xlabel(f"{unit} since the start of the step")
        grid(axes, "x")
        return to_svg(figure, title)


def operation_spans(result: RunResult) -> list[Span]:
    """Every operation of the schedule from its first kernel to its last, rank after rank."""
    program, timeline = result.step.prepared.program, result.step.timeline
    assert timeline is not None
    first, last = operation_times(program, timeline)
    times = zip(program.ops, first.tolist(), last.tolist(), strict=True)
    return [(rank, op.kind, start, end) for (rank, op), start, end in times]


def _sampled(spans: list[Span], step: float) -> list[Span]:
    """What runs at evenly spaced instants of each rank, neighbours of one kind joined."""
    width = step / SAMPLES
    middles = (np.arange(SAMPLES) + 0.5) * width
    result: list[Span] = []
    for rank in sorted({rank for rank, *_ in spans}):
        mine = [span for span in spans if span[0] == rank]
        running = np.searchsorted(np.array([start for *_, start, _ in mine]), middles, side="right") - 1
        for column, number in enumerate(running.tolist()):
            if number < 0 or mine[number][3] < middles[column]:
                continue
            kind, left = mine[number][1], column * width
            if result and result[-1][:2] == (rank, kind) and result[-1][3] >= left:
                left = result.pop()[2]
            result.append((rank, kind, left, (column + 1) * width))
    return result


def _boxes(result: RunResult, spans: list[Span]) -> dict[str, list[Box]]:
    """Rectangles in seconds and rows by activity; of an overlapped pair the forward stands above the backward."""
    program, timeline = result.step.prepared.program, result.step.timeline
    assert timeline is not None
    boxes: dict[str, list[Box]] = {name: [] for name in ACTIVITY_NAMES}
    for rank, kind, start, end in spans:
        if kind == "FB":
            boxes["forward"].append((start, end, rank - 0.4, float(rank)))
            boxes["backward"].append((start, end, float(rank), rank + 0.4))
        else:
            boxes[KIND_ACTIVITY[kind]].append((start, end, rank - 0.4, rank + 0.4))
    for name in ("sync", "optimizer"):
        rows = program.of(name)
        columns = (program.rank[rows].tolist(), timeline.start_s[rows].tolist(), timeline.end_s[rows].tolist())
        boxes[name] = [(start, end, rank - 0.4, rank + 0.4) for rank, start, end in zip(*columns, strict=True)]
    return boxes


@dataclass(frozen=True, slots=True)
class CloseUp:
    """A stretch of a rank's time and the tasks in it.

    Attributes:
        rank: pipeline rank.
        ops: numbers of the operations looked at, in order.
        start, end: from the end of the operation before to the start of the one after, as far as they are near.
        inner: seconds from the first kernel of the operations to their last.
        rows: tasks by row of the picture.
    """

    rank: int
    ops: range
    start: float
    end: float
    inner: float
    rows: dict[str, Ints]


def close_up(result: RunResult) -> CloseUp:
    """An overlapped pair in the middle of the step of a middle rank, or a forward and the backward right after it."""
    program, timeline = result.step.prepared.program, result.step.timeline
    assert timeline is not None
    rank = result.step.prepared.layout.pp // 2
    spans = operation_spans(result)
    own = [number for number, span in enumerate(spans) if span[0] == rank]
    pairs = [range(number, number + 1) for number in own if spans[number][1] == "FB"]
    pairs = pairs or [
        range(number, number + 2) for number in own[:-1] if (spans[number][1], spans[number + 1][1]) == ("F", "B")
    ]
    ops = pairs[len(pairs) // 2]
    first, last = spans[ops[0]][2], spans[ops[-1]][3]
    margin = 0.1 * (last - first)
    start = max(first - margin, spans[ops[0] - 1][3] if ops[0] > own[0] else first)
    end = min(last + margin, spans[ops[-1] + 1][2] if ops[-1] < own[-1] else last)
    shown = (program.rank == rank) & (timeline.end_s > start) & (timeline.start_s < end)
    shown &= (timeline.end_s > timeline.start_s) & (program.graph.lane != NO_LANE)
    lane = np.array(LANES)[program.graph.lane % len(LANES)]
    rows = {name: np.flatnonzero(shown & np.isin(lane, lanes)) for name, (lanes, _) in ROWS.items()}
    rows = {name: tasks for name, tasks in rows.items() if len(tasks)}
    return CloseUp(rank, ops, start, end, last - first, rows)


def pair(result: RunResult) -> str:
    """One overlapped pair (or a forward and a backward), kernel group by kernel group on its lanes."""
    part = close_up(result)
    unit, factor = seconds_scale(part.end - part.start)
    title = _close_up_title(result, part)
    heights = [ROWS[name][1] for name in part.rows]
    with drawing("pair"):
        figure, axes = sheet(title, sum(heights) + GAP_PT * len(heights), left=40.0, legend=26.0)
        top, middles = 0.0, []
        for tasks, height in zip(part.rows.values(), heights, strict=True):
            for task in tasks.tolist():
                _kernel(axes, result, part, task, (top, top + height), factor)
            middles.append(top + height / 2)
            top += height + GAP_PT
        tasks = np.concatenate(list(part.rows.values()))
        present = set(result.step.prepared.program.category[tasks].tolist())
        names: dict[str, str | tuple[str, ...]] = {
            text: ACTIVITY[name] for name, text in KERNEL_NAMES.items() if name in present
        }
        legend(axes, names, columns=3)
        axes.set_xlim(0, (part.end - part.start) * factor)
        axes.set_ylim(top, 0)
        axes.set_yticks(middles, list(part.rows))
        axes.set_xlabel(f"{unit}; {_what(result, part)}")
        grid(axes, "x")
        return to_svg(figure, title)


def _close_up_title(result: RunResult, part: CloseUp) -> str:
    """How much of the operations' time each lane is at work."""
    program, timeline = result.step.prepared.program, result.step.timeline
    assert timeline is not None
    own = np.isin(program.op, part.ops)
    busy = timeline.end_s - timeline.start_s
    shares = {name: percent(float(busy[tasks[own[tasks]]].sum()) / part.inner) for name, tasks in part.rows.items()}
    overlapped = program.ops[part.ops[0]][1].kind == "FB"
    what = "an overlapped pair" if overlapped else "a forward and a backward"
    exchange = f", expert exchange for {shares['experts']} of it" if "experts" in shares else ""
    return f"Rank {part.rank}, {what} of {TIME.format(part.inner)}: computing runs for {shares['compute']}{exchange}"


def _what(result: RunResult, part: CloseUp) -> str:
    """Which micro-batches and stages the operations work on."""
    prepared = result.step.prepared
    held = prepared.layout.schedule.placement[part.rank]
    texts = []
    for number in part.ops:
        op = prepared.program.ops[number][1]
        for name, work in (("forward", op.forward), ("backward", op.backward)):
            if work is not None:
                texts.append(f"{name} of micro-batch {work[1]} on stage {held[work[0]]}")
    return ", ".join(texts)


def _kernel(axes: Axes, result: RunResult, part: CloseUp, task: int, row: tuple[float, float], factor: float) -> None:
    """One task as a rectangle with its name: upright where it is narrow, none where there is no room."""
    program, timeline = result.step.prepared.program, result.step.timeline
    assert timeline is not None
    left = max(float(timeline.start_s[task]), part.start) - part.start
    right = min(float(timeline.end_s[task]), part.end) - part.start
    color, label = ACTIVITY[program.categories[program.category_code[task]]], program.labels[program.label_code[task]]
    width = (right - left) / (part.end - part.start) * (WIDTH_PT - 44.0)
    outline = min(0.6, width / 4)  # narrow ones keep a colour
    cells(axes, [(left * factor, right * factor, *row)], color, outline=outline)
    if fits(label, width):
        angle = 0
    elif width > SMALL_PT + 1 and fits(label, row[1] - row[0]):
        angle = 90
    else:
        return
    middle = ((left + right) / 2 * factor, (row[0] + row[1]) / 2)
    axes.text(
        *middle,
        label,
        rotation=angle,
        rotation_mode="anchor",
        ha="center",
        va="center",
        fontsize=SMALL_PT,
        color=text_on(color),
    )
