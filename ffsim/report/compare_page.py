"""One self-contained HTML file for a comparison: the answer, side by side, why, at what price, from what."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ffsim._version import __version__
from ffsim.report.compare import group_tables, price_table
from ffsim.report.compare_figures import comparison_figures
from ffsim.report.html import template
from ffsim.report.tables import Table
from ffsim.report.validation import validation_table
from ffsim.study.compare import Comparison, Group
from ffsim.study.validation import Verdict


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of the candidates with one workload.

    Attributes:
        answer: one sentence.
        wins: a sentence for each pair of best candidates.
        warnings: doubts, each under the name of its candidate.
    """

    title: str
    answer: str
    wins: tuple[str, ...]
    warnings: tuple[str, ...]
    tables: dict[str, Table]
    figures: dict[str, Markup]


def render_comparison(comparison: Comparison, *, command: str) -> str:
    """Write the report of a comparison.

    Args:
        comparison: the answer.
        command: what gives it again.
    """
    ran = [measured for group in comparison.groups for measured in group.ran.values()]
    verdicts: dict[str, Verdict] = {verdict.row.id: verdict for one in ran for verdict in one.published}
    return template("compare.html.j2").render(
        title=" and ".join(dict.fromkeys(group.title for group in comparison.groups)),
        clusters={one.cluster_name: one.cluster_title for one in ran},
        sections=[_section(group, number) for number, group in enumerate(comparison.groups)],
        prices=price_table(comparison),
        notes={one.cluster_name: one.notes for one in ran if one.notes},
        sources=_sources(comparison),
        validation=validation_table(list(verdicts.values())) if verdicts else None,
        command=command,
        version=__version__,
        fingerprints=_fingerprints(comparison),
        depth=comparison.question.depth,
    )


def _section(group: Group, number: int) -> Section:
    svg = comparison_figures(group, number) if group.ran else {}
    return Section(
        title=group.title,
        answer=group.explain(),
        wins=tuple(pairing.text for pairing in group.pairings),
        warnings=tuple(f"{name}: {doubt}" for name, one in group.ran.items() for doubt in one.warnings),
        tables=group_tables(group, stacked=True),
        figures={name: Markup(text) for name, text in svg.items()},  # noqa: S704 - our own SVG
    )


def _sources(comparison: Comparison) -> Table:
    """Where the main inputs come from; inputs of several candidates with one source stand once."""
    users: dict[tuple[str, str], dict[str, None]] = {}
    for group in comparison.groups:
        for measured in group.ran.values():
            for row in measured.sources:
                users.setdefault(row, {})[measured.cluster_name] = None
    rows = [(name, ", ".join(clusters), source) for (name, source), clusters in users.items()]
    return Table("sources", ("input", "of", "source"), sorted(rows))


def _fingerprints(comparison: Comparison) -> Table:
    rows = [
        (group.workload, name, measured.sha256) for group in comparison.groups for name, measured in group.ran.items()
    ]
    return Table("", ("workload", "candidate", "SHA-256 of all inputs"), rows)
