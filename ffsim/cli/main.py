"""The ``ffsim`` command: finds subcommands when they are asked for, and turns errors into messages and exit codes."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

import click

from ffsim._version import __version__
from ffsim.errors import FfsimError

COMMANDS = {
    "run": "Simulate a workload on a cluster and bill it.",
    "compare": "Clusters, workloads and plans side by side.",
    "collective": "Time and bandwidth of collectives, as nccl-tests shows them.",
    "explain": "Say what limits a run and how sure the answer is.",
    "calibrate": "Compare measured operators with the model, or fit a profile to them.",
    "validate": "Run published figures against the simulator.",
    "catalog": "List and show clusters, workloads, models and parts with their sources.",
    "schema": "Print the JSON Schema of a kind of file.",
}
INTERRUPTED = 130
FEWER_COLLECTIONS = 100_000  # objects; a short-lived process makes many and drops almost none in circles


class LazyGroup(click.Group):
    """A group whose commands live in modules of their name, imported when used: help stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Every command, in the order users meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"ffsim.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or say which one was perhaps meant."""
        near = get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=False)
@click.version_option(__version__, prog_name="ffsim")
def cli() -> None:
    """Cluster simulator and capacity planner for AI clusters.

    What would this cluster do with this workload, what would it cost, and why?

    \b
    Examples:
      ffsim run h800-2048 deepseek-v3-pretrain
      ffsim run h800-2048 deepseek-v3-pretrain --set nodes.nic=cx6-200g --report report.html

    \b
    Exit codes: 0 ok; 1 our bug; 2 usage or invalid file; 3 the plan cannot run; 4 validation outside tolerance.
    """  # noqa: D301 - click reads the escape


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    gc.set_threshold(FEWER_COLLECTIONS)
    sys.exit(run_cli(args))


def run_cli(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        result = cli.main(args=list(args) if args is not None else None, prog_name="ffsim", standalone_mode=False)
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int:
    """Say what went wrong on stderr; returns the exit code."""
    if isinstance(error, FfsimError):
        click.echo(str(error), err=True)
        return error.exit_code
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if os.environ.get("FFSIM_DEBUG"):
        raise error
    click.echo(
        f"internal error, our bug: {type(error).__name__}: {error}\n"
        "Set FFSIM_DEBUG=1 to see where, and please report it with the command you ran.",
        err=True,
    )
    return 1
