"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "json", "csv", "markdown")
SUFFIXES = {".json": "json", ".csv": "csv", ".md": "markdown"}


def scenario_options(command: F) -> F:
    """CLUSTER, WORKLOAD and what varies them."""
    for decorate in reversed(
        [
            click.argument("cluster"),
            click.argument("workload"),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="PATH=VALUE",
                help="Change a value of either file; may be repeated.",
            ),
            click.option(
                "--depth",
                type=click.Choice(["bounds", "folded", "full"]),
                default="folded",
                show_default=True,
                help="Closed forms only, one data-parallel replica for all, or every rank.",
            ),
            click.option(
                "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of random draws."
            ),
        ]
    ):
        command = decorate(command)
    return command


def output_options(command: F) -> F:
    """How and where the answer is written."""
    for decorate in reversed(
        [
            click.option(
                "--format",
                "format_",
                type=click.Choice(FORMATS),
                help="How to write the answer; by the suffix of -o if left out, else a table.",
            ),
            click.option(
                "-o",
                "--output",
                type=click.Path(path_type=Path, dir_okay=False),
                help="Write to a file instead of the terminal.",
            ),
            click.option("-q", "--quiet", is_flag=True, help="No progress and no hints."),
        ]
    ):
        command = decorate(command)
    return command


def chosen_format(format_: str | None, output: Path | None) -> Any:
    """The format asked for, or the one that the file's suffix suggests."""
    return format_ or SUFFIXES.get(output.suffix if output else "", "table")
