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
    help="Also write a Chrome/Perfetto trace of one pipeline; of pre-training only.",
)
def command(report: Path | None, trace: Path | None, **options: Any) -> None:
    """Simulate WORKLOAD on CLUSTER; what that means follows from the workload's kind.

    Both are files or names (see `ffsim catalog`). Pre-training is billed; a list of flows may also be a CSV file.

    \b
    Examples:
      ffsim run h800-2048 deepseek-v3-pretrain
      ffsim run topologies/h800-2048.yaml workloads/deepseek-v3-pretrain.yaml --set plan.pp=8 --format json
      ffsim run fire-flyer-2 fire-flyer-2-allreduce --report allreduce.html
    """  # noqa: D301 - click reads the escape
    from ffsim.report import present_answer, render  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study import Scenario, answer  # noqa: PLC0415
    from ffsim.study.kinds import kind_of  # noqa: PLC0415

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
    if trace is not None and (kind := kind_of(scenario.workload)) != "pretrain":
        raise click.UsageError(f"--trace draws a pipeline, and a workload of kind {kind} has none: leave it out")
    talk.progress("simulating")
    result = answer(scenario)
    write(render(present_answer(result), chosen_format(options["format_"], output)), output)
    talk.warn(result.warnings)
    if trace is not None:
        _write_trace(result, trace, talk)
    if report is not None:
        from ffsim.report.pages import render_answer  # noqa: PLC0415
        from ffsim.study.known_figures import verdicts_about  # noqa: PLC0415

        talk.progress("drawing the report")
        text = render_answer(result, command=_command(scenario), verdicts=verdicts_about(result))
        write(text, report)
        talk.note(f"report: {report}")


def _write_trace(result: Any, trace: Path, talk: Talk) -> None:
    from ffsim.report.perfetto import write_trace  # noqa: PLC0415

    talk.progress("writing the trace")
    with whole_file(trace) as file:
        events = write_trace(result, file)
    talk.note(f"trace of one pipeline, {events:,} events: {trace} (open it at https://ui.perfetto.dev)")


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
