"""ffsim: a discrete-event cluster simulator and capacity planner for AI clusters."""

from ffsim._version import __version__

__all__ = ["__version__"]
