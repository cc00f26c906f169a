"""When a rank issues its messages, where a schedule says only in which order it computes."""

from __future__ import annotations

from collections.abc import Sequence

from ffsim.schedules.ops import Message, Transfer

Groups = tuple[tuple[tuple[Message, ...], ...], ...]


def group_messages(lengths: Sequence[int], transfers: Sequence[Transfer]) -> Groups:
    """Messages of every rank by the operation before which they are issued together; the last group after the last.

    A result is sent on just after the operation that makes it and received just before the one that needs it. Where
    ranks would then wait for each other's receives forever, receives are posted as early as the results can be there,
    as programs post them that receive asynchronously.

    Args:
        lengths: operations of each rank.
        transfers: results that go from rank to rank.
    """
    late = [transfer.target[1] for transfer in transfers]
    if not _locks(lengths, transfers, late):
        return _groups(lengths, transfers, late)
    return _groups(lengths, transfers, _first_possible(lengths, transfers))


def _groups(lengths: Sequence[int], transfers: Sequence[Transfer], posted: Sequence[int]) -> Groups:
    groups: list[list[list[Message]]] = [[[] for _ in range(length + 1)] for length in lengths]
    for transfer in transfers:
        (rank, position), peer = transfer.source, transfer.target[0]
        groups[rank][position + 1].append(
            Message("s", peer, transfer.direction, transfer.source_module, transfer.chunk)
        )
    for transfer, position in zip(transfers, posted, strict=True):
        rank, peer = transfer.target[0], transfer.source[0]
        groups[rank][position].append(Message("r", peer, transfer.direction, transfer.target_module, transfer.chunk))
    return tuple(tuple(tuple(group) for group in rank_groups) for rank_groups in groups)


def _locks(lengths: Sequence[int], transfers: Sequence[Transfer], posted: Sequence[int]) -> bool:
    """Whether ranks stop for good when both ends of a message wait for each other (rendezvous)."""
    partners: list[list[list[tuple[int, int]]]] = [[[] for _ in range(length + 1)] for length in lengths]
    for transfer, position in zip(transfers, posted, strict=True):
        sent, received = (transfer.source[0], transfer.source[1] + 1), (transfer.target[0], position)
        partners[sent[0]][sent[1]].append(received)
        partners[received[0]][received[1]].append(sent)
    reached = [0] * len(lengths)
    moved = True
    while moved:
        moved = False
        for rank, length in enumerate(lengths):
            while reached[rank] < length and all(
                reached[peer] >= position for peer, position in partners[rank][reached[rank]]
            ):
                reached[rank] += 1
                moved = True
    return any(place < length for place, length in zip(reached, lengths, strict=True))


def _first_possible(lengths: Sequence[int], transfers: Sequence[Transfer]) -> list[int]:
    """Where each result can be received at the earliest: before the first operation that starts after it was made.

    Starts are those of operations that all take as long. Ordered by them, whatever waits for a message comes after
    whatever the message waits for, so that no ranks wait for each other.
    """
    starts = _starts(lengths, transfers)
    posted = []
    for transfer in transfers:
        (rank, position), target = transfer.source, transfer.target
        made, first = starts[rank][position] + 1, target[1]
        while first > 0 and starts[target[0]][first - 1] >= made:
            first -= 1
        posted.append(first)
    return posted


def _starts(lengths: Sequence[int], transfers: Sequence[Transfer]) -> list[list[int]]:
    """When operations start that all take one unit and whose messages take none."""
    needs: list[list[list[tuple[int, int]]]] = [[[] for _ in range(length)] for length in lengths]
    for transfer in transfers:
        needs[transfer.target[0]][transfer.target[1]].append(transfer.source)
    starts: list[list[int]] = [[] for _ in lengths]
    moved = True
    while moved:
        moved = False
        for rank, length in enumerate(lengths):
            while len(starts[rank]) < length:
                sources = needs[rank][len(starts[rank])]
                if any(len(starts[source]) <= position for source, position in sources):
                    break
                before = starts[rank][-1] + 1 if starts[rank] else 0
                starts[rank].append(max([before, *(starts[source][position] + 1 for source, position in sources)]))
                moved = True
    return starts
