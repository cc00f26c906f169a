"""``ffsim catalog``: what ships, and where every figure comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ffsim.cli.options import chosen_format, output_options
from ffsim.cli.output import check_writable, write

if TYPE_CHECKING:
    from ffsim.report import Presentation

SCHEDULE_OPTIONS = ("ranks", "micro_batches", "chunks", "times", "message")
KINDS = ("cluster", "workload", "model", "gpu", "cpu", "nic", "switch", "ssd", "schedule")


@click.command("catalog")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.argument("name", required=False)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="FILE.svg",
    help="Draw the fabric of a cluster, or a schedule.",
)
@click.option("--ranks", type=click.IntRange(min=1), help="Pipeline ranks of a schedule.  [default: 4]")
@click.option("--micro-batches", type=click.IntRange(min=1), help="Micro-batches of a schedule.  [default: 8]")
@click.option("--chunks", type=click.IntRange(min=1), help="Stages per rank of the interleaved schedule.  [default: 2]")
@click.option("--times", metavar="F=1,Bi=1,W=1", help="Durations on one stage; also B and FB.")
@click.option("--message", type=click.FloatRange(min=0), help="Time of a message between ranks.  [default: 0]")
@output_options
def command(kind: str | None, name: str | None, picture: Path | None, **options: Any) -> None:
    """List what ships with ffsim, or show one entry with the source of every figure.

    \b
    Examples:
      ffsim catalog
      ffsim catalog gpu h800-sxm
      ffsim catalog cluster dgx-a100-10000
      ffsim catalog cluster fire-flyer-2 --picture fabric.svg
      ffsim catalog schedule zb-h1 --ranks 4 --micro-batches 8 --times F=1,Bi=1,W=1
    """  # noqa: D301 - click reads the escape
    output: Path | None = options["output"]
    asked = {key: options[key] for key in SCHEDULE_OPTIONS if options[key] is not None}
    if picture is not None and (kind not in {"cluster", "schedule"} or name is None):
        raise click.UsageError(
            "--picture draws the fabric of one cluster or one schedule: ffsim catalog cluster NAME --picture FILE.svg"
        )
    if asked and (kind != "schedule" or name is None):
        given = ", ".join("--" + key.replace("_", "-") for key in asked)
        raise click.UsageError(f"{given}: only for one schedule, as in ffsim catalog schedule zb-h1 --ranks 8")
    check_writable(output, picture)
    shown, draw = _schedule(name, asked) if kind == "schedule" and name is not None else _entry(kind, name)
    drawn = draw() if picture is not None else ""
    from ffsim.report import render  # noqa: PLC0415 - help must not wait for NumPy

    write(render(shown, chosen_format(options["format_"], output)), output)
    if picture is not None:
        write(drawn, picture)


def _schedule(name: str, asked: dict[str, Any]) -> tuple[Presentation, Callable[[], str]]:
    """What a schedule looks like, and how to draw it."""
    from ffsim.report.schedules import present_schedule  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study.schedule import describe_schedule  # noqa: PLC0415

    keys = {"ranks": "n_ranks", "micro_batches": "n_micro_batches"}
    entry = describe_schedule(name, **{keys.get(key, key): value for key, value in asked.items()})

    def draw() -> str:
        from ffsim.report.schedule_pictures import schedule_picture  # noqa: PLC0415 - matplotlib only to draw

        return schedule_picture(entry)

    return present_schedule(entry), draw


def _entry(kind: str | None, name: str | None) -> tuple[Presentation, Callable[[], str]]:
    """A list of entries or one of them, and how to draw a cluster."""
    from ffsim.report import present_entry, present_listing  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study.catalogue import describe, listing  # noqa: PLC0415

    def draw() -> str:
        from ffsim.report.fabric import fabric_picture  # noqa: PLC0415 - matplotlib only where something is drawn
        from ffsim.topology import build_topology, load_cluster  # noqa: PLC0415

        return fabric_picture(build_topology(load_cluster(str(name))))

    if kind is None or name is None:
        return present_listing(listing(kind)), draw
    return present_entry(describe(kind, name)), draw
