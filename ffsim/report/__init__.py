"""Answers for people and machines: tables, one-file HTML reports, Perfetto traces. Computes nothing."""

from ffsim.report.answers import present_answer
from ffsim.report.calibration import present_calibration, present_refit
from ffsim.report.collectives import present_collective
from ffsim.report.compare import present_comparison
from ffsim.report.flow_lists import present_flows
from ffsim.report.operators import present_operators
from ffsim.report.presentations import (
    present_entry,
    present_explanation,
    present_listing,
    present_run,
)
from ffsim.report.storage import present_storage, present_storage_explanation
from ffsim.report.tables import Format, Presentation, Table, render
from ffsim.report.validation import present_validation

__all__ = [
    "Format",
    "Presentation",
    "Table",
    "present_answer",
    "present_calibration",
    "present_collective",
    "present_comparison",
    "present_entry",
    "present_explanation",
    "present_flows",
    "present_listing",
    "present_operators",
    "present_refit",
    "present_run",
    "present_storage",
    "present_storage_explanation",
    "present_validation",
    "render",
]
