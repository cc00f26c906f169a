"""``ffsim run``: simulate a workload on a cluster and bill it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ffsim.cli.options import chosen_format, output_options, scenario_options
from ffsim.cli.output import Talk, check_writable, whole_file, write


@click.command("run")
@scenario_options
@output_options
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Also write a one-file HTML report.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a Chrome/Perfetto trace of one pipeline.",
)
def command(report: Path | None, trace: Path | None, **options: Any) -> None:
    """Simulate WORKLOAD on CLUSTER and bill it.

    Both are files or names (see `ffsim catalog`).

    \b
    Examples:
      ffsim run h800-2048 deepseek-v3-pretrain
      ffsim run topologies/h800-2048.yaml workloads/deepseek-v3-pretrain.yaml --set plan.pp=8 --format json
    """  # noqa: D301 - click reads the escape
    from ffsim.report import present_run, render  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study import Scenario, run  # noqa: PLC0415

    output, talk = options["output"], Talk(quiet=options["quiet"])
    check_writable(output, report, trace)
    scenario = Scenario(
        cluster=options["cluster"],
        workload=options["workload"],
        overrides=options["overrides"],
        depth=options["depth"],
        seed=options["seed"],
    )
    if trace is not None and scenario.depth == "bounds":
        raise click.UsageError("--trace needs a simulated timeline: use --depth folded or full")
    talk.progress("simulating")
    result = run(scenario)
    write(render(present_run(result), chosen_format(options["format_"], output)), output)
    talk.warn(result.warnings)
    if trace is not None:
        from ffsim.report.perfetto import write_trace  # noqa: PLC0415

        talk.progress("writing the trace")
        with whole_file(trace) as file:
            events = write_trace(result, file)
        talk.note(f"trace of one pipeline, {events:,} events: {trace} (open it at https://ui.perfetto.dev)")
    if report is not None:
        from ffsim.report.html import render_report  # noqa: PLC0415
        from ffsim.study.validation import verdicts_about  # noqa: PLC0415

        talk.progress("drawing the report")
        text = render_report(result, command=_command(scenario), verdicts=verdicts_about(result))
        write(text, report)
        talk.note(f"report: {report}")


def _command(scenario: Any) -> str:
    """The command that gives this answer again."""
    words = ["ffsim", "run", scenario.cluster, scenario.workload]
    for override in scenario.overrides:
        words += ["--set", override]
    if scenario.depth != "folded":
        words += ["--depth", scenario.depth]
    if scenario.seed:
        words += ["--seed", str(scenario.seed)]
    return shlex.join(words)
