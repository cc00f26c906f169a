"""How a layer is run: which ranks share it, which attention kernels it uses, whether it drops activations.

The model's code asks for the execution that is in force, as operators ask for the tape:
``with executing(Execution(tensor=8))`` turns `ffsim.model.layers` into one rank's share of them, exchanges included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ffsim.model.arrays import Array, Shape

GroupName = Literal["expert", "tensor", "context", "expert_tensor"]
ContextExchange = Literal["ring", "all-to-all"]
AttentionKernels = Literal["flash", "unfused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a layer is run, and which of its ranks this is.

    Attributes:
        tensor: ranks that divide heads, inner widths and vocabulary.
        sequence_parallel: whether these ranks divide the tokens between blocks too.
        context: ranks that divide the sequence.
        context_exchange: what attention does about it: keys and values travel round a ring of these ranks, or tokens
            are exchanged for heads. A ring gives each rank one early and one late chunk, so that all see as much past.
        expert_tensor: ranks that divide the width of each routed expert.
        attention: one fused kernel, or products of their own with scores in memory.
        dropout: share of activations that is dropped, 0 for none.
        fused_linears: whether queries, keys and values come from one product and biases cost no pass of their own.
        rank: place of this rank in each group, 0 where not said.
        everyone: the arrays that all ranks of a group hold, in their order; None where every rank holds the like, which
            is all that costs ask for.
        random: draws what is dropped.
    """

    tensor: int = 1
    sequence_parallel: bool = False
    context: int = 1
    context_exchange: ContextExchange = "ring"
    expert_tensor: int = 1
    attention: AttentionKernels = "flash"
    dropout: float = 0.0
    fused_linears: bool = False
    rank: Mapping[GroupName, int] = field(default_factory=dict)
    everyone: Callable[[GroupName, Array], list[Array]] | None = None
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def size(self, group: GroupName) -> int:
        """Ranks of a group; experts exchange by routing and are not counted here."""
        sizes: dict[GroupName, int] = {
            "tensor": self.tensor,
            "context": self.context,
            "expert_tensor": self.expert_tensor,
        }
        return sizes[group]

    def at(self, group: GroupName) -> int:
        """Place of this rank in a group."""
        return self.rank.get(group, 0)

    @property
    def token_shards(self) -> int:
        """Ranks over which a tensor group divides the tokens between blocks."""
        return self.tensor if self.sequence_parallel else 1

    @property
    def rings(self) -> bool:
        """Whether keys and values travel round a ring."""
        return self.context > 1 and self.context_exchange == "ring"

    def mask(self, like: Array) -> Array:
        """Which elements of an array are kept, drawn at random."""
        return Shape(*like.shape) if isinstance(like, Shape) else self.random.random(like.shape) >= self.dropout


_EXECUTION: ContextVar[Execution] = ContextVar("execution", default=Execution())  # noqa: B039 - frozen


def execution() -> Execution:
    """The execution in force."""
    return _EXECUTION.get()


@contextmanager
def executing(how: Execution) -> Iterator[None]:
    """Run the layers called inside the block so."""
    token = _EXECUTION.set(how)
    try:
        yield
    finally:
        _EXECUTION.reset(token)


def zigzag(rank: int, ranks: int, length: int) -> np.ndarray[Any, Any]:
    """Positions of the tokens that one rank of a ring holds: a chunk from the front and its mirror from the back.

    >>> zigzag(0, 2, 8).tolist(), zigzag(1, 2, 8).tolist()
    ([0, 1, 6, 7], [2, 3, 4, 5])
    """
    chunk = length // (2 * ranks)
    starts = (rank * chunk, (2 * ranks - 1 - rank) * chunk)
    return np.concatenate([np.arange(start, start + chunk) for start in starts])


def held_positions(length: int, *, between_blocks: bool) -> np.ndarray[Any, Any]:
    """Positions of the tokens of this rank in a sequence of so many.

    Args:
        length: tokens of the whole sequence.
        between_blocks: where sequence parallelism divides them further; else inside attention and feed-forward.
    """
    e = execution()
    if e.rings:
        held = zigzag(e.at("context"), e.context, length)
    else:
        held = np.split(np.arange(length), e.context)[e.at("context")]
    return np.split(held, e.token_shards)[e.at("tensor") if e.sequence_parallel else 0] if between_blocks else held
