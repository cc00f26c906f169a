"""Parallel plans to programs: stages, kernels, messages, memory and doubt of one training step."""

from ffsim.training.bounds import Bounds
from ffsim.training.breakdown import Breakdown, operation_times
from ffsim.training.bubble import bubble_parts, step_parts
from ffsim.training.costs import Condition
from ffsim.training.doubt import Doubt, Sensitivity, combined_range, doubt
from ffsim.training.inputs import Inputs, load_inputs, workload_document
from ffsim.training.limits import Limit, limits
from ffsim.training.memory import RankMemory
from ffsim.training.operator_table import OperatorTable, operator_table
from ffsim.training.spec import SHELF, Assumptions, PlanSpec, PretrainSpec
from ffsim.training.step import MAX_FULL_TASKS, Depth, Prepared, StepResult, prepare, simulate

__all__ = [
    "MAX_FULL_TASKS",
    "SHELF",
    "Assumptions",
    "Bounds",
    "Breakdown",
    "Condition",
    "Depth",
    "Doubt",
    "Inputs",
    "Limit",
    "OperatorTable",
    "PlanSpec",
    "Prepared",
    "PretrainSpec",
    "RankMemory",
    "Sensitivity",
    "StepResult",
    "bubble_parts",
    "combined_range",
    "doubt",
    "limits",
    "load_inputs",
    "operation_times",
    "operator_table",
    "prepare",
    "simulate",
    "step_parts",
    "workload_document",
]
