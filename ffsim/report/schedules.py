"""Pipeline schedules for readers: a drawing in text, as in the papers' figures, and what comes out of the replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffsim.report.tables import Presentation, Table
from ffsim.schedules import Op
from ffsim.study.schedule import ScheduleEntry
from ffsim.units import significant

LETTERS = {"F": "F", "B": "B", "Bi": "I", "W": "W"}
WIDEST = 5000  # columns; more is no drawing any more
LEGEND = "F forward, B backward, I input gradient, W weight gradient, each with its micro-batch; F+B at once; · idle"


def present_schedule(entry: ScheduleEntry) -> Presentation:
    """The drawing, the headline figures beside their closed forms, and every rank."""
    schedule, played = entry.schedule, entry.played
    rows = [
        ("makespan", _number(played.makespan), ""),
        ("largest bubble of a rank, from the first operation of all", _number(max(played.bubble)), _form(entry.bubble)),
        ("largest bubble of a rank, from its own first operation", _number(max(played.span_bubble)), ""),
        ("share of the makespan", f"{max(played.bubble) / played.makespan:.1%}" if played.makespan else "", ""),
    ]
    limits = entry.activations or (None,) * schedule.n_ranks
    ranks = [
        (
            str(rank),
            ", ".join(str(stage) for stage in schedule.placement[rank]),
            _number(played.busy[rank]),
            _number(played.bubble[rank]),
            _number(played.span_bubble[rank]),
            _number(entry.held[rank]),
            _form(limits[rank]),
        )
        for rank in range(schedule.n_ranks)
    ]
    columns = ("rank", "stages", "busy", "bubble", "own bubble", "peak activations", "closed form")
    drawing = text_drawing(entry)
    tables = [Table("", ("", ""), drawing, footer=LEGEND)] if drawing else []
    tables += [
        Table("", ("", "replayed", "closed form"), rows, (1, 2)),
        Table("", columns, ranks, (2, 3, 4, 5, 6), footer="activations in shares of a rank's of one micro-batch"),
    ]
    return Presentation(_title(entry), tables, schedule_data(entry))


def _title(entry: ScheduleEntry) -> str:
    schedule, times = entry.schedule, entry.times
    per_rank = len(schedule.placement[0])
    durations = f"F={times.forward:g} Bi={times.input_gradient:g} W={times.weight_gradient:g} B={times.b:g}"
    if any(op.kind == "FB" for op in schedule.ops[0]):
        durations += f" FB={times.fb:g}"
    message = f", messages {entry.message:g}" if entry.message else ""
    return (
        f"{entry.family.name}: {entry.family.title}\n{schedule.n_ranks} ranks with {per_rank} "
        f"stage{'s' * (per_rank > 1)} each, {schedule.n_micro_batches} micro-batches; {durations} a stage{message}"
    )


def _number(value: float) -> str:
    return significant(value, 6) if value else "0"


def _form(value: float | None) -> str:
    return "none" if value is None else _number(value)


def schedule_data(entry: ScheduleEntry) -> dict[str, Any]:
    """Everything about a schedule, for machines."""
    schedule, played, times = entry.schedule, entry.played, entry.times
    return {
        "schema": "ffsim.schedule/1",
        "name": entry.family.name,
        "title": entry.family.title,
        "n_micro_batches": schedule.n_micro_batches,
        "placement": schedule.placement,
        "times": {"F": times.forward, "Bi": times.input_gradient, "W": times.weight_gradient, "B": times.b},
        "pair_time": times.fb,
        "message_time": entry.message,
        "makespan": played.makespan,
        "largest_bubble": max(played.bubble),
        "largest_bubble_form": entry.bubble,
        "ranks": [
            {
                "busy": played.busy[rank],
                "bubble": played.bubble[rank],
                "own_bubble": played.span_bubble[rank],
                "peak_activations": entry.held[rank],
                "peak_activations_form": None if entry.activations is None else entry.activations[rank],
                "operations": [
                    {"kind": op.kind, "module": op.module, "micro_batch": op.chunk, "start": start, "end": end}
                    | ({"module2": op.module2, "micro_batch2": op.chunk2} if op.kind == "FB" else {})
                    for op, start, end in timed_operations(entry, rank)
                ],
            }
            for rank in range(schedule.n_ranks)
        ],
    }


def timed_operations(entry: ScheduleEntry, rank: int) -> list[tuple[Op, float, float]]:
    """Operations of a rank with their start and end."""
    first = sum(len(ops) for ops in entry.schedule.ops[:rank])
    ops, timeline = entry.schedule.ops[rank], entry.played.timeline
    span = slice(first, first + len(ops))
    return list(zip(ops, timeline.start_s[span].tolist(), timeline.end_s[span].tolist(), strict=True))


def label(op: Op, *, many_modules: bool) -> str:
    """What stands in the cell of an operation: kind, micro-batch, and which of several stages (a, b, ...)."""

    def one(letter: str, module: int, chunk: int) -> str:
        return f"{letter}{chunk}" + (chr(ord("a") + module) if many_modules else "")

    if op.kind == "FB":
        return one("F", op.module, op.chunk) + "+" + one("B", op.module2, op.chunk2)
    return one(LETTERS[op.kind], op.module, op.chunk)


def text_drawing(entry: ScheduleEntry) -> list[tuple[str, str]]:
    """One row a rank, time to the right, all cells to one scale; empty where it would be too wide to be read."""
    many = len(entry.schedule.placement[0]) > 1
    ranks = [timed_operations(entry, rank) for rank in range(entry.schedule.n_ranks)]
    scale = max(
        (
            (len(label(op, many_modules=many)) + 1) / (end - start)
            for ops in ranks
            for op, start, end in ops
            if end > start
        ),
        default=0.0,
    )
    if not 0 < scale * entry.played.makespan <= WIDEST:
        return []
    return [(f"rank {rank}", _row(ops, scale, many)) for rank, ops in enumerate(ranks)]


def _row(ops: Sequence[tuple[Op, float, float]], scale: float, many_modules: bool) -> str:
    text = ""
    for op, start, end in ops:
        first, last = round(start * scale), round(end * scale)
        if last <= first:
            continue
        text += "·" * (first - len(text) - 1) + " " * (first > len(text))
        text += label(op, many_modules=many_modules).ljust(last - first - 1, "-")[: last - first - 1] + " "
    return text.rstrip()
