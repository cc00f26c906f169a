"""``ffsim explain``: what limits a run and how sure the answer is."""

from __future__ import annotations

from typing import Any

import click

from ffsim.cli.options import chosen_format, output_options, scenario_options
from ffsim.cli.output import Talk, check_writable, write

PIECES = ("embedding", "dense", "moe", "mtp", "head", "convolutions", "classifier")


@click.command("explain")
@scenario_options
@output_options
@click.option(
    "--operators",
    type=click.Choice(["all", *PIECES]),
    is_flag=False,
    flag_value="all",
    help="Instead: shape, work, time and share of the roofline of every operator of these pieces; of all by default.",
)
@click.option(
    "--condition",
    type=click.Choice(["alone", "beside"]),
    help="Time operators alone or beside communication; by default as most passes run.",
)
def command(operators: str | None, condition: Any, **options: Any) -> None:
    """Say what limits WORKLOAD on CLUSTER, and what the answer becomes at both ends of every uncertain input.

    \b
    Examples:
      ffsim explain h800-2048 deepseek-v3-pretrain
      ffsim explain h800-2048 deepseek-v3-pretrain --set nodes.nic=cx6-200g --format markdown
      ffsim explain h800-2048 deepseek-v3-pretrain --operators moe
      ffsim explain h800-2048 deepseek-v3-pretrain --operators -o operators.csv
    """  # noqa: D301 - click reads the escape
    from ffsim.report import present_explanation, present_storage_explanation, render  # noqa: PLC0415
    from ffsim.study import Scenario, run, run_storage  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study.kinds import kind_of  # noqa: PLC0415

    output, depth = options["output"], options["depth"]
    check_writable(output)
    if condition is not None and operators is None:
        raise click.UsageError("--condition is about operators: add --operators")
    if operators is None and depth == "bounds":
        raise click.UsageError("explain needs a simulated timeline: use --depth folded or full")
    talk, kind = Talk(quiet=options["quiet"]), kind_of(options["workload"])
    if kind not in {"pretrain", "storage"}:
        raise click.UsageError(f"a workload of kind {kind} explains itself row by row: use `ffsim run`")
    if kind != "pretrain" and operators is not None:
        raise click.UsageError(f"a workload of kind {kind} has no operators: leave --operators out")
    talk.progress("simulating")
    scenario = Scenario(
        cluster=options["cluster"],
        workload=options["workload"],
        overrides=options["overrides"],
        depth=depth if operators is None else "bounds",  # operators need no timeline
        seed=options["seed"],
    )
    if kind == "storage":
        reads = run_storage(scenario)
        write(render(present_storage_explanation(reads), chosen_format(options["format_"], output)), output)
        talk.warn(reads.warnings)
        return
    result = run(scenario)
    shown = present_explanation(result) if operators is None else _operators(result, operators, condition)
    write(render(shown, chosen_format(options["format_"], output)), output)
    talk.warn(result.warnings)


def _operators(result: Any, wanted: str, condition: Any) -> Any:
    """The operators of the wanted piece, or of all that the model has."""
    from ffsim.report import present_operators  # noqa: PLC0415

    held = list(result.step.prepared.pieces.lowered)
    if wanted not in {"all", *held}:
        title = result.step.prepared.inputs.model.title
        raise click.UsageError(f"{title} has no operators of {wanted!r}: use one of all, {', '.join(held)}")
    return present_operators(result, held if wanted == "all" else [wanted], condition)
