"""Validation rows taken together: how well a family of published figures is met, and what it was to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ffsim.config import Share, spec

Floats = np.ndarray[Any, Any]

RANKED = 3  # fewer rows have no order worth a correlation


@spec
class FamilyGoal:
    """What a family of rows is to reach as a whole.

    Attributes:
        ranking: its rows are choices of one kind, so that their order matters as much as their values.
        target_mean: largest mean absolute error.
        target_rank: least rank correlation of published and simulated values.
    """

    ranking: bool = False
    target_mean: Share | None = None
    target_rank: Share | None = None

    def __post_init__(self) -> None:
        if self.target_rank is not None and not self.ranking:
            raise ValueError("target_rank is for a ranking: add `ranking: true`")


class Judged(NamedTuple):
    """One row as a family sees it; error and simulated value are missing where there was no answer."""

    id: str
    family: str
    published: float
    simulated: float | None
    error: float | None
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySummary:
    """How well one family is met; errors are absolute and relative, of the rows that were answered.

    Attributes:
        within_tolerance: rows that passed.
        unanswered: rows that were refused.
        worst_row: id of the row with the largest error.
        rank_correlation: Spearman's, of a ranking.
        missed: what the family was to reach and does not, a sentence each.
    """

    family: str
    rows: int
    within_tolerance: int
    unanswered: int
    median_abs_error_frac: float | None
    p90_abs_error_frac: float | None
    mean_abs_error_frac: float | None
    worst_abs_error_frac: float | None
    worst_row: str
    rank_correlation: float | None
    goal: FamilyGoal
    missed: tuple[str, ...]


def summarise(rows: Sequence[Judged], goals: Mapping[str, FamilyGoal]) -> tuple[FamilySummary, ...]:
    """Sum up rows by family, in the order in which families first occur."""
    names = list(dict.fromkeys(row.family for row in rows))
    return tuple(
        _summary(name, [row for row in rows if row.family == name], goals.get(name, FamilyGoal())) for name in names
    )


def _summary(name: str, rows: Sequence[Judged], goal: FamilyGoal) -> FamilySummary:
    answered = [row for row in rows if row.error is not None]
    errors = np.array([abs(row.error) for row in answered if row.error is not None])
    mean = float(errors.mean()) if len(errors) else None
    rank = None
    if goal.ranking and len(answered) >= RANKED:
        rank = rank_correlation([row.published for row in answered], [row.simulated or 0.0 for row in answered])
    return FamilySummary(
        family=name,
        rows=len(rows),
        within_tolerance=sum(row.passed for row in rows),
        unanswered=len(rows) - len(answered),
        median_abs_error_frac=float(np.median(errors)) if len(errors) else None,
        p90_abs_error_frac=float(np.quantile(errors, 0.9)) if len(errors) else None,
        mean_abs_error_frac=mean,
        worst_abs_error_frac=float(errors.max()) if len(errors) else None,
        worst_row=answered[int(errors.argmax())].id if len(errors) else "",
        rank_correlation=rank,
        goal=goal,
        missed=_missed(goal, len(rows) - len(answered), mean, rank),
    )


def _missed(goal: FamilyGoal, unanswered: int, mean: float | None, rank: float | None) -> tuple[str, ...]:
    """Goals that are not met. A family whose rows are not all answered has not met them."""
    missed = []
    if goal.target_mean is not None:
        if mean is None or unanswered:
            missed.append(f"mean error of {goal.target_mean:.1%} cannot be told: {unanswered} rows have no answer")
        elif mean > goal.target_mean:
            missed.append(f"mean error {mean:.2%} is above {goal.target_mean:.1%}")
    if goal.target_rank is not None:
        if rank is None or unanswered:
            missed.append(f"rank correlation of {goal.target_rank:g} cannot be told: {unanswered} rows have no answer")
        elif rank < goal.target_rank:
            missed.append(f"rank correlation {rank:.3f} is below {goal.target_rank:g}")
    return tuple(missed)


def rank_correlation(published: Sequence[float], simulated: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal values sharing the mean of theirs.

    Nothing is ranked where all values of one side are equal: the answer is 0 then.

    >>> rank_correlation([1, 2, 3, 4], [10, 30, 20, 40])
    0.8
    """
    first, second = (_ranks(np.asarray(values, dtype=float)) for values in (published, simulated))
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else 0.0


def _ranks(values: Floats) -> Floats:
    """``[n]`` ranks from 0; equal values share the mean of theirs."""
    below = (values[None, :] < values[:, None]).sum(axis=1)
    ranks: Floats = below + ((values[None, :] == values[:, None]).sum(axis=1) - 1) / 2
    return ranks
