"""``ffsim validate``: published figures against the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ffsim.cli.options import chosen_format, output_options
from ffsim.cli.output import Talk, check_writable, write
from ffsim.errors import Problem, ValidationMiss


@click.command("validate")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@output_options
def command(files: tuple[Path, ...], **options: Any) -> None:
    """Run the validation rows of FILES, or those that ship with ffsim.

    Prints published, simulated, error and source of every row; exits 4 if any is outside its tolerance.

    \b
    Examples:
      ffsim validate
      ffsim validate my-rows.yaml --format csv -o errors.csv
    """  # noqa: D301 - click reads the escape
    from ffsim.report import present_validation, render  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study.validation import read_rows, shipped_rows, validate  # noqa: PLC0415

    output = options["output"]
    check_writable(output)
    rows = [row for path in files for row in read_rows(path)] if files else list(shipped_rows())
    Talk(quiet=options["quiet"]).progress(f"running {len(rows)} rows")
    verdicts = validate(rows)
    write(render(present_validation(verdicts), chosen_format(options["format_"], output)), output)
    missed = [verdict for verdict in verdicts if not verdict.passed]
    if missed:
        raise ValidationMiss(
            [
                Problem(
                    where=verdict.row.id,
                    what=f"error {verdict.error:+.2%} is outside the tolerance of {verdict.row.rel_tol:.2%}",
                )
                for verdict in missed
            ]
        )
