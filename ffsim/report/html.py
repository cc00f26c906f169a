"""One self-contained HTML file for a run: the answer, why, how sure, from what, and how to get it again.

The tables are those of the command line; the figures are inline SVG that follows the page from light to dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from ffsim.report.figures import all_figures
from ffsim.report.operators import operator_tables
from ffsim.report.presentations import explanation_tables, run_tables
from ffsim.report.tables import Table
from ffsim.report.validation import validation_table
from ffsim.report.wording import pieces
from ffsim.study.result import RunResult
from ffsim.study.validation import Verdict


def render_report(result: RunResult, *, command: str, verdicts: Sequence[Verdict] = ()) -> str:
    """Write the report of a run.

    Args:
        result: the run; one at depth ``bounds`` gets a report without timeline, sensitivities and limits.
        command: what gives the same answer again.
        verdicts: published figures about this very scenario, from `ffsim.study.known_figures.verdicts_about`.
    """
    inputs = result.step.prepared.inputs
    return template("report.html.j2").render(
        result=result,
        title=inputs.spec.title,
        subtitle=inputs.cluster.spec.title,
        notes=inputs.cluster.spec.notes,
        tables=run_tables(result) | explanation_tables(result) | operator_tables(result) | {"stages": _stages(result)},
        validation=validation_table(verdicts) if verdicts else None,
        figures={name: Markup(svg) for name, svg in all_figures(result).items()},  # noqa: S704 - our own SVG
        command=command,
    )


@cache
def template(name: str) -> Template:
    """A template of this folder; what it is given is escaped, and nothing may be missing."""
    environment = Environment(
        loader=PackageLoader("ffsim.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _stages(result: RunResult) -> Table:
    ranks = result.step.prepared.layout
    rows = []
    for row in result.stages():
        first, count = row["first_layer"], row["layers"]
        layers = "none" if not count else str(first) if count == 1 else f"{first} to {first + count - 1}"
        holders = ", ".join(map(str, ranks.holders(row["stage"])))
        rows.append((row["stage"], holders, layers, pieces(row["pieces"])))
    return Table("pipeline stages", ("stage", "held by ranks", "layers", "what it computes"), rows, right=(0,))
