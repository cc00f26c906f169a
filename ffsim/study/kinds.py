"""What a workload is follows from its ``kind``: each has a function that answers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ffsim.config import expect_kind, load_document
from ffsim.errors import ScenarioError
from ffsim.study.answer import run
from ffsim.study.collective import run_collective
from ffsim.study.flows import is_list, run_flows
from ffsim.study.scenario import Scenario
from ffsim.study.storage import run_storage
from ffsim.training import SHELF


class Answered(Protocol):
    """What every answer to a scenario can do."""

    @property
    def scenario(self) -> Scenario:
        """The question."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about the answer, each with what to do."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data: what ``--format json`` prints."""


# A further kind of workload is a line here, one each in `ffsim.report.answers`, `ffsim.report.pages` and
# `ffsim.study.catalogue.schema_of`.
KINDS: dict[str, Callable[[Scenario], Answered]] = {
    "pretrain": run,
    "collective": run_collective,
    "flows": run_flows,
    "storage": run_storage,
}


def kind_of(workload: str) -> str:
    """The kind of a workload file; a file that cannot be read counts as pre-training, whose reader says what is wrong.

    Raises:
        ScenarioError: a kind of file that is no workload.
    """
    if is_list(workload):
        return "flows"
    try:
        document = load_document(SHELF, workload)
    except ScenarioError:
        return "pretrain"
    expect_kind(document, *KINDS)
    return str(document.data.get("kind", "pretrain"))


def answer(scenario: Scenario) -> Answered:
    """Answer a scenario of any kind.

    Raises:
        ScenarioError: something wrong with its files.
        ModelDomainError: something in it is not modelled.
        InfeasiblePlan: it cannot run on this cluster.
    """
    return KINDS[kind_of(scenario.workload)](scenario)
