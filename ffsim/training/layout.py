"""Ranks and groups: which GPU is which rank of a plan, and who does something together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ffsim.schedules import Schedule

Ints = np.ndarray[Any, Any]

GroupKind = Literal["tensor", "context", "data", "expert", "expert_tensor", "expert_data"]
"""Which ranks of a pipeline rank do something together.

``data`` shares dense parameters (data- and context-parallel ranks alike), ``expert_data`` those of experts.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A plan that divides: which GPU is which rank, and who belongs together.

    Every pipeline rank has ``members`` GPUs, numbered in the plan's order (``tp-cp-dp-pp``: tensor-parallel ranks are
    neighbours). Among them, consecutive ones form the groups of the experts: tensor-parallel ranks of an expert first,
    then the ranks that the experts are spread over.

    Attributes:
        gpus: GPUs used.
        pp, tp, cp, dp, ep, etp: ranks of each kind.
        order: dimensions of a pipeline rank's members, innermost first (the plan's order without ``pp``).
        placement: ``[pp, members]`` GPU of every member of every pipeline rank.
        schedule: what every pipeline rank does.
        copies: pipeline ranks that hold the same stage (2 where micro-batches enter at both ends).
    """

    gpus: int
    pp: int
    tp: int
    cp: int
    dp: int
    ep: int
    etp: int
    order: tuple[str, ...]
    placement: Ints
    micro_batch: int
    n_micro_batches: int
    schedule: Schedule
    copies: int

    @property
    def members(self) -> int:
        """GPUs of a pipeline rank: ``tp * cp * dp``."""
        return self.tp * self.cp * self.dp

    @property
    def edp(self) -> int:
        """Ranks of a pipeline rank that hold the same experts."""
        return self.members // (self.ep * self.etp)

    def sharing(self, *, experts: bool) -> int:
        """Most GPUs that hold the same parameters; experts count where the model has some."""
        return self.copies * max(self.dp * self.cp, self.edp if experts else 1)

    def gpus_of(self, pipeline_rank: int) -> Ints:
        """``[members]`` GPUs of a pipeline rank."""
        return np.asarray(self.placement[pipeline_rank])

    def members_of(self, kind: GroupKind) -> Ints:
        """``[n_groups, n_ranks]`` members that form groups, the same on every pipeline rank."""
        members = np.arange(self.members)
        if kind in {"expert", "expert_tensor", "expert_data"}:
            grid = members.reshape(self.edp, self.ep, self.etp)
            axis = {"expert_data": 0, "expert": 1, "expert_tensor": 2}[kind]
            return np.moveaxis(grid, axis, -1).reshape(-1, grid.shape[axis])
        grid = members.reshape([getattr(self, name) for name in reversed(self.order)])
        axes = {"tensor": ["tp"], "context": ["cp"], "data": ["dp", "cp"]}[kind]
        inner = [len(self.order) - 1 - self.order.index(name) for name in sorted(axes, key=self.order.index)[::-1]]
        outer = [axis for axis in range(grid.ndim) if axis not in inner]
        return grid.transpose([*outer, *inner]).reshape(-1, int(np.prod([grid.shape[axis] for axis in inner])))

    def groups(self, kind: GroupKind, pipeline_rank: int) -> Ints:
        """``[n_groups, n_ranks]`` GPUs of a pipeline rank that form groups."""
        return self.gpus_of(pipeline_rank)[self.members_of(kind)]

    def holders(self, stage: int) -> list[int]:
        """Pipeline ranks that hold a stage."""
        return [rank for rank, stages in enumerate(self.schedule.placement) if stage in stages]


def place_ranks(order: str, sizes: dict[str, int]) -> Ints:
    """``[pp, members]`` GPUs counted from the job's first, by the order of dimensions, innermost first."""
    outermost_first = order.split("-")[::-1]
    grid = np.arange(np.prod(list(sizes.values()))).reshape([sizes[name] for name in outermost_first])
    return np.moveaxis(grid, outermost_first.index("pp"), 0).reshape(sizes["pp"], -1)
