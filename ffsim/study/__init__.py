"""Questions and answers: scenarios, results, validation against published figures."""

from ffsim.study.answer import run
from ffsim.study.result import RunResult
from ffsim.study.scenario import Scenario

__all__ = ["RunResult", "Scenario", "run"]
