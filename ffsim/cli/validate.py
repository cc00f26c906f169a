"""``ffsim validate``: published figures against the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ffsim.cli.options import chosen_format, output_options
from ffsim.cli.output import Talk, check_writable, write
from ffsim.errors import Problem, ScenarioError, ValidationMiss

if TYPE_CHECKING:
    from ffsim.study.families import FamilySummary
    from ffsim.study.scenario import Scenario
    from ffsim.study.validation import Row, Verdict


@click.command("validate")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--family", "families", multiple=True, metavar="NAME", help="Only rows of this family; repeatable.")
@click.option("--summary", is_flag=True, help="Show families only, not single rows.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, help="Processes that simulate.  [default: 1]")
@output_options
def command(files: tuple[Path, ...], families: tuple[str, ...], summary: bool, jobs: int, **options: Any) -> None:
    """Run the validation rows of FILES, or those that ship with ffsim.

    Prints published, simulated, error and source of every row, and how well each family is met; exits 4 if a row is
    outside its tolerance or a family misses what it is to reach.

    \b
    Examples:
      ffsim validate -j 4 --summary
      ffsim validate --family "DeepSeek-V3 training"
      ffsim validate my-rows.yaml --format csv -o errors.csv
    """  # noqa: D301 - click reads the escape
    from ffsim.report import present_validation, render  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study import validation  # noqa: PLC0415

    output = options["output"]
    check_writable(output)
    read = [validation.read_row_file(path) for path in files] if files else validation.shipped_row_files()
    rows = _chosen([row for file in read for row in file.rows], families)
    talk = Talk(quiet=options["quiet"])

    def progress(done: int, total: int, scenario: Scenario) -> None:
        talk.progress(f"run {done + 1} of {total}: {scenario.workload} on {scenario.cluster}")

    verdicts = validation.validate(rows, jobs=jobs, progress=progress)
    met = validation.summary(verdicts, validation.family_goals(read))
    shown = present_validation(verdicts, met, rows=not summary)
    write(render(shown, chosen_format(options["format_"], output)), output)
    misses = _misses(verdicts, met)
    if misses:
        raise ValidationMiss(misses)


def _chosen(rows: list[Row], families: tuple[str, ...]) -> list[Row]:
    """The rows of some families; all of them where none is named.

    Raises:
        ScenarioError: names of families that there are not.
    """
    known = list(dict.fromkeys(row.family for row in rows))
    unknown = [name for name in families if name not in known]
    if unknown:
        raise ScenarioError(
            [
                Problem(where="--family", what=f"no family {name!r}", fix=f"use {', '.join(map(repr, known))}")
                for name in unknown
            ]
        )
    return [row for row in rows if not families or row.family in families]


def _misses(verdicts: list[Verdict], families: tuple[FamilySummary, ...]) -> list[Problem]:
    """Rows and families that are not as they should be."""
    rows = [Problem(where=verdict.row.id, what=verdict.miss) for verdict in verdicts if not verdict.passed]
    goals = [Problem(where=family.family, what=missed) for family in families for missed in family.missed]
    return rows + goals
