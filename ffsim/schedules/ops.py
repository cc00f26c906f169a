"""What the ranks of a pipeline do: operations and the messages between them."""

from __future__ import annotations

from typing import Literal, NamedTuple

OpKind = Literal["F", "B", "Bi", "W", "FB"]
Direction = Literal["F", "B"]


class Op(NamedTuple):
    """One operation of a rank.

    Attributes:
        kind: F forward; B full backward; Bi its input-gradient half; W the weight-gradient half put off; FB one
            overlapped pair, forward of (module, chunk) with full backward of (module2, chunk2).
        module: which of the rank's stages.
        chunk: which micro-batch, counted within the module for a schedule that feeds both ends.
        module2, chunk2: the backward half of a pair.
    """

    kind: OpKind
    module: int
    chunk: int
    module2: int = -1
    chunk2: int = -1

    @property
    def forward(self) -> tuple[int, int] | None:
        """The (module, chunk) whose forward this is, if any."""
        return (self.module, self.chunk) if self.kind in {"F", "FB"} else None

    @property
    def backward(self) -> tuple[int, int] | None:
        """The (module, chunk) whose input gradient this computes, if any."""
        if self.kind == "FB":
            return (self.module2, self.chunk2)
        return (self.module, self.chunk) if self.kind in {"B", "Bi"} else None


class Message(NamedTuple):
    """One point-to-point message, as one end sees it: ``s`` send or ``r`` receive, with whom, what."""

    end: Literal["s", "r"]
    peer: int
    direction: Direction
    module: int
    chunk: int


class Transfer(NamedTuple):
    """One result that another rank needs: ``source`` and ``target`` are (rank, position) of the two operations."""

    source: tuple[int, int]
    target: tuple[int, int]
    direction: Direction
    source_module: int
    target_module: int
    chunk: int
