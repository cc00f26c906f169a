"""Which layers make up which pipeline stage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import inf

from ffsim.model.pieces import PieceKind, layer_kind
from ffsim.model.spec import CnnSpec, ModelSpec
from ffsim.schedules import Schedule
from ffsim.training.costs import Pieces

LAYERS: tuple[PieceKind, ...] = ("dense", "moe", "mtp")
TIE_DIGITS = 9  # nanoseconds: sums taken in another order must not decide


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage computes and holds.

    Attributes:
        pieces: in forward order.
        layers: its decoder layers: first, one past the last.
        embedding_copy: whether it holds a copy of the embedding, which its tied head or MTP modules use, because the
            rank that holds the embedding itself is another one.
        replayed: places of the pieces whose forward pass is run again before their backward pass, where the plan
            recomputes whole layers.
    """

    pieces: tuple[PieceKind, ...]
    layers: tuple[int, int]
    embedding_copy: bool = False
    replayed: frozenset[int] = frozenset()


def make_stages(
    model: ModelSpec | CnnSpec,
    schedule: Schedule,
    layers_per_stage: tuple[int, ...],
    recompute_layers: int | None = None,
) -> tuple[Stage, ...]:
    """Fill stages with so many layers each; embedding first, head and MTP modules (with the head again) last.

    Args:
        model: the layers.
        schedule: which rank holds which stages.
        layers_per_stage: layers of each stage.
        recompute_layers: layers of every stage, its first ones, that recomputing whole layers is for; all by default.
    """
    if isinstance(model, CnnSpec):
        return (Stage(("convolutions", "classifier"), (0, 1)),)
    wanted_twice = model.tied or model.mtp_layers > 0
    apart = not any({0, schedule.n_stages - 1} <= set(held) for held in schedule.placement)
    stages = []
    first = 0
    for number, size in enumerate(layers_per_stage):
        pieces: list[PieceKind] = []
        if number == 0:
            pieces.append("embedding")
        pieces += [layer_kind(model, layer) for layer in range(first, first + size)]
        if number == len(layers_per_stage) - 1:
            pieces.append("head")
            for _ in range(model.mtp_layers):
                pieces += ("mtp", "head")
        copy = number == len(layers_per_stage) - 1 and wanted_twice and apart
        layers = [place for place, piece in enumerate(pieces) if piece in LAYERS]
        stages.append(Stage(tuple(pieces), (first, first + size), copy, frozenset(layers[:recompute_layers])))
        first += size
    return tuple(stages)


def balance(
    model: ModelSpec | CnnSpec, schedule: Schedule, seconds: dict[PieceKind, float]
) -> tuple[tuple[int, ...], ...]:
    """Splits of the layers in which the busiest rank is as little busy as possible.

    Args:
        model: the layers.
        schedule: which rank holds which stages.
        seconds: time of one forward and backward of each piece.

    Returns:
        Layers of each stage, contiguous, in order; only the first and the last stage may have none. Splits with the
        same busiest rank come with the most even stages first; where every rank has one stage there is but one.
    """
    if isinstance(model, CnnSpec):
        return ((1,),)
    cumulative = [0.0]
    for layer in range(model.layers):
        cumulative.append(cumulative[-1] + seconds[layer_kind(model, layer)])
    tail = seconds["head"] + model.mtp_layers * (seconds.get("mtp", 0.0) + seconds["head"])
    if len(schedule.placement[0]) > 1 and not _folded_in_pairs(schedule):
        return (_balance_dealt(cumulative, schedule, seconds["embedding"], tail),)
    if len(schedule.placement[0]) > 1:
        return _balance_pairs(cumulative, schedule.n_stages, seconds["embedding"], tail)
    return (_balance_row(cumulative, schedule.n_stages, seconds["embedding"], tail),)


def _folded_in_pairs(schedule: Schedule) -> bool:
    """Whether every rank holds two stages as far from the entrance as from the end."""
    return all(sorted(held) == [min(held), schedule.n_stages - 1 - min(held)] for held in schedule.placement)


def _balance_dealt(cumulative: list[float], schedule: Schedule, entrance: float, tail: float) -> tuple[int, ...]:
    """Stages dealt to the ranks in turn: as even as they can be, the layers that are left over where time is least.

    Layers left over go one by one to the rank that is least busy, embedding, head and MTP modules counted; as far back
    on it as there is a stage without one.
    """
    n, n_stages = len(cumulative) - 1, schedule.n_stages
    each, left_over = divmod(n, n_stages)
    mean = cumulative[-1] / n
    sizes = [each] * n_stages
    load = [len(held) * each * mean for held in schedule.placement]
    owner = {stage: rank for rank, held in enumerate(schedule.placement) for stage in held}
    load[owner[0]] += entrance
    load[owner[n_stages - 1]] += tail
    for _ in range(left_over):
        free = [stage for stage in range(n_stages) if sizes[stage] == each]
        stage = min(free, key=lambda stage: (round(load[owner[stage]], TIE_DIGITS), -stage))
        sizes[stage] += 1
        load[owner[stage]] += mean
    return tuple(sizes)


def _balance_row(cumulative: list[float], n_stages: int, entrance: float, tail: float) -> tuple[int, ...]:
    """One stage per rank: the classical linear partition, then the most even split that is no slower."""
    n = len(cumulative) - 1

    def seconds(stage: int, first: int, size: int) -> float:
        extra = (entrance if stage == 0 else 0.0) + (tail if stage == n_stages - 1 else 0.0)
        return cumulative[first + size] - cumulative[first] + extra

    def sizes(stage: int, first: int) -> range:
        """Layers a stage may take so that every middle stage behind it gets at least one."""
        behind = max(n_stages - 2 - stage, 0)
        if stage == n_stages - 1:
            return range(n - first, n - first + 1)
        return range(0 if stage == 0 else 1, n - first - behind + 1)

    @cache
    def longest(stage: int, first: int) -> float:
        if stage == n_stages:
            return 0.0
        best = inf
        for size in sizes(stage, first):
            here = seconds(stage, first, size)
            if here >= best:  # and so are all larger ones
                break
            best = min(best, max(here, longest(stage + 1, first + size)))
        return best

    limit = round(longest(0, 0), TIE_DIGITS)

    @cache
    def evenest(stage: int, first: int) -> tuple[float, tuple[int, ...]]:
        if stage == n_stages:
            return (0.0, ())
        options = []
        for size in sizes(stage, first):
            here = seconds(stage, first, size)
            if round(here, TIE_DIGITS) > limit:
                break
            squares, rest = evenest(stage + 1, first + size)
            options.append((round(here * here + squares, 2 * TIE_DIGITS), (size, *rest)))
        return min(options, default=(inf, ()))

    return evenest(0, 0)[1]


def _balance_pairs(cumulative: list[float], n_stages: int, entrance: float, tail: float) -> tuple[tuple[int, ...], ...]:
    """Stages s and S-1-s on one rank.

    Only the outer pair is special (embedding, head, MTP); the others share what it leaves evenly. Every size and split
    of the outer pair is tried, so the result is the best of these splits, not of all conceivable ones.
    """
    n, n_pairs = len(cumulative) - 1, n_stages // 2
    options = []
    for outer in range(n + 1) if n_pairs > 1 else (n,):
        each, more = divmod(n - outer, max(n_pairs - 1, 1))
        inner = [each + (pair >= n_pairs - 1 - more) for pair in range(n_pairs - 1)]
        if min(inner, default=2) < 2:  # two stages, none of them empty
            continue
        for left in range(outer + 1):
            pairs = [(left, outer - left), *((size - size // 2, size // 2) for size in inner)]
            sizes = (*(front for front, _ in pairs), *(back for _, back in reversed(pairs)))
            seconds = _stage_seconds(cumulative, sizes, entrance, tail)
            busiest = max(first + last for first, last in zip(seconds, reversed(seconds), strict=True))
            options.append((round(busiest, TIE_DIGITS), max(seconds), sizes))
    options.sort()
    return tuple(sizes for busiest, _, sizes in options if busiest == options[0][0])


def _stage_seconds(cumulative: list[float], sizes: tuple[int, ...], entrance: float, tail: float) -> list[float]:
    ends = list(accumulate(sizes))
    seconds = [cumulative[end] - cumulative[end - size] for end, size in zip(ends, sizes, strict=True)]
    seconds[0] += entrance
    seconds[-1] += tail
    return seconds


def stage_parameters(stage: Stage, pieces: Pieces) -> tuple[int, int]:
    """Dense and expert parameters that a rank holds of a stage; a head that is run twice is held once."""
    held: list[PieceKind] = [piece for number, piece in enumerate(stage.pieces) if not _repeated(stage, number)]
    if stage.embedding_copy:
        held.append("embedding")
    return sum(pieces.dense_parameters[piece] for piece in held), sum(pieces.expert_parameters[piece] for piece in held)


def _repeated(stage: Stage, number: int) -> bool:
    return stage.pieces[number] == "head" and "head" in stage.pieces[:number]
