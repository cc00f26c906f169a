"""Published figures beside ours, row by row and by family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ffsim.report.tables import Presentation, Table
from ffsim.study.families import FamilySummary
from ffsim.study.validation import Verdict
from ffsim.units import percent, significant

REFUSAL_WIDTH = 60


def present_validation(
    verdicts: Sequence[Verdict], families: Sequence[FamilySummary], *, rows: bool = True
) -> Presentation:
    """Published against simulated.

    Args:
        verdicts: about every row.
        families: the same rows taken together.
        rows: whether the table of single rows is shown; data for machines always has them.
    """
    records: list[dict[str, Any]] = [
        {
            "id": verdict.row.id,
            "family": verdict.row.family,
            "published": verdict.row.value,
            "simulated": verdict.simulated,
            "unit": verdict.row.unit,
            "error_frac": verdict.error,
            "rel_tol": verdict.row.rel_tol,
            "passed": verdict.passed,
            "refusal": verdict.refusal,
            "source": verdict.row.source,
        }
        for verdict in verdicts
    ]
    tables = [validation_table(verdicts)] if rows else []
    data = {"schema": "ffsim.validation/2", "rows": records, "families": [_plain(family) for family in families]}
    return Presentation("", [*tables, families_table(families)], data, records)


def _plain(family: FamilySummary) -> dict[str, Any]:
    """A family as JSON has it."""
    return asdict(family) | {"missed": list(family.missed)}


def families_table(families: Sequence[FamilySummary]) -> Table:
    """One line a family: how many rows, how far off, which is worst, and the order of rankings."""
    rows = [
        (
            family.family,
            family.rows,
            family.within_tolerance,
            _share(family.median_abs_error_frac),
            _share(family.p90_abs_error_frac),
            _share(family.mean_abs_error_frac),
            _share(family.worst_abs_error_frac),
            family.worst_row if family.worst_abs_error_frac else "",
            "" if family.rank_correlation is None else f"{family.rank_correlation:.3f}",
        )
        for family in families
    ]
    columns = ("family", "rows", "within tolerance", "median error", "P90", "mean", "worst", "worst row", "rank corr.")
    missed = [f"{family.family}: {sentence}" for family in families for sentence in family.missed]
    return Table("by family", columns, rows, (1, 2, 3, 4, 5, 6, 8), "\n".join(missed))


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)


def validation_table(verdicts: Sequence[Verdict]) -> Table:
    """Published against simulated, row by row."""
    rows = [
        (
            verdict.row.id,
            f"{significant(verdict.row.value, 5)} {verdict.row.unit}".strip(),
            "refused"
            if verdict.simulated is None
            else f"{significant(verdict.simulated, 5)} {verdict.row.unit}".strip(),
            "" if verdict.error is None else f"{verdict.error:+.2%}",
            f"{verdict.row.rel_tol:.2%}",
            "ok" if verdict.passed else "OUTSIDE" if verdict.error is not None else "REFUSED",
            _first_line(verdict.refusal) or verdict.row.source,
        )
        for verdict in verdicts
    ]
    return Table("", ("id", "published", "simulated", "error", "tolerance", "", "source"), rows, (1, 2, 3, 4))


def _first_line(text: str) -> str:
    """So much of a reason as fits in a table."""
    line = text.partition("\n")[0]
    return line if len(line) <= REFUSAL_WIDTH else line[: REFUSAL_WIDTH - 3] + "..."
