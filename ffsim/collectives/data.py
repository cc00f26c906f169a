"""Collectives as data: flows between the ranks of a group, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]
Detail = Literal["steps", "links", "flows"]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Flows that run at the same time.

    Attributes:
        src, dst: ``[n_flows]`` ranks within the group.
        bytes_: ``[n_flows]``.
        repeat: how many times the step is run, one after the other.
        exchange: whether every rank sends the same to every other.
    """

    src: Ints
    dst: Ints
    bytes_: Floats
    repeat: int = 1
    exchange: bool = False

    @classmethod
    def of(cls, src: Ints, dst: Ints, bytes_: float | Floats, repeat: int = 1, *, exchange: bool = False) -> Step:
        """A step, with one size for all flows or one each."""
        return cls(src, dst, np.broadcast_to(np.asarray(bytes_, dtype=float), src.shape), repeat, exchange)


@dataclass(frozen=True, slots=True, eq=False)
class Collective:
    """What a group of ranks exchanges.

    Attributes:
        name: operation and algorithm.
        n_ranks: ranks of the group.
        steps: run in order; a step starts when the one before it has ended everywhere.
        size_bytes: the buffer on each rank that the algorithm bandwidth is counted on.
    """

    name: str
    n_ranks: int
    steps: tuple[Step, ...]
    size_bytes: float

    @property
    def n_flows(self) -> int:
        """Flows of all steps."""
        return sum(len(step.src) * step.repeat for step in self.steps)

    @property
    def total_bytes(self) -> float:
        """Bytes of all flows."""
        return float(sum(step.bytes_.sum() * step.repeat for step in self.steps))


def check(n_ranks: int, size_bytes: float) -> None:
    """Refuse groups and buffers that make no sense.

    Raises:
        ValueError: ``n_ranks < 1`` or a size that is negative or not finite.
    """
    if n_ranks < 1 or not 0 <= size_bytes < float("inf"):
        raise ValueError(f"need n_ranks >= 1 and a finite size_bytes >= 0, got {n_ranks=}, {size_bytes=}")


def check_nodes(n_ranks: int, ranks_per_node: int) -> None:
    """Refuse groups that do not fill their nodes.

    Raises:
        ValueError: ``ranks_per_node`` does not divide ``n_ranks``.
    """
    if ranks_per_node < 1 or n_ranks % ranks_per_node:
        raise ValueError(f"{n_ranks} ranks do not fill nodes of {ranks_per_node}")
