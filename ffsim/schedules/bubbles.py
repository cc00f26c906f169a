"""Closed forms of pipeline bubbles.

Source: the table of github deepseek-ai/DualPipe (README) and arXiv 2412.19437 Table 2.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OpTimes:
    """Durations of pipeline operations on one chunk, in any one unit.

    Attributes:
        forward, input_gradient, weight_gradient: F, Bi and W.
        backward: full backward B; Bi + W by default.
        pair: one overlapped forward and backward, FB; F + B by default (no gain from overlap).
    """

    forward: float
    input_gradient: float
    weight_gradient: float
    backward: float | None = None
    pair: float | None = None

    @property
    def b(self) -> float:
        """Full backward."""
        return self.input_gradient + self.weight_gradient if self.backward is None else self.backward

    @property
    def fb(self) -> float:
        """Overlapped pair."""
        return self.forward + self.b if self.pair is None else self.pair


def one_f_one_b_bubble(n_ranks: int, t: OpTimes) -> float:
    """Idle time per rank under 1F1B: ``(PP - 1)(F + B)``. Exact for equal stages and free messages."""
    return (n_ranks - 1) * (t.forward + t.b)


def zb1p_bubble(n_ranks: int, t: OpTimes) -> float:
    """Idle time per rank under ZB1P: ``(PP - 1)(F + B - 2W)``."""
    return (n_ranks - 1) * (t.forward + t.b - 2 * t.weight_gradient)


def dualpipe_bubble(n_ranks: int, t: OpTimes) -> float:
    """Largest idle time of a rank under DualPipe: ``(PP/2 - 1)(FB + B - 3W)``.

    Domain: exact only where F = Bi and W <= Bi. With F > Bi or W > Bi the replayed schedule idles longer than this;
    with Bi > F shorter, by up to (Bi - F) times a few. It does not depend on the number of micro-batches.
    """
    return (n_ranks / 2 - 1) * (t.fb + t.b - 3 * t.weight_gradient)


def dualpipe_v_bubble(n_ranks: int, t: OpTimes) -> float:
    """The same for DualPipeV, which has twice as many stages as ranks: ``(PP/2 - 1)(FB + B - 3W)`` with PP stages."""
    return (n_ranks - 1) * (t.fb + t.b - 3 * t.weight_gradient)
