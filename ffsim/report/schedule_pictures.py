"""Pipeline schedules as SVG, in the style of the papers' figures: ranks as rows, numbered boxes coloured by kind."""

from __future__ import annotations

from matplotlib.axes import Axes

from ffsim.report.canvas import (
    ACTIVITY,
    WIDTH_PT,
    Box,
    cells,
    drawing,
    fits,
    legend,
    sheet,
    text_on,
    to_svg,
)
from ffsim.report.schedules import timed_operations
from ffsim.report.wording import SCHEDULE_NAMES
from ffsim.schedules import Op
from ffsim.study.schedule import ScheduleEntry
from ffsim.units import significant

KINDS = {"F": "forward", "B": "backward", "Bi": "input_gradient", "W": "weight_gradient"}
NAMES = {"F": "forward", "B": "backward", "Bi": "input gradient", "W": "weight gradient"}
LEFT_PT, RIGHT_PT = 34.0, 4.0
ROW_PT = 15.0
NUMBER_PT = 6.5
SMALLEST_PT = 3.0  # numbers smaller than this help nobody
LEGEND_COLUMNS = 2  # where each kind comes in several tones

Half = tuple[str, int, int, Box]  # kind, module, micro-batch, where


def schedule_picture(entry: ScheduleEntry) -> str:
    """The whole schedule as an ``<svg>`` element: idle time stays white, later stages of a rank are paler."""
    schedule, played = entry.schedule, entry.played
    title = (
        f"{SCHEDULE_NAMES[entry.family.name]}, {schedule.n_ranks} ranks, {schedule.n_micro_batches} micro-batches: "
        f"no rank idles for more than {significant(max(played.bubble), 4) if max(played.bubble) else 0} "
        f"of {significant(played.makespan, 4)}"
    )
    halves = [
        half
        for rank in range(schedule.n_ranks)
        for op, start, end in timed_operations(entry, rank)
        for half in _halves(op, start, end, rank)
    ]
    n_modules = len(schedule.placement[0])
    kinds = {kind for kind, *_ in halves}
    room = 26.0 if n_modules > 1 and len(kinds) > LEGEND_COLUMNS else 15.0
    with drawing("schedule"):
        figure, axes = sheet(title, ROW_PT * schedule.n_ranks, left=LEFT_PT, right=RIGHT_PT, legend=room)
        for kind in KINDS:
            for module in range(n_modules):
                boxes = [box for own, of, _, box in halves if (own, of) == (kind, module)]
                cells(axes, boxes, tone(kind, module, n_modules), outline=0.5)
        _numbers(axes, halves, n_modules, (WIDTH_PT - LEFT_PT - RIGHT_PT) / played.makespan)
        _legend(axes, kinds, n_modules)
        axes.set_xlim(0, played.makespan)
        axes.set_ylim(schedule.n_ranks - 0.5, -0.5)
        axes.set_yticks(range(schedule.n_ranks), [f"rank {rank}" for rank in range(schedule.n_ranks)])
        axes.set_xlabel("time")
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_alpha(0.4)
        return to_svg(figure, title)


def _halves(op: Op, start: float, end: float, rank: int) -> list[Half]:
    """The box of an operation; of an overlapped pair two, the forward above the backward."""
    if op.kind == "FB":
        return [
            ("F", op.module, op.chunk, (start, end, rank - 0.45, float(rank))),
            ("B", op.module2, op.chunk2, (start, end, float(rank), rank + 0.45)),
        ]
    return [(op.kind, op.module, op.chunk, (start, end, rank - 0.45, rank + 0.45))]


def tone(kind: str, module: int, n_modules: int) -> str:
    """The colour of a kind for one of a rank's stages: the first in full, later ones mixed with ever more white."""
    color = ACTIVITY[KINDS[kind]]
    white = 0.6 * module / max(n_modules - 1, 1)
    parts = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def _numbers(axes: Axes, halves: list[Half], n_modules: int, pt_per_unit: float) -> None:
    """Micro-batch numbers, in the one size that fits the narrowest box; none where that is too small."""
    room = min((box[1] - box[0] for *_, box in halves if box[1] > box[0]), default=0.0) * pt_per_unit
    longest = max((str(chunk) for _, _, chunk, _ in halves), key=len, default="")
    size = NUMBER_PT
    while size >= SMALLEST_PT and not fits(longest, room, size):
        size -= 0.5
    if size < SMALLEST_PT:
        return
    for kind, module, chunk, (left, right, top, bottom) in halves:
        if right > left:
            axes.text(
                (left + right) / 2,
                (top + bottom) / 2,
                str(chunk),
                ha="center",
                va="center_baseline",
                fontsize=size if bottom - top > 0.5 else min(size, ROW_PT * 0.38),
                color=text_on(tone(kind, module, n_modules)),
            )


def _legend(axes: Axes, used: set[str], n_modules: int) -> None:
    names: dict[str, str | tuple[str, ...]] = {}
    for kind, name in NAMES.items():
        if kind in used:
            tones = tuple(tone(kind, module, n_modules) for module in range(n_modules))
            names[name + (" (first stage to last)" if n_modules > 1 else "")] = tones
    legend(axes, names, columns=4 if n_modules == 1 else LEGEND_COLUMNS, bbox_to_anchor=(0.0, 1.0))
