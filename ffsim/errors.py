"""What can go wrong, and which exit code it gets.

A message says where, what, what was found and how to mend it; the problems of one file are reported together.

| class | exit code | meaning |
| --- | --- | --- |
| `FfsimError`, `SimulationError` | 1 | our bug |
| `ScenarioError`, `ModelDomainError` | 2 | usage, invalid file, question outside a model's range |
| `InfeasiblePlan` | 3 | valid input that cannot run: a layout that does not divide, a model that does not fit |
| `ValidationMiss` | 4 | a validation row is outside its tolerance |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

MAX_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a user's input.

    Attributes:
        where: ``file:line:column``, ``--set plan.pp=7`` or the name of the thing; empty if there is no place.
        path: dotted path inside the file (``nodes.nic``); empty for the file itself.
        what: what is wrong, including what was found.
        fix: what to do about it.
    """

    where: str = ""
    path: str = ""
    what: str
    fix: str = ""

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.path) if part)
        message = f"{place}: {self.what}" if place else self.what
        return f"{message}; {self.fix}" if self.fix else message


class FfsimError(Exception):
    """Base of every error ffsim raises on purpose."""

    exit_code: ClassVar[int] = 1


class SimulationError(FfsimError):
    """The simulator reached a state it must not reach: our bug."""


class _ProblemsError(FfsimError):
    """An error that carries every problem found, not only the first."""

    def __init__(self, problems: Sequence[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem(what=problems)
        if isinstance(problems, Problem):
            problems = (problems,)
        self.problems: tuple[Problem, ...] = tuple(problems)
        lines = [str(problem) for problem in self.problems[:MAX_LINES]]
        if len(self.problems) > MAX_LINES:
            lines.append(f"and {len(self.problems) - MAX_LINES} more problems")
        super().__init__("\n".join(lines))


class ScenarioError(_ProblemsError):
    """The user's files or options are invalid."""

    exit_code = 2


class ModelDomainError(_ProblemsError):
    """A formula was asked outside the range in which it is true."""

    exit_code = 2


class InfeasiblePlan(_ProblemsError):  # noqa: N818 - the name the design gives it
    """The input is valid but cannot run on this cluster."""

    exit_code = 3


class ValidationMiss(_ProblemsError):  # noqa: N818 - a miss is a finding, not a fault
    """A validation row lies outside its tolerance."""

    exit_code = 4
