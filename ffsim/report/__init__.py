"""Answers for people and machines: tables, one-file HTML reports, Perfetto traces. Computes nothing."""

from ffsim.report.calibration import present_calibration, present_refit
from ffsim.report.operators import present_operators
from ffsim.report.presentations import (
    present_entry,
    present_explanation,
    present_listing,
    present_run,
    present_validation,
)
from ffsim.report.tables import Format, Presentation, Table, render

__all__ = [
    "Format",
    "Presentation",
    "Table",
    "present_calibration",
    "present_entry",
    "present_explanation",
    "present_listing",
    "present_operators",
    "present_refit",
    "present_run",
    "present_validation",
    "render",
]
