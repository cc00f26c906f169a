"""One layer of cables between switches: which upper switch a cable of a lower unit ends at, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.topology.arrays import Bools, Ints, count_up


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """Cables of lower units to the upper switches of their group, dealt out in turn.

    Unit ``group * n_lower + lower`` has ``up`` cables; its cable ``u`` ends at switch ``(offset + u) % n_upper`` of its
    group. Where every unit reaches every switch, a unit goes on where the one before it stopped, so that ports fill
    evenly; where units have fewer cables than there are switches, each starts at switch 0, so that any two units share
    the first ``min(up)`` switches.

    Attributes:
        up: ``[n_groups, n_lower]``, cables of each unit.
        n_upper: switches of each group.
        offset: ``[n_units]``, switch of the unit's first cable.
        first: ``[n_units]``, number of the unit's first cable; cables are numbered unit by unit.
    """

    up: Ints
    n_upper: int
    offset: Ints
    first: Ints

    @classmethod
    def deal(cls, up: Ints, n_upper: int) -> Stage:
        """Wire units with so many cables each (``[n_groups, n_lower]``) to ``n_upper`` switches a group."""
        before = np.cumsum(up, axis=1) - up
        everywhere = n_upper > 0 and int(up.min()) >= n_upper
        offset = (before % n_upper).ravel() if everywhere else np.zeros(up.size, dtype=np.int64)
        return cls(up=up, n_upper=n_upper, offset=offset, first=np.cumsum(up) - up.ravel())

    def upper(self, unit: Ints, cable: Ints) -> Ints:
        """The switch, within its group, at the end of a unit's cable."""
        switch: Ints = (self.offset[unit] + cable) % self.n_upper
        return switch

    def turn(self, unit: Ints, cable: Ints) -> Ints:
        """How many cables of the group ended at the cable's upper switch before it, up to a constant."""
        before: Ints = (self.first[unit] + cable) // self.n_upper
        return before

    def cable_to(self, unit: Ints, upper: Ints, turn: Ints) -> Ints:
        """A cable of the unit that ends at the switch: where there are several, by turns; there must be one."""
        nearest = (upper - self.offset[unit]) % self.n_upper
        choices = 1 + (self.up.ravel()[unit] - 1 - nearest) // self.n_upper
        cable: Ints = nearest + self.n_upper * (turn % choices)
        return cable

    def ends(self) -> tuple[Ints, Ints, Ints]:
        """Unit, cable within the unit and upper switch (counted over all groups) of every cable."""
        n_lower = self.up.shape[1]
        unit = np.repeat(count_up(self.up.size), self.up.ravel())
        cable = count_up(len(unit)) - self.first[unit]
        return unit, cable, unit // n_lower * self.n_upper + self.upper(unit, cable)

    def through(self, left: Bools) -> Ints:
        """Cables that can pass from some lower units to the others, limited at each upper switch by the scarcer side.

        Args:
            left: ``[n_lower]``, the units of one side, the same in each group.

        Returns:
            ``[n_groups]`` cables.
        """
        n_groups, n_lower = self.up.shape
        unit, _, upper = self.ends()
        on_left = left[unit % n_lower]
        size = n_groups * self.n_upper
        scarcer = np.minimum(np.bincount(upper[on_left], minlength=size), np.bincount(upper[~on_left], minlength=size))
        result: Ints = scarcer.reshape(n_groups, self.n_upper).sum(axis=1)
        return result
