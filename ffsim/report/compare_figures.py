"""The figures of a comparison as SVG text: where the time goes, what a token costs, what fills the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from matplotlib.axes import Axes

from ffsim.report.canvas import ACTIVITY, INK, MEMORY, cells, drawing, grid, legend, sheet, to_svg
from ffsim.report.wording import cause, plain, seconds_scale
from ffsim.study.compare import Group
from ffsim.study.compare_measure import Measured
from ffsim.study.compare_verdicts import certain, runner_up
from ffsim.units import BYTES, ENERGY, MONEY, TIME, Unit, percent, significant

ROW_PT = 19.0
LETTER_PT = 4.1
SAME_THING = {"exposed/pipeline_send": "send", "exposed/gradient_sync": "sync"}
FURTHER = ("#7a7f2a", "#4a6b8a", "#b08fb5", "#5e4b3c")  # communication that no other figure shows
BUBBLE = "bubble"
BAR = "#5f7fa8"
Legend = dict[str, str | tuple[str, ...]]


def comparison_figures(group: Group, number: int) -> dict[str, str]:
    """Every figure that a group has the data for, by name.

    Args:
        group: candidates of which one at least ran.
        number: of the group on its page.
    """
    figures = {}
    if any(measured.exposed for measured in group.ran.values()):
        figures["why"] = why(group, number)
    figures["cost"] = ranged_bars(group, number, "cost_per_mtoken_usd", "Rent per million tokens", MONEY)
    figures["energy"] = ranged_bars(group, number, "energy_per_mtoken_j", "Energy per million tokens", ENERGY)
    if len({one.price_unit for one in group.ran.values()}) == 1 and all(one.price_unit for one in group.ran.values()):
        name = "Published price for the same tokens per second"
        figures["price"] = ranged_bars(group, number, "relative_price_per_token_rate", name, None)
    figures["memory"] = memory(group, number)
    return figures


def why(group: Group, number: int) -> str:
    """One bar a candidate: the exposed breakdown of its step, and beside it the network's share."""
    ran = group.ran
    parts = {name: _merged(measured.exposed) for name, measured in ran.items()}
    order = list(dict.fromkeys(part for one in parts.values() for part, seconds in one.items() if seconds))
    order.sort(key=lambda part: (part == BUBBLE, part.startswith("exposed/"), part == "optimizer"))
    colors = _colors(order)
    unit, factor = seconds_scale(max(one.figures["step_s"] for one in ran.values()))
    title = _why_title(group, parts, order)

    def draw(axes: Axes, row: int, name: str) -> tuple[float, str]:
        left = 0.0
        for part in order:
            right = left + parts[name].get(part, 0.0) * factor
            _bar(axes, row, left, right, colors[part])
            left = right
        share = ran[name].figures.get("network_frac")
        return left, TIME.format(ran[name].figures["step_s"]) + ("" if share is None else f" · {percent(share, 2)}")

    names: Legend = {cause(part): colors[part] or "#b3b3b4" for part in order}
    label = f"{unit} of the step, mean over pipeline ranks; behind it the share that goes with the network's rate"
    return _bars(f"why {number}", title, group, draw, label, names, right=80.0)


def _merged(exposed: dict[str, float]) -> dict[str, float]:
    """The breakdown with kernels of one phase taken together."""
    found: dict[str, float] = {}
    for path, seconds in exposed.items():
        part = path.split("/")[1] if path.startswith("compute/") else path
        found[part] = found.get(part, 0.0) + seconds
    return found


def _colors(parts: Iterable[str]) -> dict[str, str]:
    """The colour of each part; empty for the bubble, which is drawn in the page's own ink."""
    further = iter(FURTHER * 8)
    found = {}
    for part in parts:
        key = SAME_THING.get(part, part.rpartition("/")[2])
        found[part] = "" if part == BUBBLE else ACTIVITY[key] if key in ACTIVITY else next(further)
    return found


def _why_title(group: Group, parts: dict[str, dict[str, float]], order: list[str]) -> str:
    steps = {name: measured.figures["step_s"] for name, measured in group.ran.items()}
    fastest, slowest = min(steps, key=lambda name: steps[name]), max(steps, key=lambda name: steps[name])
    if steps[slowest] <= steps[fastest] * (1 + 1e-6):
        return f"{TIME.format(steps[fastest], 3)} a step whichever candidate is taken"
    gap = steps[slowest] - steps[fastest]
    lost = {part: parts[slowest].get(part, 0.0) - parts[fastest].get(part, 0.0) for part in order}
    most = max(order, key=lambda part: lost[part])
    share = percent(min(lost[most] / gap, 1.0), 2)
    said = "all" if lost[most] >= gap else share
    return (
        f"{slowest} takes {TIME.format(gap, 3)} more than {fastest} for a step; "
        f"{said} of it is {'the bubble' if most == BUBBLE else cause(most).replace(', exposed', ' that nothing hides')}"
    )


def ranged_bars(group: Group, number: int, figure: str, what: str, unit: Unit | None) -> str:
    """One bar a candidate with the range of its figure; relative to the first where it has no unit."""
    ran = group.ran
    base = 1.0 if unit is not None else ran[group.first].figures[figure]
    values = {name: measured.figures[figure] / base for name, measured in ran.items()}
    ends = {
        name: tuple(end / base for end in one.ranges.get(figure, (one.figures[figure],) * 2))
        for name, one in ran.items()
    }
    write: Callable[[float], str] = (lambda value: unit.format(value, 3)) if unit else (lambda value: f"{value:.3f}")
    highest = max(high for _, high in ends.values())
    name, factor = _scale(unit, highest)
    title = f"{what}: {_bars_finding(group, figure, values, write)}"

    def draw(axes: Axes, row: int, candidate: str) -> tuple[float, str]:
        low, high = ends[candidate]
        _bar(axes, row, 0.0, values[candidate] * factor, BAR)
        if low < high:
            axes.plot([low * factor, high * factor], [row, row], color=INK, linewidth=1.0)
            for end in (low, high):
                axes.plot([end * factor] * 2, [row - 0.16, row + 0.16], color=INK, linewidth=1.0)
        return max(high, values[candidate]) * factor, write(values[candidate])

    label = f"{name} with the range of prices and step" if unit else f"times that of {group.first}"
    return _bars(f"{figure} {number}", title, group, draw, label, {}, right=64.0)


def _scale(unit: Unit | None, highest: float) -> tuple[str, float]:
    if unit is None:
        return "", 1.0
    name = unit.format(highest).split(" ", 1)[1]
    return name, 1 / unit.factors[name]


def _bars_finding(group: Group, figure: str, values: dict[str, float], write: Callable[[float], str]) -> str:
    best = group.best.get(figure, ())
    if not best:
        return f"{write(next(iter(values.values())))} for every candidate"
    second = runner_up(group.ran, figure)
    assert second is not None
    least = f"least on {' and '.join(best)}"
    more = percent(values[second] / values[best[0]] - 1, 2)
    unsure = certain(group.ran[best[0]], group.ran[second], figure) is False
    return f"{least}, {more} more on {second}" + (", which is not certain" if unsure else "")


def memory(group: Group, number: int) -> str:
    """One bar a candidate: what fills its fullest GPU, with a mark where the GPU ends."""
    ran = group.ran
    kinds = list(dict.fromkeys(kind for one in ran.values() for kind, size in one.memory.items() if size))
    colors = {kind: MEMORY.get(kind, FURTHER[number_ % len(FURTHER)]) for number_, kind in enumerate(kinds)}
    least = min(ran, key=lambda name: ran[name].figures["memory_margin_bytes"])
    spare = BYTES.format(ran[least].figures["memory_margin_bytes"], 3)
    if group.best.get("memory_margin_bytes"):
        title = f"The fullest GPU of {least} has {spare} to spare, the least of all"
    else:
        title = f"The fullest GPU has {spare} to spare" + (" in every candidate" if len(ran) > 1 else "")

    def draw(axes: Axes, row: int, name: str) -> tuple[float, str]:
        left, capacity = 0.0, ran[name].capacity_bytes / 1e9
        for kind in kinds:
            right = left + ran[name].memory.get(kind, 0.0) / 1e9
            _bar(axes, row, left, right, colors[kind])
            left = right
        axes.plot([capacity] * 2, [row - 0.46, row + 0.46], color=INK, linewidth=1.2)
        return max(left, capacity), f"{significant(left, 3)} of {significant(capacity, 3)}"

    label = "GB on the fullest GPU at its fullest moment; the line is what a GPU has"
    names: Legend = {plain(kind): colors[kind] for kind in kinds}
    return _bars(f"memory {number}", title, group, draw, label, names, right=64.0)


def _bar(axes: Axes, row: int, left: float, right: float, color: str) -> None:
    cells(axes, [(left, right, row - 0.34, row + 0.34)], color or INK, alpha=1.0 if color else 0.3)


def _bars(
    identity: str,
    title: str,
    group: Group,
    draw: Callable[[Axes, int, str], tuple[float, str]],
    label: str,
    names: Legend,
    *,
    right: float,
) -> str:
    """A row for each candidate that ran; ``draw`` says how far it reaches and what is written behind it."""
    ran: dict[str, Measured] = group.ran
    left = min(max(len(name) for name in ran) * LETTER_PT + 8, 190.0)
    columns = max(1, min(len(names), 6))
    lines = -(-len(names) // columns)
    with drawing(identity):
        figure, axes = sheet(title, ROW_PT * len(ran), left=left, right=right, legend=12.0 * lines + 4.0 * bool(lines))
        ends = []
        for row, name in enumerate(ran):
            reach, text = draw(axes, row, name)
            axes.annotate(text, (reach, row), (4, 0), textcoords="offset points", va="center", annotation_clip=False)
            ends.append(reach)
        axes.set_yticks(range(len(ran)), list(ran))
        axes.set_ylim(len(ran) - 0.5, -0.5)
        axes.set_xlim(0, max(ends) or 1.0)
        axes.set_xlabel(label)
        if names:
            legend(axes, names, columns=columns)
        grid(axes, "x")
        return to_svg(figure, title)
