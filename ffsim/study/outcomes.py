"""What became of the scenarios that validation rows ask about: an answer, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from ffsim.errors import InfeasiblePlan, ModelDomainError, Problem, ScenarioError
from ffsim.study.kinds import answer
from ffsim.study.scenario import Scenario

FITS = "fits"
"""Quantity of a run: 1 where it runs, 0 where a plan that divides is refused for want of memory."""

Progress = Callable[[int, int, Scenario], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An answer as plain data, or why there is none.

    Attributes:
        answer: what ``--format json`` prints; none if the question was refused.
        refusal: the reason, for people.
        too_large: it was refused because it does not fit in memory.
        problems: mistakes in the question's files, which are the row's author's to mend.
    """

    answer: dict[str, Any] | None = None
    refusal: str = ""
    too_large: bool = False
    problems: tuple[Problem, ...] = ()


def ask(scenario: Scenario) -> Outcome:
    """Answer a scenario, or say why not; nothing is raised, so that outcomes can cross processes."""
    try:
        return Outcome(answer=answer(scenario).to_dict())
    except ScenarioError as error:
        return Outcome(problems=error.problems)
    except ModelDomainError as error:
        return Outcome(refusal=str(error))
    except InfeasiblePlan as error:  # a plan that does not divide is refused at one of its keys, not as a whole
        too_large = any(problem.path == "plan" for problem in error.problems)
        return Outcome(refusal=str(error), too_large=too_large)


def ask_all(scenarios: Sequence[Scenario], jobs: int = 1, progress: Progress | None = None) -> dict[Scenario, Outcome]:
    """Answer scenarios, each once, in order.

    Args:
        scenarios: the questions; repeated ones are asked once.
        jobs: processes that work on them.
        progress: told before each answer is waited for: how many are there, of how many, and which is next.
    """
    wanted = list(dict.fromkeys(scenarios))
    outcomes: dict[Scenario, Outcome] = {}
    if jobs == 1 or len(wanted) < 2:
        for number, scenario in enumerate(wanted):
            if progress:
                progress(number, len(wanted), scenario)
            outcomes[scenario] = ask(scenario)
        return outcomes
    with ProcessPoolExecutor(min(jobs, len(wanted)), mp_context=get_context("spawn")) as pool:
        futures = [(scenario, pool.submit(ask, scenario)) for scenario in wanted]
        for number, (scenario, future) in enumerate(futures):
            if progress:
                progress(number, len(wanted), scenario)
            outcomes[scenario] = future.result()
    return outcomes


def number_at(found: Any, quantity: str) -> float | None:
    """The number at a dotted path of an answer, none where there is no number.

    ``memory.RANK.KIND+KIND_bytes`` adds up kinds of memory of a pipeline rank (``memory.0.weights+optimizer_bytes``).
    """
    steps = quantity.split(".")
    if steps[0] == "memory" and len(steps) == 3 and isinstance(found, dict):
        return _memory_bytes(found.get("memory"), steps[1], steps[2].removesuffix("_bytes").split("+"))
    for step in steps:
        if isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        else:
            found = found.get(step) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


def _memory_bytes(rows: Any, rank: str, kinds: Sequence[str]) -> float | None:
    """Bytes of some kinds on one rank; none where the answer has no such rank or kind."""
    by_kind = {row["kind"]: float(row["bytes"]) for row in rows or () if str(row["rank"]) == rank}
    return sum(by_kind[kind] for kind in kinds) if set(kinds) <= set(by_kind) else None
