"""Flows that take several ways at once: which links those cross, and with what share of the flow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffsim.topology.arrays import NO_LINK, Bools, Floats, Ints, count_up, hop_counts

WAYS_AT_ONCE = 2**17


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spread:
    """Links of many rows, each link once a row, as columns; row ``i`` holds ``start[i]`` to ``start[i + 1]``.

    Attributes:
        start: ``[n_rows + 1]``.
        links: in order of number.
        share: of the row's bytes that cross the link.
        latency_s: ``[n_rows]``, of the longest way.
    """

    start: Ints
    links: Ints
    share: Floats
    latency_s: Floats

    def rows(self, wanted: Ints) -> Spread:
        """Some rows, in a given order."""
        counts = np.diff(self.start)[wanted]
        start = starts(counts)
        at = np.repeat(self.start[wanted] - start[:-1], counts) + count_up(int(start[-1]))
        return Spread(start=start, links=self.links[at], share=self.share[at], latency_s=self.latency_s[wanted])


def merge(row: Ints, ways: Ints, share: Floats, latency_s: Floats, n_rows: int) -> Spread:
    """Add up the shares of ways that belong to one row.

    Args:
        row: ``[n_ways]``.
        ways: ``[n_ways, n_columns]`` links, with gaps.
        share: ``[n_ways]`` of the row's bytes.
        latency_s: ``[n_ways]``.
        n_rows: rows there are; one without ways has no links.
    """
    used = ways != NO_LINK
    width = int(ways.max(initial=0)) + 1
    hops = hop_counts(ways)
    codes, shares = _summed(np.repeat(row, hops) * width + ways[used], np.repeat(share, hops), n_rows * width)
    longest = np.zeros(n_rows)
    np.maximum.at(longest, row, latency_s)
    rows, links = np.divmod(codes, width)
    return Spread(start=starts(np.bincount(rows, minlength=n_rows)), links=links, share=shares, latency_s=longest)


def _summed(codes: Ints, amounts: Floats, n_codes: int) -> tuple[Ints, Floats]:
    """The distinct codes in order, and the sum of the amounts of each; a table of all codes where that is no larger."""
    if n_codes <= len(codes):
        distinct: Ints = np.flatnonzero(np.bincount(codes, minlength=n_codes)).astype(np.int64)
        return distinct, np.bincount(codes, amounts, minlength=n_codes)[distinct].astype(np.float64)
    distinct, place = np.unique(codes, return_inverse=True)
    return distinct, np.bincount(place.ravel(), amounts, minlength=len(distinct)).astype(np.float64)


def joined(parts: list[Spread]) -> Spread:
    """The rows of all parts, in order."""
    counts = [np.diff(part.start) for part in parts]
    return Spread(
        start=starts(np.concatenate(counts)),
        links=np.concatenate([part.links for part in parts]),
        share=np.concatenate([part.share for part in parts]),
        latency_s=np.concatenate([part.latency_s for part in parts]),
    )


def starts(counts: Ints) -> Ints:
    """Where each of several consecutive lists begins, and where the last one ends.

    >>> starts(np.array([2, 0, 1])).tolist()
    [0, 2, 2, 3]
    """
    start = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=start[1:])
    return start


def first_of_each(row: Ints, ways: Ints) -> Bools:
    """Mark the first of the equal ways of every row.

    Ways are told apart by a 64-bit product with fixed odd numbers.

    Args:
        row: ``[n_ways]``.
        ways: ``[n_ways, n_columns]``.
    """
    factors = np.random.default_rng(0).integers(2**63, size=ways.shape[1] + 1, dtype=np.uint64) | np.uint64(1)
    signs = (np.column_stack([row, ways]).astype(np.uint64) * factors).sum(axis=1, dtype=np.uint64)
    marks = np.zeros(len(row), dtype=np.bool_)
    marks[np.unique(signs, return_index=True)[1]] = True
    return marks
