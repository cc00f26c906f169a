"""Money and energy: what a run costs, at dated prices with ranges."""

from ffsim.economics.bill import Bill, Line, bill
from ffsim.economics.capital import Capital, relative_capital
from ffsim.economics.network import NetworkCost, network_cost

__all__ = ["Bill", "Capital", "Line", "NetworkCost", "bill", "network_cost", "relative_capital"]
