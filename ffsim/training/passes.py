"""Passes over a stage as steps: what is computed without a break, and the exchanges that follow it.

A step ends where other ranks are needed. What follows the last exchange of a piece is computed together with the next
piece up to its first exchange. Pieces without exchanges are steps of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ffsim.model.lowering import Cut, Exchange
from ffsim.model.pieces import PieceKind
from ffsim.model.tape import Phase
from ffsim.training.recipes import Part, Recipe, Recipes
from ffsim.training.stages import Stage

Places = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Computing without a break, and what is exchanged after it.

    Attributes:
        parts: what is computed; nothing for exchanges that open a pass.
        then: exchanges that follow, in order.
        late: weight gradients, computed while those exchanges are under way.
        label: what is computed, as a trace names it.
        places: pieces of the stage that the parts belong to.
        rest_before, rest_after: turns that an overlapped pair's other half gets before and after this one's own.
    """

    parts: tuple[Part, ...]
    then: tuple[Exchange, ...] = ()
    late: tuple[Part, ...] = ()
    label: str = ""
    places: Places = ()
    rest_before: int = 0
    rest_after: int = 0

    def joined(self, after: Step) -> Step:
        """This step, which has no exchange, and the next one as a single step."""
        assert not self.then
        return Step(
            parts=self.parts + after.parts,
            then=after.then,
            late=self.late + after.late,
            label=after.label if after.parts else self.label,
            places=self.places + after.places,
            rest_before=self.rest_before + after.rest_before,
            rest_after=self.rest_after + after.rest_after,
        )


def has_exchanges(stage: Stage, recipes: Recipes) -> bool:
    """Whether a pass over a stage needs other ranks of its groups."""
    return any(cut.forward or cut.backward for piece in stage.pieces for cut in recipes[piece].cuts)


def forward_steps(stage: Stage, recipes: Recipes, *, split: bool) -> list[Step]:
    """The forward pass of a stage.

    Args:
        stage: its pieces.
        recipes: what each consists of.
        split: whether no step may hold parts of two pieces.
    """
    steps: list[Step] = []
    carried: Step | None = None
    for place, piece in enumerate(stage.pieces):
        *before, last = _runs(recipes[piece], piece, place, "F", recipes[piece].n_segments)
        if not before:
            last = replace(last, rest_after=1)  # the turns of a piece with a dispatch: two
        steps += _chained(carried, [*before, last] if split or not before else before)
        carried = last if before and not split else None
    return [*steps, carried] if carried is not None and carried.parts else steps


def backward_steps(stage: Stage, recipes: Recipes, *, weights: bool, split: bool) -> list[Step]:
    """The backward pass of a stage, last piece first; with its weight gradients unless they are put off.

    A layer that is recomputed runs its forward segments again first.
    """
    steps: list[Step] = []
    carried: Step | None = None
    for place in reversed(range(len(stage.pieces))):
        piece = stage.pieces[place]
        recipe = recipes[piece]
        runs = _backward_runs(recipe, piece, place, weights=weights)
        if recipe.n_replayed and place in stage.replayed:
            *again, last = _runs(recipe, piece, place, "R", recipe.n_replayed)
            runs = [*again, last.joined(runs[0]), *runs[1:]]
        if len(runs) == 1:
            runs = [replace(runs[0], rest_before=1)]
        if carried is not None and not (runs[0].then and _may_join(carried, runs[0], split=split)):
            steps.append(carried)
            carried = None
        *before, last = _chained(carried, runs)
        steps += before
        carried = last
    return steps if carried is None else [*steps, carried]


def weight_steps(stage: Stage, recipes: Recipes, *, split: bool) -> list[Step]:
    """Weight gradients of a whole stage that were put off, in one step or piece by piece."""
    steps = []
    for place in reversed(range(len(stage.pieces))):
        piece = stage.pieces[place]
        parts = recipes[piece].parts(piece, "W", range(recipes[piece].n_segments))
        steps.append(Step(parts=parts, label=f"W {piece}", places=(place,)))
    return steps if split else [merged(steps, "W stage")]


def merged(steps: list[Step], label: str) -> Step:
    """Steps without exchanges as one, weight gradients included."""
    parts = tuple(part for step in steps for part in (*step.parts, *step.late))
    return Step(parts=parts, label=label, places=tuple(place for step in steps for place in step.places))


def _may_join(carried: Step, first: Step, *, split: bool) -> bool:
    """Whether a piece may begin in the step that the piece after it ends with; its exchanges alone always may."""
    return not first.parts or not (split or carried.rest_before)


def _chained(carried: Step | None, runs: list[Step]) -> list[Step]:
    """Runs behind what was carried over from the piece before them."""
    return runs if carried is None else [carried.joined(runs[0]), *runs[1:]]


def _runs(recipe: Recipe, piece: PieceKind, place: int, phase: Phase, n_segments: int) -> list[Step]:
    """Forward segments between exchanges; the last run has none behind it."""
    runs: list[Step] = []
    first, label = 0, f"{phase} {piece}"
    for number, cut in enumerate(recipe.cuts[: n_segments - 1]):
        if not cut.forward:
            continue
        parts = recipe.parts(piece, phase, range(first, number + 1))
        runs.append(_run(parts, place, label, cut.forward))
        label = f"{phase} experts" if _expert(cut.forward, "dispatch") else f"{phase} {piece}"
        first = number + 1
    parts = recipe.parts(piece, phase, range(first, n_segments))
    return [*runs, _run(parts, place, label)]


def _run(
    parts: tuple[Part, ...],
    place: int,
    label: str,
    then: tuple[Exchange, ...] = (),
    late: tuple[Part, ...] = (),
) -> Step:
    return Step(parts=parts, then=then, late=late, label=label, places=(place,) if parts or late else ())


def _backward_runs(recipe: Recipe, piece: PieceKind, place: int, *, weights: bool) -> list[Step]:
    """Backward segments between exchanges, last segment first; the last run has no exchange behind it.

    What follows a combine is a sum, whose gradient passes through unchanged: nothing of it holds up the exchange.
    """
    runs: list[Step] = []
    for segments, then, label in _backward_segments(recipe.cuts, piece):
        of_b = tuple(part for at in segments for part in recipe.parts(piece, "B", range(at, at + 1)))
        of_w = tuple(part for at in reversed(segments) for part in recipe.parts(piece, "W", range(at, at + 1)))
        runs.append(_run(of_b, place, f"B {label}", then, of_w if weights else ()))
    return runs


def _backward_segments(
    cuts: tuple[Cut, ...], piece: PieceKind
) -> Iterator[tuple[list[int], tuple[Exchange, ...], str]]:
    """Segments of each backward run, exchanges behind it, and its name."""
    segments, label = [len(cuts)], str(piece)
    for number in reversed(range(len(cuts))):
        then = cuts[number].backward
        if then and _expert(then, "dispatch"):  # the gradient of a combine
            yield segments[:-1], then, label
            segments, label = segments[-1:], "experts"
        elif then:
            yield segments, then, label
            segments, label = [], str(piece)
        segments.append(number)
    yield segments, (), label


def _expert(exchanges: tuple[Exchange, ...], operation: str) -> bool:
    return any(exchange.group == "expert" and exchange.operation == operation for exchange in exchanges)
