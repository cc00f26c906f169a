"""The figures of a report as SVG text: each arranges what a result holds, and its title says what it shows."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes

from ffsim.report.canvas import (
    ACTIVITY,
    INK,
    MEMORY,
    SMALL_PT,
    WIDTH_PT,
    cells,
    drawing,
    fits,
    grid,
    legend,
    sheet,
    text_on,
    to_svg,
)
from ffsim.report.roofline import roofline
from ffsim.report.timelines import pair, pipeline
from ffsim.report.wording import cause, input_name, input_value, plain, seconds_scale
from ffsim.study.result import Row, RunResult
from ffsim.training import Doubt
from ffsim.training.memory import KINDS
from ffsim.units import BYTES, TIME, percent, significant

MAX_INPUTS = 12
SAME_THING = {"pipeline_send": "send", "gradient_sync": "sync"}
GROUPS = ("compute", "bubble", "exposed", "optimizer")


def all_figures(result: RunResult) -> dict[str, str]:
    """Every figure that the result has the data for, by name, in the order of the report."""
    draw: dict[str, Callable[[RunResult], str]] = {"roofline": roofline, "memory": memory}
    if result.step.timeline is not None:
        draw = {"where": where_the_step_goes, "pipeline": pipeline, "pair": pair} | draw
    if result.doubt is not None:
        draw["tornado"] = tornado
    return {name: function(result) for name, function in draw.items()}


def where_the_step_goes(result: RunResult) -> str:
    """The exposed breakdown: one bar a cause, split by kind of kernel where a rank computes."""
    bars: dict[str, dict[str, float]] = {}
    for row in result.exposed():
        name = row["path"].removeprefix("step/")
        bar, leaf = name.rsplit("/", 1) if name.startswith("compute/") else (name, "")
        bars.setdefault(bar, {})[leaf] = row["seconds"]
    total = {bar: sum(parts.values()) for bar, parts in bars.items()}
    order = sorted(bars, key=lambda bar: (GROUPS.index(bar.split("/")[0]), -total[bar]))
    step = result.step.step_s
    unit, factor = seconds_scale(step)
    title = _breakdown_title(total, step)
    left, right = 104.0, 78.0
    with drawing("where"):
        figure, axes = sheet(title, 17.0 * len(order), left=left, right=right)
        pt_per_s = (WIDTH_PT - left - right) / max(total.values())
        for number, bar in enumerate(order):
            _split_bar(axes, number, bar, bars[bar], factor, pt_per_s)
            label = f"{TIME.format(total[bar], 3)} · {percent(total[bar] / step)}"
            axes.text(total[bar] * factor + 4 * factor / pt_per_s, number, label, va="center")
        axes.set_yticks(range(len(order)), [cause(bar) for bar in order])
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(0, max(total.values()) * factor)
        axes.set_xlabel(f"{unit} of the step, mean over pipeline ranks")
        grid(axes, "x")
        return to_svg(figure, title)


def _breakdown_title(total: dict[str, float], step: float) -> str:
    compute, bubble, exposed, _ = (
        percent(sum(seconds for bar, seconds in total.items() if bar.startswith(group)) / step, 2) for group in GROUPS
    )
    return f"{compute} of the step computes; {bubble} is bubble, {exposed} is communication that nothing hides"


def _split_bar(axes: Axes, row: int, bar: str, parts: dict[str, float], factor: float, pt_per_s: float) -> None:
    """One bar; the name of each part stands inside where it fits."""
    key = bar.rsplit("/", 1)[-1]
    color = ACTIVITY.get(SAME_THING.get(key, key))
    left = 0.0
    for leaf, seconds in parts.items():
        box = (left, left + seconds * factor, row - 0.36, row + 0.36)
        cells(axes, [box], color or INK, alpha=1.0 if color else 0.3)
        if color and leaf and fits(plain(leaf), seconds * pt_per_s):
            middle = left + seconds * factor / 2
            axes.text(middle, row, plain(leaf), ha="center", va="center", fontsize=SMALL_PT, color=text_on(color))
        left = box[1]


def memory(result: RunResult) -> str:
    """Peak memory of every pipeline rank by kind, under the line of what the GPU has."""
    ranks = result.step.prepared.memory
    capacity = result.step.prepared.inputs.cluster.gpu.memory.value
    fullest = max(ranks, key=lambda rank: rank.total)
    spare = capacity - fullest.total
    title = (
        f"The fullest GPUs (pipeline rank {fullest.rank}) hold {BYTES.format(fullest.total, 3)} of "
        f"{BYTES.format(capacity, 3)}: {BYTES.format(spare, 2)} or {percent(spare / capacity, 2)} to spare"
    )
    names: dict[str, str | tuple[str, ...]] = {}
    with drawing("memory"):
        figure, axes = sheet(title, 170.0, left=30.0, right=132.0)
        below = [0.0] * len(ranks)
        for kind in KINDS:
            sizes = [rank.by_kind[kind] / 1e9 for rank in ranks]
            if any(sizes):
                tops = [low + size for low, size in zip(below, sizes, strict=True)]
                boxes = [(n - 0.38, n + 0.38, low, top) for n, (low, top) in enumerate(zip(below, tops, strict=True))]
                cells(axes, boxes, MEMORY[kind], outline=0.5)
                names[f"{kind}, {significant(fullest.by_kind[kind] / 1e9, 3)} GB"] = MEMORY[kind]
                below = tops
        axes.axhline(capacity / 1e9, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        axes.text(len(ranks) - 0.5, capacity / 1e9, f" capacity, {BYTES.format(capacity, 3)}", va="center")
        stack = dict(reversed(names.items()))
        legend(axes, stack, columns=1, loc="center left", bbox_to_anchor=(1.01, 0.45), title=f"rank {fullest.rank}")
        axes.set_xlim(-0.5, len(ranks) - 0.5)
        axes.set_ylim(0, capacity / 1e9 * 1.04)
        axes.set_xticks(range(0, len(ranks), 1 + len(ranks) // 24))
        axes.set_xlabel("pipeline rank")
        axes.set_ylabel("GB per GPU at the fullest moment")
        grid(axes, "y")
        return to_svg(figure, title)


def tornado(result: RunResult) -> str:
    """The step at both ends of the range of its most telling inputs, one at a time, and with all of them together."""
    doubt, step = result.doubt, result.step.step_s
    assert doubt is not None
    rows = [row for row in result.sensitivities() if row["step_at_low_s"] != row["step_at_high_s"]][:MAX_INPUTS]
    unit, factor = seconds_scale(step)
    title = _tornado_title(rows, doubt, step)
    with drawing("tornado"):
        figure, axes = sheet(title, 15.0 * (len(rows) + 1), left=146.0, right=40.0, legend=14.0)
        cells(axes, [(doubt.low_s * factor, doubt.high_s * factor, -0.12, 0.12)], INK)
        for at in (doubt.low_s, doubt.high_s):
            _end_label(axes, 0, at * factor, TIME.format(at), left=at < step)
        for number, row in enumerate(rows, 1):
            _input_bar(axes, number, row, step, factor)
        axes.axvline(step * factor, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(rows) + 1), ["all inputs together", *(input_name(row["input"]) for row in rows)])
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.set_ylim(len(rows) + 0.5, -0.5)
        margin = (doubt.high_s - doubt.low_s) * 0.08
        axes.set_xlim((doubt.low_s - margin) * factor, (doubt.high_s + margin) * factor)
        axes.set_xlabel(f"step time, {unit}; beside each bar the input's value at that end")
        grid(axes, "x")
        return to_svg(figure, title)


def _tornado_title(rows: list[Row], doubt: Doubt, step: float) -> str:
    found = f"{TIME.format(step)}, likely {TIME.format(doubt.low_s)} to {TIME.format(doubt.high_s)}"
    if not rows:
        return f"{found}: no input with a range moves the step"
    low, high = sorted((rows[0]["step_at_low_s"], rows[0]["step_at_high_s"]))
    name = input_name(rows[0]["input"]).rsplit(": ", 1)[-1]
    return f"{found}: {name} matters most, {TIME.format(low)} to {TIME.format(high)} by itself"


def _input_bar(axes: Axes, number: int, row: Row, step: float, factor: float) -> None:
    """From the step as it is to both ends: faint where the input is low, strong where it is high."""
    ends = {end: row[f"step_at_{end}_s"] for end in ("low", "high")}
    for end, alpha in (("low", 0.25), ("high", 0.65)):
        left, right = sorted((step * factor, ends[end] * factor))
        cells(axes, [(left, right, number - 0.34, number + 0.34)], INK, alpha=alpha)
    for end, other in (("low", "high"), ("high", "low")):
        text = input_value(row["input"], row[end])
        _end_label(axes, number, ends[end] * factor, text, left=ends[end] < ends[other])


def _end_label(axes: Axes, row: int, at: float, text: str, *, left: bool) -> None:
    shift = (-3, 0) if left else (3, 0)
    side = "right" if left else "left"
    axes.annotate(
        text,
        (at, row),
        shift,
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=SMALL_PT,
        annotation_clip=False,
    )
