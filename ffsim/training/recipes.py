"""What a pass over a piece consists of: segments to compute, and what is exchanged between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ffsim.model.lowering import Cut, Exchange, Lowered
from ffsim.model.pieces import PieceKind
from ffsim.model.tape import Phase
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs

Part = tuple[PieceKind, Phase, int]
"""Kernels of one phase of one segment of a piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One piece as its passes run it.

    Attributes:
        cuts: what other ranks are needed for between segments; nothing where a group is one rank.
        computes: phases and segments in which there is anything to compute; the first segment of either pass counts
            as such, so that every piece has a task to wait for.
    """

    cuts: tuple[Cut, ...]
    computes: frozenset[tuple[Phase, int]]

    @property
    def n_segments(self) -> int:
        """Segments of the piece."""
        return len(self.cuts) + 1

    @property
    def n_replayed(self) -> int:
        """Segments up to the last that a recomputing backward pass runs again; 0 where it does not."""
        return 1 + max((segment for phase, segment in self.computes if phase == "R"), default=-1)

    def parts(self, piece: PieceKind, phase: Phase, segments: range) -> tuple[Part, ...]:
        """What there is to compute of some segments."""
        return tuple((piece, phase, segment) for segment in segments if (phase, segment) in self.computes)


Recipes = Mapping[PieceKind, Recipe]


def make_recipes(inputs: Inputs, pieces: Pieces) -> Recipes:
    """The recipes of all pieces of a plan."""
    plan = inputs.spec.plan
    sizes = {"expert": plan.ep, "tensor": plan.tp, "context": plan.cp, "expert_tensor": plan.etp}
    alone = frozenset(name for name, size in sizes.items() if size == 1)
    return {kind: _recipe(lowered, alone) for kind, lowered in pieces.lowered.items()}


def _recipe(lowered: Lowered, alone: frozenset[str]) -> Recipe:
    def kept(exchanges: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
        return tuple(exchange for exchange in exchanges if exchange.group not in alone)

    operators = lowered.operators
    found = frozenset([("F", 0), ("B", 0), *zip(operators.phase.tolist(), operators.segment.tolist(), strict=True)])
    return Recipe(cuts=tuple(Cut(kept(cut.forward), kept(cut.backward)) for cut in lowered.cuts), computes=found)
