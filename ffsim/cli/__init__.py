"""The command line: one module a command; it asks, shows and exits, and computes nothing."""

from ffsim.cli.main import main

__all__ = ["main"]
