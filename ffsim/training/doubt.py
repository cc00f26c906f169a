"""How sure the answer is: what it becomes when each uncertain input moves to the ends of its stated range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from ffsim.config import Figure, Source
from ffsim.engine import end_times_s
from ffsim.training.costs import cut, time_pieces
from ffsim.training.inputs import Inputs, wire
from ffsim.training.memory import RankMemory, memory, with_activations
from ffsim.training.slot_costs import slot_costs
from ffsim.training.step import Prepared, StepResult

Floats = np.ndarray[Any, Any]

# What holds figures with ranges, by the name users see, and where `Inputs` keeps it.
HOLDERS: dict[str, tuple[str, ...]] = {
    "assumptions": ("spec", "assumptions"),
    "expert_kernels": ("kernels",),
    "operator_profile": ("profile",),
    "precision": ("precision",),
    "software": ("software",),
    "gpu": ("cluster", "gpu"),
    "nic": ("cluster", "nic"),
    "switch": ("cluster", "switch"),
}
MOVES_MEMORY = {"assumptions", "precision"}
CHANGES_PIECES = {"assumptions.expert_load", "assumptions.router_kernels"}
ONLY_ENERGY = "power"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What one uncertain input does to the step and to the fullest GPU.

    Attributes:
        name: of the input.
        value, low, high: its figure and range, in base units.
        step_at_low_s, step_at_high_s: the step at the ends of the range, everything else as it is.
        peak_at_low_bytes, peak_at_high_bytes: peak memory of the fullest GPU, likewise.
    """

    name: str
    value: float
    low: float
    high: float
    step_at_low_s: float
    step_at_high_s: float
    peak_at_low_bytes: float
    peak_at_high_bytes: float
    source: Source

    @property
    def spread_s(self) -> float:
        """Difference between the steps at the two ends."""
        return abs(self.step_at_high_s - self.step_at_low_s)

    @property
    def spread_bytes(self) -> float:
        """Difference between the peaks at the two ends."""
        return abs(self.peak_at_high_bytes - self.peak_at_low_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Range of the step and of peak memory from the ranges of their inputs.

    Attributes:
        low_s, high_s: root of the summed squares of the single deviations, downward and upward: the inputs are taken as
            independent.
        peak_low_bytes, peak_high_bytes: the same for the memory of the fullest GPU.
        sensitivities: of every input that moves either, the largest effect on the step first.
    """

    low_s: float
    high_s: float
    peak_low_bytes: float
    peak_high_bytes: float
    sensitivities: tuple[Sensitivity, ...]


@dataclass(frozen=True, slots=True)
class _Knob:
    """A figure with a range: what holds it, the fields that lead to it there, and itself."""

    holder: str
    path: tuple[str, ...]
    figure: Figure[Any]

    @property
    def name(self) -> str:
        return ".".join((self.holder, *self.path))

    def turned(self, inputs: Inputs, value: Any) -> Inputs:
        """The inputs with another value of the figure."""
        changed: Inputs = _with(inputs, (*HOLDERS[self.holder], *self.path), replace(self.figure, value=value))
        if HOLDERS[self.holder][0] == "cluster":
            return replace(changed, topology=wire(changed.cluster, changed.spec))
        return changed


def doubt(result: StepResult) -> Doubt:
    """Move every uncertain input to both ends of its range.

    The variations are run side by side without link contention (`end_times_s`); their ratio to the unchanged inputs is
    applied to the simulated step. Stages stay as they are.
    """
    prepared = result.prepared
    knobs = list(_knobs(prepared.inputs))
    variants = [_vary(prepared, knob, end) for knob in knobs for end in knob.figure.bounds]
    columns = [prepared.costs.idle_s, *(column for column, _ in variants)]
    peak, peaks = _fullest(prepared.memory), [peak for _, peak in variants]
    steps = _steps(prepared, columns) * result.step_s
    sensitivities = [
        Sensitivity(
            name=knob.name,
            value=float(knob.figure.value),
            low=float(knob.figure.bounds[0]),
            high=float(knob.figure.bounds[1]),
            step_at_low_s=float(steps[1 + 2 * number]),
            step_at_high_s=float(steps[2 + 2 * number]),
            peak_at_low_bytes=peaks[2 * number],
            peak_at_high_bytes=peaks[2 * number + 1],
            source=knob.figure.source,
        )
        for number, knob in enumerate(knobs)
    ]
    low_s, high_s = combined_range(result.step_s, [(row.step_at_low_s, row.step_at_high_s) for row in sensitivities])
    low, high = combined_range(peak, [(row.peak_at_low_bytes, row.peak_at_high_bytes) for row in sensitivities])
    return Doubt(
        low_s=low_s,
        high_s=high_s,
        peak_low_bytes=low,
        peak_high_bytes=high,
        sensitivities=tuple(
            row
            for row in sorted(sensitivities, key=lambda row: (-row.spread_s, -row.spread_bytes, row.name))
            if row.spread_s or row.spread_bytes
        ),
    )


def combined_range(value: float, ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Range of a value from what it becomes at both ends of every input, the inputs taken as independent.

    The roots of the summed squares of the deviations, downward (not below zero) and upward.

    >>> combined_range(10.0, [(7.0, 12.0), (14.0, 6.0)])
    (5.0, 14.47213595499958)
    """
    down = sqrt(sum(min(0.0, *(end - value for end in pair)) ** 2 for pair in ends))
    up = sqrt(sum(max(0.0, *(end - value for end in pair)) ** 2 for pair in ends))
    return max(value - down, 0.0), value + up


def _steps(prepared: Prepared, columns: Sequence[Floats]) -> Floats:
    """Step of every column of slot times, in units of the first one's; columns alike are run once."""
    distinct: dict[bytes, int] = {}
    numbers = [distinct.setdefault(column.tobytes(), len(distinct)) for column in columns]
    unlike = [columns[numbers.index(number)] for number in range(len(distinct))]
    steps = end_times_s(prepared.program.graph, np.stack(unlike, axis=1)).max(axis=0)
    ratios: Floats = (steps / steps[0])[numbers]
    return ratios


def _vary(prepared: Prepared, knob: _Knob, value: Any) -> tuple[Floats, float]:
    """Idle seconds of every slot, and memory of the fullest GPU, with another value of one figure."""
    before, inputs = prepared.inputs, knob.turned(prepared.inputs, value)
    layout, stages, pieces, times = prepared.layout, prepared.stages, prepared.pieces, prepared.times
    ranks = prepared.memory
    if knob.name in CHANGES_PIECES:
        pieces = cut(inputs, layout.ep, layout.micro_batch)
        ranks = memory(inputs, layout, stages, pieces)
    elif knob.holder in MOVES_MEMORY:
        ranks = with_activations(inputs, layout, stages, pieces, [rank.activation_shares for rank in ranks])
    same = inputs.spec is before.spec and inputs.profile is before.profile and inputs.software is before.software
    same = same and inputs.cluster.gpu is before.cluster.gpu
    if not (same and inputs.kernels.row_mapping is before.kernels.row_mapping):
        times = time_pieces(inputs, pieces)
    costs = slot_costs(inputs, layout, stages, pieces, times, prepared.program.slots, prepared.messages)
    return costs.idle_s, _fullest(ranks)


def _fullest(ranks: Sequence[RankMemory]) -> float:
    return max(rank.total for rank in ranks)


def _knobs(inputs: Inputs) -> Iterator[_Knob]:
    """Every figure with a range that can move the step or the memory."""
    for holder, place in HOLDERS.items():
        value: Any = inputs
        for name in place:
            value = getattr(value, name)
        for path, figure in _ranged(value):
            if path[-1] != ONLY_ENERGY:
                yield _Knob(holder, path, figure)


def _ranged(value: Any) -> Iterator[tuple[tuple[str, ...], Figure[Any]]]:
    """Figures with ranges anywhere inside a frozen value, with the fields and keys that lead to them."""
    parts = (
        value.items() if isinstance(value, dict) else ((each.name, getattr(value, each.name)) for each in fields(value))
    )
    for name, inner in parts:
        if isinstance(inner, Figure):
            if inner.low is not None:
                yield (name,), inner
        elif is_dataclass(inner) or isinstance(inner, dict):
            for path, figure in _ranged(inner):
                yield (name, *path), figure


def _with(value: Any, path: Sequence[str], leaf: Any) -> Any:
    """A copy of nested frozen values with one leaf changed."""
    if not path:
        return leaf
    if isinstance(value, dict):
        return value | {path[0]: _with(value[path[0]], path[1:], leaf)}
    return replace(value, **{path[0]: _with(getattr(value, path[0]), path[1:], leaf)})
