"""``ffsim collective``: time and bandwidth of collectives on a cluster, as nccl-tests shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ffsim.cli.options import chosen_format, output_options
from ffsim.cli.output import Talk, check_writable, write
from ffsim.errors import ScenarioError

OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv", "barrier")
RULES = ("d_mod_k", "s_mod_k", "hash", "spray")
BINS = 100


@click.command("collective")
@click.argument("cluster")
@click.option("--op", type=click.Choice(OPS), default="all_reduce", show_default=True, help="What is done.")
@click.option("--algorithm", metavar="NAME,...", required=True, help="How: one or more names, such as hfreduce,ring.")
@click.option("--nodes", metavar="RANGE", help="Nodes of a group: 16, 2:128 (doubling), 2,16,128. [default: 2]")
@click.option("--size", metavar="RANGE", help="Buffer on each rank: 186MiB, 1MiB:1GiB:4. [default: 1MiB:1GiB:4]")
@click.option("--gpus-per-node", type=click.IntRange(min=1), help="GPUs of each node that take part; all by default.")
@click.option(
    "--placement", metavar="HOW", help="in-zone (default), cross-zone, spread, or numbers of nodes such as 0,1,40,41."
)
@click.option(
    "--groups", type=click.IntRange(min=1), help="Groups at once on nodes of their own; rows are the slowest."
)
@click.option(
    "--background", metavar="RATE|FILE", help="Meanwhile every node reads from storage at RATE, or flows of a CSV run."
)
@click.option("--routing", type=click.Choice(RULES), help="How flows find their way; the cluster's rule by default.")
@click.option("--queue-pairs", type=click.IntRange(min=1), help="Parts that each flow is hashed in.")
@click.option("--lanes", type=click.Choice(["on", "off"]), help="Virtual lanes by class of traffic; on by default.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a value of the cluster file; may be repeated.",
)
@click.option(
    "--depth",
    type=click.Choice(["bounds", "folded", "full"]),
    default="folded",
    show_default=True,
    help="Closed forms only, symmetric flows once, or every flow.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of hashed routes.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also draw bandwidth over size as SVG.")
@click.option(
    "--use",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write how full links are over time, of one row: a picture for .svg, else CSV.",
)
@output_options
def command(cluster: str, plot: Path | None, use: Path | None, **options: Any) -> None:
    """Time and bandwidth of collectives on CLUSTER, each beside its closed-form bounds.

    algbw is size over time; busbw is what nccl-tests calls so. Ranges a:b double, a:b:4 grow by fours.

    \b
    Examples:
      ffsim collective fire-flyer-2 --algorithm hfreduce,nccl-ring --nodes 2:128 --size 186MiB
      ffsim collective fire-flyer-2 --algorithm hfreduce --nodes 16 --background "5 GB/s" --lanes off
      ffsim collective h800-2048 --op all_gather --algorithm ring --plot busbw.svg
    """  # noqa: D301 - click reads the escape
    from ffsim.report import present_collective, render  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study.collective import answer_question  # noqa: PLC0415

    output, talk = options["output"], Talk(quiet=options["quiet"])
    check_writable(output, plot, use)
    if use is not None and options["depth"] == "bounds":
        raise click.UsageError("--use needs something simulated: use --depth folded or full")
    if options["queue_pairs"] is not None and options["routing"] != "hash":
        raise click.UsageError("--queue-pairs splits flows that are hashed: add --routing hash")
    scenario, question = _asked(cluster, options)
    used = _use(question, use) if use is not None else None
    result = answer_question(question, scenario, talk.progress)
    drawn = _plot(result) if plot is not None else None
    write(render(present_collective(result), chosen_format(options["format_"], output)), output)
    talk.warn(result.warnings)
    if drawn is not None:
        write(drawn, plot)
        talk.note(f"plot: {plot}")
    if used is not None:
        write(used[0], use)
        talk.note(f"use of links: {use}{used[1]}")


def _asked(cluster: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """The question that the options ask: they are read as a workload file would be, and named in what is wrong.

    Raises:
        ScenarioError: everything wrong with the cluster and the options.
    """
    from ffsim.study import Scenario  # noqa: PLC0415
    from ffsim.study.collective import ask  # noqa: PLC0415

    data, places = _workload(options)
    scenario = Scenario(
        cluster=cluster, workload="", overrides=options["overrides"], depth=options["depth"], seed=options["seed"]
    )
    try:
        return scenario, ask(scenario, data, places)
    except ScenarioError as error:  # an option is its own place, the key that it stands for says nothing more
        named = set(places.values())
        raise ScenarioError(
            [replace(problem, path="") if problem.where in named else problem for problem in error.problems]
        ) from None


def _workload(options: dict[str, Any]) -> tuple[dict[str, Any], dict[tuple[str | int, ...], str]]:
    """The options as the data of a workload file, and the option that each value comes from."""
    op: dict[str, Any] = {"op": options["op"], "algorithms": _words(options["algorithm"])}
    data: dict[str, Any] = {"kind": "collective", "ops": [op]}
    places: dict[tuple[str | int, ...], str] = {("ops", 0, "algorithms"): f"--algorithm {options['algorithm']}"}

    def give(name: str, path: tuple[str | int, ...], value: Any, holder: dict[str, Any]) -> None:
        if options[name] is not None:
            holder[str(path[-1])] = value
            places[path] = f"--{name.replace('_', '-')} {options[name]}"

    placement = _words(options["placement"] or "")
    listed = bool(placement) and all(word.isdigit() for word in placement)
    give("placement", ("placement",), [int(word) for word in placement] if listed else options["placement"], data)
    give("groups", ("groups",), options["groups"], data)
    give("gpus_per_node", ("gpus_per_node",), options["gpus_per_node"], data)
    give("lanes", ("lanes",), options["lanes"], data)
    if not listed:
        op["nodes"] = "2"
    if options["op"] != "barrier":
        op["sizes"] = "1MiB:1GiB:4"
    give("nodes", ("ops", 0, "nodes"), options["nodes"], op)
    give("size", ("ops", 0, "sizes"), options["size"], op)
    background = options["background"] or ""
    by_file = background.endswith(".csv") or Path(background).is_file()
    give("background", ("background",), {"file" if by_file else "read_per_node": background}, data)
    rule: dict[str, Any] = {}
    give("routing", ("routing", "kind"), options["routing"], rule)
    give("queue_pairs", ("routing", "queue_pairs"), options["queue_pairs"], rule)
    if rule:
        data["routing"] = rule
    return data, places


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _plot(result: Any) -> str:
    from ffsim.report.collective_plots import bandwidth_plot  # noqa: PLC0415

    return bandwidth_plot(result) + "\n"


def _use(question: Any, path: Path) -> tuple[str, str]:
    """The text of a file about the use of links, and what to say of it."""
    from ffsim.report.link_use import N_LISTED, use_csv, use_map  # noqa: PLC0415
    from ffsim.study.collective import use_over_time  # noqa: PLC0415

    end_s, use = use_over_time(question, BINS)
    if path.suffix == ".svg":
        return use_map(question.topology, end_s, use) + "\n", ""
    text, n_used = use_csv(question.topology, end_s, use)
    return text, f" (the {N_LISTED} busiest of {n_used:,} links in use)" if n_used > N_LISTED else ""
