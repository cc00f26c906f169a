"""A pipeline schedule looked at by itself: replayed with durations that a user gives, beside its closed forms."""

from __future__ import annotations

from dataclasses import dataclass

from ffsim.errors import Problem, ScenarioError
from ffsim.schedules import SCHEDULES, Family, OpTimes, Replay, Schedule, replay

KINDS = {"F": "forward", "Bi": "input_gradient", "W": "weight_gradient", "B": "backward", "FB": "pair"}
USUAL = {"F": 1.0, "Bi": 1.0, "W": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleEntry:
    """A schedule, replayed.

    Attributes:
        family: what kind it is.
        schedule: what every rank does.
        times: durations on one stage.
        message: time of a message between ranks.
        played: when everything happens.
        bubble: closed form of the largest idle time, None where there is none; messages are free there.
        activations: closed form of the most activations of each rank, or None.
        held: the same, replayed; both in shares of a rank, see `Family.activations`.
    """

    family: Family
    schedule: Schedule
    times: OpTimes
    message: float
    played: Replay
    bubble: float | None
    activations: tuple[float, ...] | None
    held: tuple[float, ...]


def describe_schedule(
    name: str,
    *,
    n_ranks: int = 4,
    n_micro_batches: int = 8,
    chunks: int | None = None,
    times: str = "",
    message: float = 0.0,
) -> ScheduleEntry:
    """Build and replay a schedule.

    Args:
        name: of the schedule.
        n_ranks: pipeline ranks.
        n_micro_batches: micro-batches per step.
        chunks: stages per rank; as few as the schedule allows where left out.
        times: durations on one stage, as ``F=1,Bi=1.5,W=0.5``; also ``B`` of a full backward and ``FB`` of a pair.
        message: time of a message between ranks.

    Raises:
        ScenarioError: no such schedule, numbers that it cannot take, or durations that cannot be read.
    """
    problems = []
    if name not in SCHEDULES:
        problems.append(Problem(what=f"no schedule named {name!r}", fix=f"use one of {', '.join(SCHEDULES)}"))
    durations, unread = _durations(times)
    problems += unread
    if not unread and durations.forward == durations.b == 0:
        what = "nothing takes any time"
        problems.append(Problem(where="--times", what=what, fix="give F or B a duration above 0"))
    if problems:
        raise ScenarioError(problems)
    family = SCHEDULES[name]
    chunks = chunks if chunks is not None else 2 if family.stages_per_rank is None else 1
    try:
        schedule = family.build(n_ranks, n_micro_batches, chunks=chunks, times=durations, message_s=message)
    except ValueError as error:
        raise ScenarioError(Problem(what=str(error))) from None
    return ScheduleEntry(
        family=family,
        schedule=schedule,
        times=durations,
        message=message,
        played=replay(schedule, durations, latency=message),
        bubble=family.bubble(n_ranks, n_micro_batches, chunks, durations),
        activations=family.activations(n_ranks, n_micro_batches, chunks),
        held=tuple(peak / family.stages(chunks) for peak in schedule.peak_activations(until_weight_gradient=True)),
    )


def _durations(text: str) -> tuple[OpTimes, list[Problem]]:
    """Durations as users write them, and what of it cannot be read."""
    found: dict[str, float] = {}
    problems = []
    for part in text.split(",") if text else ():
        kind, equals, value = part.strip().partition("=")
        known = f"use F=1,Bi=1,W=1 with any of {', '.join(KINDS)}"
        if kind not in KINDS or not equals:
            problems.append(Problem(where="--times", what=f"cannot read {part.strip()!r}", fix=known))
        elif kind in found:
            problems.append(Problem(where="--times", what=f"{kind} is given twice", fix="give each duration once"))
        else:
            try:
                found[kind] = float(value)
            except ValueError:
                found[kind] = 0.0
                problems.append(Problem(where="--times", what=f"cannot read {value!r} as a number", fix=known))
    return OpTimes(**{KINDS[kind]: value for kind, value in (USUAL | found).items()}), problems
