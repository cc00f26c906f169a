"""One self-contained HTML file for the answer to a scenario, whatever the kind of its workload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ffsim.report.collective_plots import bandwidth_plot
from ffsim.report.collectives import collective_table, collective_title
from ffsim.report.flow_lists import flow_tables, flows_title
from ffsim.report.flow_plots import flows_plot
from ffsim.report.html import render_report, template
from ffsim.report.storage import present_storage_explanation, storage_tables, storage_title
from ffsim.report.tables import Table
from ffsim.report.validation import validation_table
from ffsim.study.collective_result import CollectiveResult
from ffsim.study.flows import FlowsResult
from ffsim.study.kinds import Answered
from ffsim.study.result import RunResult
from ffsim.study.storage import StorageResult
from ffsim.study.validation import Verdict


@dataclass(frozen=True, slots=True)
class Page:
    """What the report of an answer shows that has no template of its own.

    Attributes:
        title: two lines: what was asked, and of which cluster.
        figure: SVG text, empty where there is nothing to draw.
        tables: in order.
        notes: what the cluster file says to bear in mind.
    """

    title: str
    figure: str
    tables: Sequence[Table]
    notes: Sequence[str]


def render_answer(answer: Answered, *, command: str, verdicts: Sequence[Verdict] = ()) -> str:
    """Write the report of an answer.

    Args:
        answer: to a scenario of any kind.
        command: what gives the same answer again.
        verdicts: published figures about this very scenario, from `ffsim.study.known_figures.verdicts_about`.
    """
    if isinstance(answer, RunResult):
        return render_report(answer, command=command, verdicts=verdicts)
    page, provenance = PAGES[type(answer)](answer), answer.to_dict()["provenance"]
    title, _, subtitle = page.title.partition("\n")
    return template("answer.html.j2").render(
        title=title,
        subtitle=subtitle,
        figure=Markup(page.figure),  # noqa: S704 - our own SVG
        tables=page.tables,
        notes=page.notes,
        warnings=answer.warnings,
        validation=validation_table(verdicts) if verdicts else None,
        command=command,
        version=provenance["ffsim_version"],
        sha256=provenance["scenario_sha256"],
    )


def _collective_page(result: CollectiveResult) -> Page:
    notes = result.question.cluster.spec.notes
    moves = any(one.busbw_bytes_per_s > 0 for one in result.measured)
    figure = bandwidth_plot(result) if moves else ""
    return Page(collective_title(result), figure, [collective_table(result)], notes)


def _flows_page(result: FlowsResult) -> Page:
    tables = list(flow_tables(result).values())
    return Page(flows_title(result), flows_plot(result), tables, result.cluster.spec.notes)


def _storage_page(result: StorageResult) -> Page:
    tables = [*storage_tables(result).values(), *present_storage_explanation(result).tables[1:]]
    return Page(storage_title(result), "", tables, result.inputs.cluster.spec.notes)


PAGES: dict[type, Callable[[Any], Page]] = {
    CollectiveResult: _collective_page,
    FlowsResult: _flows_page,
    StorageResult: _storage_page,
}
