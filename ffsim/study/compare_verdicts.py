"""Which candidate wins, by how much, and whether that is sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import isclose
from typing import Any, NamedTuple

from ffsim.study.compare_measure import FIGURES, Measured
from ffsim.training import combined_range
from ffsim.units import BYTES, ENERGY, MONEY, TIME, Unit, percent

Ran = Mapping[str, Measured]
# What the best by a figure is praised for, one or several of them, and the unit of the figure.
PRAISE: dict[str, tuple[str, str, str, Unit | None]] = {
    "step_s": ("is fastest", "are fastest", "a step", TIME),
    "cost_per_mtoken_usd": ("is cheapest to rent", "are cheapest to rent", "per million tokens", MONEY),
    "relative_price_per_token_rate": ("is cheapest to buy", "are cheapest to buy", "", None),
    "energy_per_mtoken_j": ("uses least energy", "use least energy", "per million tokens", ENERGY),
}
# What figures are proportional to besides the step, by the names of `Measured.prices`.
RESTS_ON: dict[str, tuple[str, ...]] = {
    "cost_per_mtoken_usd": ("rental",),
    "energy_per_mtoken_j": ("node_power", "pue"),
    "energy_per_mtoken_cost_usd": ("node_power", "pue", "energy_price"),
}
CLOSE = (
    0.01  # of the step: less than this is not told apart by any simulation of a machine, whatever its inputs' ranges
)
ALIKE = 1e-6  # relative: what is closer than this is the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Two candidates, the faster one first.

    Attributes:
        step_ratio: step of the other over that of the faster one.
        ratio_low, ratio_high: its range, inputs that both share moved together; none where nothing has a range.
        overlap_s: what the ranges of the two steps have in common; none where they do not touch or there are none.
        certain: the ratio stays on one side of 1; not known without ranges.
        less_memory: which of the two needs less at its fullest moment; empty where they need the same.
        memory_difference_bytes: by how much.
    """

    faster: str
    other: str
    step_ratio: float
    ratio_low: float | None
    ratio_high: float | None
    overlap_s: tuple[float, float] | None
    certain: bool | None
    less_memory: str
    memory_difference_bytes: float
    text: str

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"overlap_s": None if self.overlap_s is None else list(self.overlap_s)}


def best_of(ran: Ran) -> dict[str, tuple[str, ...]]:
    """The best by every figure that has a better end; none where all are alike, one has none, or units differ."""
    found = {}
    for figure, better in FIGURES.items():
        values = {name: one.figures[figure] for name, one in ran.items() if figure in one.figures}
        units = {ran[name].price_unit for name in values if figure.startswith("relative_price")}
        if not better or len(values) < max(2, len(ran)) or len(units) > 1:
            continue
        top = min(values.values()) if better == "low" else max(values.values())
        names = tuple(name for name, value in values.items() if _alike(value, top))
        if len(names) < len(values):
            found[figure] = names
    return found


def _alike(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=ALIKE, abs_tol=1e-12)


def winners(ran: Ran) -> str:
    """One sentence: who is fastest, cheapest to rent and to buy, and uses least energy."""
    if not ran:
        return "none of the candidates can run."
    if len(ran) == 1:
        (name, only), *_ = ran.items()
        return f"only {name} can run: {TIME.format(only.figures['step_s'])} a step."
    best, first = best_of(ran), next(iter(ran))
    said: dict[tuple[str, ...], list[str]] = {}
    for figure, (one, several, per, unit) in PRAISE.items():
        if figure not in best:
            continue
        names = best[figure]
        value = ran[names[0]].figures[figure]
        known = "" if unit is None else f"{unit.format(value, 3)} {per}"
        versus = "" if first in names else f"{_percent_of(value / ran[first].figures[figure])} than {first}"
        second = runner_up(ran, figure)
        unsure = second is not None and certain(ran[names[0]], ran[second], figure) is False
        aside = ", ".join(part for part in (known, versus, "not certain" if unsure else "") if part)
        praise = one if len(names) == 1 else several
        known_verb = names in said and praise.partition(" ")[0] == said[names][0].partition(" ")[0]
        said.setdefault(names, []).append(
            (praise.partition(" ")[2] if known_verb else praise) + (f" ({aside})" if aside else "")
        )
    if not said:
        return "all candidates take the same time and cost the same."
    return f"{'; '.join(f'{_and(names)} {_and(praises)}' for names, praises in said.items())}."


def runner_up(ran: Ran, figure: str) -> str | None:
    """The best by a figure of those that are not the best; none where all are alike."""
    best = best_of(ran).get(figure, ())
    others = {name: one.figures[figure] for name, one in ran.items() if figure in one.figures and name not in best}
    if not best or not others:
        return None
    return (min if FIGURES[figure] == "low" else max)(others, key=lambda name: others[name])


def certain(best: Measured, other: Measured, figure: str) -> bool | None:
    """Whether the better of two stays the better over the range of their relation; None where nothing has a range.

    Two that are closer than `CLOSE` are never certain.
    """
    ends = ratio_range(other, best, figure)
    if ends is None:
        return None
    if abs(other.figures[figure] / best.figures[figure] - 1) < CLOSE:
        return False
    return ends[0] > 1 if FIGURES[figure] == "low" else ends[1] < 1


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _percent_of(ratio: float) -> str:
    return f"{percent(abs(1 - ratio), 2)} {'less' if ratio < 1 else 'more'}"


def pairings(ran: Ran) -> tuple[Pairing, ...]:
    """The candidates that nothing beats both in time and in memory, each with the next slower one.

    Where one beats all, it is set beside the next fastest.
    """
    by_time = sorted(ran, key=lambda name: (ran[name].figures["step_s"], ran[name].figures["peak_memory_bytes"]))
    front: list[str] = []
    for name in by_time:
        peak = ran[name].figures["peak_memory_bytes"]
        if not front or peak < ran[front[-1]].figures["peak_memory_bytes"] * (1 - ALIKE):
            front.append(name)
    pairs = list(pairwise(front))
    if len(by_time) > 1 and (by_time[0], by_time[1]) not in pairs:
        pairs.insert(0, (by_time[0], by_time[1]))
    return tuple(_pair(ran, *pair) for pair in pairs)


def _pair(ran: Ran, faster: str, other: str) -> Pairing:
    a, b = ran[faster], ran[other]
    ratio = b.figures["step_s"] / a.figures["step_s"]
    ends = ratio_range(b, a)
    overlap = _overlap(a, b)
    difference = b.figures["peak_memory_bytes"] - a.figures["peak_memory_bytes"]
    less = "" if abs(difference) <= ALIKE * a.figures["peak_memory_bytes"] else faster if difference > 0 else other
    found = Pairing(
        faster=faster,
        other=other,
        step_ratio=ratio,
        ratio_low=ends[0] if ends else None,
        ratio_high=ends[1] if ends else None,
        overlap_s=overlap,
        certain=certain(a, b, "step_s"),
        less_memory=less,
        memory_difference_bytes=abs(difference),
        text="",
    )
    return _told(found, a, b)


def ratio_range(one: Measured, other: Measured, figure: str = "step_s") -> tuple[float, float] | None:
    """Range of a figure of one candidate over that of another.

    An input or a price with the same value and range in both moves both at once, so that what touches the two alike
    leaves their relation as it is; one that only one of them has, or that differs, moves that one alone. All are taken
    as independent. None where nothing has a range.

    Args:
        one: the candidate above the line.
        other: the one below it.
        figure: the step, or one of `RESTS_ON`, which are proportional to the step and to prices.
    """
    ratio = one.figures[figure] / other.figures[figure]
    ends: list[tuple[float, float]] = []
    mine, theirs = _moves(one, figure), _moves(other, figure)
    for name in dict.fromkeys([*mine, *theirs]):
        a, b = mine.get(name), theirs.get(name)
        if a is not None and b is not None and a.figure == b.figure:
            ends.append((ratio * a.ends[0] / b.ends[0], ratio * a.ends[1] / b.ends[1]))
            continue
        if a is not None:
            ends.append((ratio * a.ends[0], ratio * a.ends[1]))
        if b is not None:
            ends.append((ratio / b.ends[0], ratio / b.ends[1]))
    return combined_range(ratio, ends) if ends else None


class _Move(NamedTuple):
    """An uncertain input, and the factors by which a figure changes at the ends of its range."""

    figure: tuple[float, float, float]
    ends: tuple[float, float]


def _moves(measured: Measured, figure: str) -> dict[str, _Move]:
    step = measured.figures["step_s"]
    found = {
        name: _Move(effect.figure, (effect.steps_s[0] / step, effect.steps_s[1] / step))
        for name, effect in measured.effects.items()
    }
    for price in measured.prices:
        value, (low, high) = price.figure.value, price.figure.bounds
        if price.name in RESTS_ON.get(figure, ()) and value and low < high:
            found[price.name] = _Move((value, low, high), (low / value, high / value))
    if figure == "relative_price_per_token_rate" and "relative_price_per_gpu" in measured.ranges:
        value, (low, high) = measured.figures["relative_price_per_gpu"], measured.ranges["relative_price_per_gpu"]
        found["relative price"] = _Move((value, low, high), (low / value, high / value))
    return found


def _overlap(one: Measured, other: Measured) -> tuple[float, float] | None:
    if "step_s" not in one.ranges or "step_s" not in other.ranges:
        return None
    low = max(one.ranges["step_s"][0], other.ranges["step_s"][0])
    high = min(one.ranges["step_s"][1], other.ranges["step_s"][1])
    return (low, high) if low <= high else None


def _told(pairing: Pairing, a: Measured, b: Measured) -> Pairing:
    """The same with its sentence."""
    if _alike(pairing.step_ratio, 1.0):
        lead = f"{pairing.faster} and {pairing.other} take the same time"
    else:
        saved = percent(1 - 1 / pairing.step_ratio, 2)
        steps = f"{TIME.format(a.figures['step_s'])} against {TIME.format(b.figures['step_s'])}"
        lead = f"{pairing.faster} takes {saved} less time than {pairing.other} ({steps})"
    size = BYTES.format(pairing.memory_difference_bytes, 2)
    memory = f"{pairing.less_memory} needs {size} less memory" if pairing.less_memory else "both need the same memory"
    parts = [lead, memory]
    if pairing.ratio_low is not None and pairing.ratio_high is not None:
        common = pairing.overlap_s
        ranges = f"overlap from {TIME.format(common[0])} to {TIME.format(common[1])}" if common else "do not overlap"
        span = f"{pairing.ratio_low:.3f} to {pairing.ratio_high:.3f}"
        close = pairing.step_ratio - 1 < CLOSE
        verdict = "too close to call" if close else "certain" if pairing.certain else "not certain"
        parts.append(
            f"the ranges {ranges}, and with shared inputs moved together {pairing.other} takes {span} times as long: "
            f"which is faster is {verdict}"
        )
    values = {name: getattr(pairing, name) for name in pairing.__slots__}
    return Pairing(**(values | {"text": "; ".join(parts)}))
