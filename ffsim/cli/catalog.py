"""``ffsim catalog``: what ships, and where every figure comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ffsim.cli.options import chosen_format, output_options
from ffsim.cli.output import check_writable, write

KINDS = ("cluster", "workload", "model", "gpu", "cpu", "nic", "switch", "ssd")


@click.command("catalog")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.argument("name", required=False)
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw the fabric of a cluster.")
@output_options
def command(kind: str | None, name: str | None, picture: Path | None, **options: Any) -> None:
    """List what ships with ffsim, or show one entry with the source of every figure.

    \b
    Examples:
      ffsim catalog
      ffsim catalog gpu h800-sxm
      ffsim catalog cluster dgx-a100-10000
      ffsim catalog cluster fire-flyer-2 --picture fabric.svg
    """  # noqa: D301 - click reads the escape
    from ffsim.report import present_entry, present_listing, render  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.study.catalogue import describe, listing  # noqa: PLC0415

    output: Path | None = options["output"]
    if picture is not None and (kind != "cluster" or name is None):
        raise click.UsageError(
            "--picture draws the fabric of one cluster: ffsim catalog cluster NAME --picture FILE.svg"
        )
    check_writable(output, picture)
    if kind is None or name is None:
        presentation = present_listing(listing(kind))
    else:
        presentation = present_entry(describe(kind, name))
    write(render(presentation, chosen_format(options["format_"], output)), output)
    if picture is not None and name is not None:
        from ffsim.report.fabric import fabric_picture  # noqa: PLC0415 - matplotlib only where something is drawn
        from ffsim.topology import build_topology, load_cluster  # noqa: PLC0415

        write(fabric_picture(build_topology(load_cluster(name))), picture)
