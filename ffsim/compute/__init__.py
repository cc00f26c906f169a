"""Operators to seconds: physical models with few calibrated parameters per GPU, and how well each time is known."""

from ffsim.compute.host import host_issue_s
from ffsim.compute.profile import OperatorProfile, load_profile
from ffsim.compute.timing import BASES, Basis, Conditions, Times, find_kernel, time_operators

__all__ = [
    "BASES",
    "Basis",
    "Conditions",
    "OperatorProfile",
    "Times",
    "find_kernel",
    "host_issue_s",
    "load_profile",
    "time_operators",
]
