"""Money and energy: what a run costs, at dated prices with ranges."""

from ffsim.economics.bill import Bill, Line, bill

__all__ = ["Bill", "Line", "bill"]
