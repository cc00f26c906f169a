"""Durations as whole numbers, so that rounding of sums never decides an order."""

from __future__ import annotations

from fractions import Fraction
from math import lcm

from ffsim.schedules.bubbles import OpTimes

FINEST = 1_000_000  # steps of the longest duration
NOISE = 1e-12  # by which floating point blurs the ratio of two durations


def whole_times(times: OpTimes, message: float) -> tuple[int, int, int, int]:
    """Forward, input gradient, weight gradient and message as whole numbers in the same ratio.

    Exact where their ratios are those of small whole numbers; elsewhere to a millionth of the longest.

    >>> whole_times(OpTimes(forward=1.5, input_gradient=2, weight_gradient=1), 0.25)
    (6, 8, 4, 1)
    """
    given = (times.forward, times.input_gradient, times.weight_gradient, message)
    longest = max(given)
    if longest <= 0:
        return (0, 0, 0, 0)
    shares = [Fraction(value / longest).limit_denominator(FINEST // 100) for value in given]
    steps = lcm(*(share.denominator for share in shares))
    if steps > FINEST or any(abs(share - value / longest) > NOISE for share, value in zip(shares, given, strict=True)):
        steps, shares = FINEST, [Fraction(value / longest) for value in given]
    forward, backward, weight, sent = (round(share * steps) for share in shares)
    return forward, backward, weight, sent
