"""Questions and answers: scenarios, results, validation against published figures."""

from ffsim.study.answer import run
from ffsim.study.collective_result import CollectiveResult
from ffsim.study.flows import FlowsResult
from ffsim.study.kinds import answer
from ffsim.study.result import RunResult
from ffsim.study.scenario import Scenario
from ffsim.study.storage import StorageResult, run_storage

__all__ = ["CollectiveResult", "FlowsResult", "RunResult", "Scenario", "StorageResult", "answer", "run", "run_storage"]
