"""``ffsim schema``: what belongs in a file, as JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ffsim.cli.output import check_writable, write

KINDS = (
    "cluster",
    "workload",
    "collective",
    "flows",
    "storage",
    "validation",
    "model",
    "gpu",
    "cpu",
    "nic",
    "switch",
    "ssd",
)


@click.command("schema")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
def command(kind: str, output: Path | None) -> None:
    """Print the JSON Schema of a KIND of file; editors use it to complete and check.

    Workloads have a schema for each kind: `workload` is that of pre-training.

    \b
    Examples:
      ffsim schema cluster -o cluster.schema.json
      ffsim schema workload
    """  # noqa: D301 - click reads the escape
    from ffsim.study.catalogue import schema_of  # noqa: PLC0415 - help must not wait for NumPy

    check_writable(output)
    write(json.dumps(schema_of(kind), indent=2) + "\n", output)
