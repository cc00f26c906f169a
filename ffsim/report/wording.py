"""How a report names and writes the things a result holds: causes, inputs with their units, stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from ffsim.collectives import ExpertKernels
from ffsim.config import Quantity
from ffsim.hardware import Gpu, Nic, Switch
from ffsim.model.precision import Precision
from ffsim.training import Assumptions
from ffsim.units import TIME, Unit, significant

# What an input belongs to, by the first part of its name: its type knows the unit.
HOLDERS: dict[str, type] = {
    "assumptions": Assumptions,
    "expert_kernels": ExpertKernels,
    "precision": Precision,
    "nic": Nic,
    "gpu": Gpu,
    "switch": Switch,
}
SCHEDULE_NAMES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "Interleaved 1F1B",
    "1f1b-v": "1F1B-V",
    "zb-h1": "ZB-H1",
    "zb-1.5p": "ZB-1.5p",
    "zb-h2": "ZB-H2",
    "zb-v": "ZB-V",
    "v-half": "V-Half",
    "v-min": "V-Min",
    "dualpipe": "DualPipe",
    "dualpipev": "DualPipeV",
}
SHORT = {"nic": "NIC", "gpu": "GPU"}


def plain(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")


def cause(path: str) -> str:
    """A path of the exposed breakdown, without ``step/``, as words."""
    group, _, rest = path.partition("/")
    return f"{plain(rest)}, exposed" if group == "exposed" else plain(path.rsplit("/", 1)[-1])


def input_name(path: str) -> str:
    """The name of an uncertain input as words: its last two parts.

    >>> input_name("operator_profile.beside_communication.gemm"), input_name("nic.usable_share")
    ('beside communication: gemm', 'NIC: usable share')
    """
    *_, holder, name = path.split(".")
    return f"{SHORT.get(holder, plain(holder))}: {plain(name)}"


def input_value(path: str, value: float) -> str:
    """A value of an uncertain input with the unit of its type.

    >>> input_value("assumptions.launch_gap", 2e-6), input_value("nic.usable_share", 0.9)
    ('2 us', '0.9')
    >>> input_value("gpu.sustained.bf16", 220e12)
    '220 TFLOP/s'
    """
    holder, *steps = path.split(".")
    hint: Any = HOLDERS.get(holder)
    for name in steps:
        if get_origin(hint) is dict:
            hint = get_args(hint)[1]
        else:
            hint = get_type_hints(hint, include_extras=True).get(name) if is_dataclass(hint) else None
    unit = _unit(hint)
    if unit is None:
        return significant(value, 3)
    return unit.format(value, 3)


def _unit(hint: Any) -> Unit | None:
    """The unit that a type hint carries, however deep."""
    for part in get_args(hint):
        unit = part.unit if isinstance(part, Quantity) else _unit(part)
        if unit is not None:
            return unit
    return None


def seconds_scale(longest_s: float) -> tuple[str, float]:
    """The unit for an axis or a column of times, and what to multiply seconds by."""
    unit = TIME.format(longest_s).rsplit(" ", 1)[1]
    return unit, 1 / TIME.factors[unit]


def span(low: str, high: str) -> str:
    """Two values with one unit, if they share it.

    >>> span("17.25 s", "20.43 s"), span("980 ms", "1.1 s"), span("3", "4")
    ('17.25 to 20.43 s', '980 ms to 1.1 s', '3 to 4')
    """
    number, _, unit = low.partition(" ")
    return f"{number} to {high}" if unit and high.endswith(f" {unit}") else f"{low} to {high}"


def pieces(kinds: Sequence[str]) -> str:
    """What a pipeline stage holds: ``pieces(["embedding", "dense", "dense"])`` is ``"embedding, 2 dense"``."""
    runs: list[list[str]] = []
    for kind in kinds:
        if runs and runs[-1][0] == kind:
            runs[-1].append(kind)
        else:
            runs.append([kind])
    return ", ".join(run[0] if len(run) == 1 else f"{len(run)} {run[0]}" for run in runs)
