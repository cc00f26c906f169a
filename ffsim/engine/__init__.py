"""Clock, task graphs and fluid links: runs programs without knowing what a task means."""

from ffsim.engine.executor import execute, task_flows, transfers
from ffsim.engine.flows import NO_LINK, Flows, FlowTimes, joined
from ffsim.engine.fluid import link_use, simulate_flows
from ffsim.engine.graph import NO_LANE, Costs, Csr, TaskGraph, Timeline
from ffsim.engine.longest_path import end_times_s
from ffsim.engine.network import FluidNetwork
from ffsim.engine.teams import Crew, CrewCosts, CrewTimeline, execute_crew, first_work

__all__ = [
    "NO_LANE",
    "NO_LINK",
    "Costs",
    "Crew",
    "CrewCosts",
    "CrewTimeline",
    "Csr",
    "FlowTimes",
    "Flows",
    "FluidNetwork",
    "TaskGraph",
    "Timeline",
    "end_times_s",
    "execute",
    "execute_crew",
    "first_work",
    "joined",
    "link_use",
    "simulate_flows",
    "task_flows",
    "transfers",
]
