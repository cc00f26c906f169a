"""Questions and answers: scenarios, results, validation against published figures."""

from ffsim.study.answer import run
from ffsim.study.collective_result import CollectiveResult
from ffsim.study.compare import Comparison, compare
from ffsim.study.compare_question import Candidate, Question, Vary
from ffsim.study.flows import FlowsResult
from ffsim.study.kinds import answer
from ffsim.study.result import RunResult
from ffsim.study.scenario import Scenario
from ffsim.study.storage import StorageResult, run_storage

__all__ = [
    "Candidate",
    "CollectiveResult",
    "Comparison",
    "FlowsResult",
    "Question",
    "RunResult",
    "Scenario",
    "StorageResult",
    "Vary",
    "answer",
    "compare",
    "run",
    "run_storage",
]
