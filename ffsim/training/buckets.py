"""What is reduced or gathered in one go: gradients of a stage in buckets, in the order in which they are complete."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from ffsim.training.blocks import What
from ffsim.training.costs import Pieces
from ffsim.training.stages import Stage

KINDS: tuple[What, ...] = ("dense", "experts")


class Bucket(NamedTuple):
    """Parameters of a stage that belong together.

    Attributes:
        what: kind of parameters, which says who shares them.
        parameters: how many.
        calls: collectives that they are spread over evenly.
        places: pieces of the stage that they belong to.
    """

    what: What
    parameters: int
    calls: int
    places: tuple[int, ...]


def held(stage: Stage, pieces: Pieces) -> list[tuple[int, dict[What, int]]]:
    """Parameters by kind of every piece of a stage that holds any; a head that is run twice is held once.

    A copied embedding belongs with the first piece that uses it, whose gradient is the last to be complete.
    """
    found: list[tuple[int, dict[What, int]]] = []
    copied = stage.embedding_copy
    for place, piece in enumerate(stage.pieces):
        if piece == "head" and "head" in stage.pieces[:place]:
            continue
        sizes: dict[What, int] = {"dense": pieces.dense_parameters[piece], "experts": pieces.expert_parameters[piece]}
        if copied and piece in {"head", "mtp"}:
            sizes["dense"] += pieces.dense_parameters["embedding"]
            copied = False
        found.append((place, sizes))
    return found


def whole(stage: Stage, pieces: Pieces) -> list[Bucket]:
    """All parameters of each kind at once."""
    found, sizes = [], held(stage, pieces)
    for what in KINDS:
        total = sum(each[what] for _, each in sizes)
        if total or what == "dense":
            found.append(Bucket(what, total, 1, tuple(place for place, _ in reversed(sizes))))
    return found


def buckets(stage: Stage, pieces: Pieces, limit: float, *, in_calls: bool = True) -> list[Bucket]:
    """Buckets in backward order, each closed by the piece that makes it full.

    Args:
        stage: its pieces.
        pieces: their parameters.
        limit: parameters of a full bucket.
        in_calls: a piece with more of them is reduced in several calls at its end, else in one.
    """
    found: list[Bucket] = []
    for what in KINDS:
        places: list[int] = []
        total = 0
        for place, sizes in reversed(held(stage, pieces)):
            if not sizes[what]:
                continue
            places.append(place)
            total += sizes[what]
            if total >= limit:
                found.append(Bucket(what, total, ceil(total / limit) if in_calls else 1, tuple(places)))
                places, total = [], 0
        if total:
            found.append(Bucket(what, total, 1, tuple(places)))
    return sorted(found, key=lambda bucket: -min(bucket.places))


def pieces_alone(stage: Stage, pieces: Pieces) -> dict[int, list[Bucket]]:
    """Every piece by itself, as ZeRO-3 gathers and reduces them: one call for each kind of its parameters."""
    return {
        place: [Bucket(what, sizes[what], 1, (place,)) for what in KINDS if sizes[what]]
        for place, sizes in held(stage, pieces)
    }


def replicated(stage: Stage, pieces: Pieces) -> int:
    """Parameters of a stage that tensor-parallel ranks hold alike and see different tokens with."""
    return sum(pieces.replicated_parameters[stage.pieces[place]] for place, _ in held(stage, pieces))
