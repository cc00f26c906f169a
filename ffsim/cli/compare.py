"""``ffsim compare``: clusters, workloads and plans side by side."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ffsim.cli.options import chosen_format, output_options
from ffsim.cli.output import Talk, check_writable, write
from ffsim.errors import InfeasiblePlan

WORKLOAD = "--workload"


class _WordsAfterWorkload(click.Command):
    """Every word after ``--workload``, up to the next option, names a workload."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each of its words; click takes one word for each."""
        found: list[str] = []
        within = False
        for number, word in enumerate(args):
            if word.startswith("-"):
                within = word == WORKLOAD or word.startswith(f"{WORKLOAD}=")
            elif within and args[number - 1] != WORKLOAD:
                found.append(WORKLOAD)
            found.append(word)
        return super().parse_args(ctx, found)


@click.command("compare", cls=_WordsAfterWorkload)
@click.argument("clusters", nargs=-1, metavar="CLUSTER...")
@click.option(WORKLOAD, "workloads", multiple=True, metavar="WORKLOAD...", help="One or more workloads.")
@click.option(
    "--vary",
    "vary",
    multiple=True,
    metavar="PATH=VALUE,...",
    help="Values of either file that make further candidates; several options make every combination.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="[NAME:]PATH=VALUE",
    help="Change a value of either file for all candidates, or for those with the cluster or workload NAME.",
)
@click.option(
    "--depth",
    type=click.Choice(["bounds", "folded", "full"]),
    default="folded",
    show_default=True,
    help="Closed forms only, one data-parallel replica for all, or every rank.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of random draws.")
@output_options
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Also write a one-file HTML report.")
def command(report: Path | None, **options: Any) -> int:
    """Set CLUSTERs with WORKLOADs side by side: time, cost, energy, memory and why.

    Every combination is a candidate. Those that cannot run stay in the table with the reason; the exit code is 3 if
    none can.

    \b
    Examples:
      ffsim compare fire-flyer-2 dgx-a100-10000 --workload deepseek-v3-pretrain --set precision=bf16
      ffsim compare h800-2048 --workload deepseek-v3-pretrain --vary plan.schedule=1f1b,dualpipe --report which.html
    """  # noqa: D301 - click reads the escape
    from ffsim.report import present_comparison, render  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study import Question, compare  # noqa: PLC0415

    output, talk = options["output"], Talk(quiet=options["quiet"])
    check_writable(output, report)
    question = Question(
        clusters=options["clusters"],
        workloads=options["workloads"],
        vary=options["vary"],
        overrides=options["overrides"],
        depth=options["depth"],
        seed=options["seed"],
    )
    result = compare(question, talk.progress, published=report is not None)
    write(render(present_comparison(result), chosen_format(options["format_"], output)), output)
    talk.warn(result.warnings)
    if report is not None:
        from ffsim.report.compare_page import render_comparison  # noqa: PLC0415

        talk.progress("drawing the report")
        write(render_comparison(result, command=_command(question)), report)
        talk.note(f"report: {report}")
    return 0 if result.any_ran else InfeasiblePlan.exit_code


def _command(question: Any) -> str:
    """The command that gives this comparison again."""
    words = ["ffsim", "compare", *question.clusters, WORKLOAD, *question.workloads]
    for vary in question.vary:
        words += ["--vary", vary]
    for override in question.overrides:
        words += ["--set", override]
    if question.depth != "folded":
        words += ["--depth", question.depth]
    if question.seed:
        words += ["--seed", str(question.seed)]
    return shlex.join(words)
