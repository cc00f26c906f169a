"""``ffsim explain``: what limits a run and how sure the answer is."""

from __future__ import annotations

from typing import Any

import click

from ffsim.cli.options import chosen_format, output_options, scenario_options
from ffsim.cli.output import Talk, check_writable, write


@click.command("explain")
@scenario_options
@output_options
def command(**options: Any) -> None:
    """Say what limits WORKLOAD on CLUSTER, and what the answer becomes at both ends of every uncertain input.

    \b
    Examples:
      ffsim explain h800-2048 deepseek-v3-pretrain
      ffsim explain h800-2048 deepseek-v3-pretrain --set nodes.nic=cx6-200g --format markdown
    """  # noqa: D301 - click reads the escape
    from ffsim.report import present_explanation, render  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study import Scenario, run  # noqa: PLC0415

    output = options["output"]
    check_writable(output)
    if options["depth"] == "bounds":
        raise click.UsageError("explain needs a simulated timeline: use --depth folded or full")
    talk = Talk(quiet=options["quiet"])
    talk.progress("simulating")
    result = run(
        Scenario(
            cluster=options["cluster"],
            workload=options["workload"],
            overrides=options["overrides"],
            depth=options["depth"],
            seed=options["seed"],
        )
    )
    write(render(present_explanation(result), chosen_format(options["format_"], output)), output)
    talk.warn(result.warnings)
