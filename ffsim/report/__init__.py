"""Answers for people and machines: tables, one-file HTML reports, Perfetto traces. Computes nothing."""

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
    "present_entry",
    "present_explanation",
    "present_listing",
    "present_run",
    "present_validation",
    "render",
]
