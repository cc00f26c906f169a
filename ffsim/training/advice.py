"""What to change of a plan that does not fit in memory: the cheapest changes that make it fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from ffsim.training.inputs import Inputs
from ffsim.training.neighbours import describe, legal_plans
from ffsim.training.spec import PlanSpec

MOST_TRIED = 9
MOST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Change:
    """A plan that fits.

    Attributes:
        plan: the plan.
        options: what it changes, as options of the command.
        step_ratio: its estimated step over that of the plan that does not fit.
    """

    plan: PlanSpec
    options: str
    step_ratio: float


def cheapest_changes(
    inputs: Inputs, fits: Callable[[PlanSpec], bool], estimate_s: Callable[[PlanSpec], float]
) -> list[Change]:
    """The nearest plans that fit, the fastest first.

    Args:
        inputs: the workload whose plan does not fit.
        fits: whether a plan does.
        estimate_s: closed-form step of a plan. [s]
    """
    wanted = inputs.spec.plan
    unchanged = estimate_s(wanted)
    least: dict[frozenset[str], PlanSpec] = {}
    for plan in islice(legal_plans(inputs, fits), MOST_TRIED):
        options = frozenset(describe(plan, wanted).replace("--set ", "").split())
        if not any(fewer <= options for fewer in least):  # the rest of its changes are not needed
            least[options] = plan
    found = [Change(plan, describe(plan, wanted), estimate_s(plan) / unchanged) for plan in least.values()]
    return sorted(found, key=lambda change: change.step_ratio)[:MOST_SHOWN]


def written(changes: list[Change]) -> str:
    """The changes as advice, cheapest first."""
    if not changes:
        return "no plan nearby fits: use more GPUs, or GPUs with more memory"
    first, *others = (f"{change.options} ({_cost(change.step_ratio)})" for change in changes)
    return "; or ".join([f"cheapest change that fits: {first}", *others])


def _cost(ratio: float) -> str:
    percent = 100 * (ratio - 1)
    if abs(percent) < 0.5:
        return "about the same step"
    return f"step about {abs(percent):.0f} % {'longer' if percent > 0 else 'shorter'}"
