"""Clock, task graphs and fluid links: runs programs without knowing what a task means."""

from ffsim.engine.executor import Executor, execute
from ffsim.engine.graph import NO_LANE, Costs, Csr, TaskGraph, Timeline
from ffsim.engine.longest_path import end_times_s
from ffsim.engine.network import FluidNetwork, Path

__all__ = [
    "NO_LANE",
    "Costs",
    "Csr",
    "Executor",
    "FluidNetwork",
    "Path",
    "TaskGraph",
    "Timeline",
    "end_times_s",
    "execute",
]
