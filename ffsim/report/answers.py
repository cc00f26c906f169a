"""How the answer to a scenario is shown, whatever the kind of its workload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ffsim.report.collectives import present_collective
from ffsim.report.flow_lists import present_flows
from ffsim.report.presentations import present_run
from ffsim.report.storage import present_storage
from ffsim.report.tables import Presentation
from ffsim.study.collective_result import CollectiveResult
from ffsim.study.flows import FlowsResult
from ffsim.study.kinds import Answered
from ffsim.study.result import RunResult
from ffsim.study.storage import StorageResult

PRESENT: dict[type, Callable[[Any], Presentation]] = {
    RunResult: present_run,
    CollectiveResult: present_collective,
    FlowsResult: present_flows,
    StorageResult: present_storage,
}


def present_answer(answer: Answered) -> Presentation:
    """What a command shows of an answer."""
    return PRESENT[type(answer)](answer)
