"""Closed forms of pipeline bubbles: the largest idle time of a rank, from the first operation of a step to its last.

Stages are alike and messages free. Durations are those of one stage. Where a docstring says by how much a form is off,
that was measured against the replay of the schedule over 2 to 8 ranks, 1 to 5 micro-batches a rank and durations from
1 to 9; the tests sweep the same.

Source: the table of github deepseek-ai/DualPipe (README) and arXiv 2412.19437 Table 2; arXiv 2401.10241 for ZB.
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
    """Idle time per rank under GPipe, 1F1B and interleaved 1F1B: ``(PP - 1)(F + B)``.

    Exact for any durations and, but for interleaved (which needs full rounds), any number of micro-batches.
    """
    return (n_ranks - 1) * (t.forward + t.b)


def zb1p_bubble(n_ranks: int, t: OpTimes) -> float:
    """Idle time per rank under ZB1P as published: ``(PP - 1)(F + B - 2W)``.

    Exact for at least PP micro-batches and W no longer than F and Bi; `zb_bubble` is exact for any W.
    """
    return (n_ranks - 1) * (t.forward + t.b - 2 * t.weight_gradient)


def zb_bubble(n_ranks: int, n_micro_batches: int, limit: float, t: OpTimes) -> float:
    """Idle time under the zero-bubble heuristic: every micro-batch but the first fills some of it, as memory lets it.

    Exact for at least PP micro-batches and any durations, and for a single one. Between, the replay may idle for less,
    by up to 0.5 (F + Bi + W), where both F and W are longer than Bi.

    ZB-H2 (limit 2 PP) is published as ``(PP - 1)(F + Bi - 2W)`` (arXiv 2401.10241), counted from the first operation of
    each rank: what a step takes where no barrier stands between steps. From the start of the step the last rank always
    waits for the first forward.

    Args:
        n_ranks: PP, one stage each.
        n_micro_batches: per step.
        limit: most micro-batches that a rank holds, at least PP: PP for ZB-H1, 2 PP for ZB-H2.
        t: durations.
    """
    shortest = min(t.forward, t.input_gradient, t.weight_gradient)
    filled = (min(n_micro_batches, int(limit)) - 1) * shortest
    return max((n_ranks - 1) * t.forward, (n_ranks - 1) * (t.forward + t.input_gradient) - filled)


def zb_v_bubble(n_ranks: int, n_micro_batches: int, t: OpTimes) -> float | None:
    """Idle time under ZB-V: ``(PP - 1) max(F, Bi)``, or more where W is too short to fill the rest.

    Domain: at least 2 PP micro-batches; None below. Exact for F = Bi. For F < Bi off by at most 0.25 (F + Bi + W)
    either way, mostly exact; for F > Bi the replay idles longer, by up to ``(PP - 1)(F - Bi)``.
    """
    if n_micro_batches < 2 * n_ranks:
        return None
    longest = max(t.forward, t.input_gradient)
    shortest = min(t.forward, t.input_gradient, t.weight_gradient)
    short = (n_ranks - 1) * (longest + t.input_gradient) - (2 * n_ranks - 1) * shortest
    return max((n_ranks - 1) * longest, short)


def v_half_bubble(n_ranks: int, n_micro_batches: int, t: OpTimes) -> float | None:
    """Idle time under V-Half: ``(3 PP - 7) F`` for even numbers of ranks, ``(3 PP - 4) F`` for odd; F for two.

    Domain: F = Bi = W and at least two micro-batches per rank, there exact; None elsewhere. None on a single rank.
    """
    if n_ranks == 1:
        return 0.0
    if n_micro_batches < 2 * n_ranks or not t.forward == t.input_gradient == t.weight_gradient:
        return None
    return max(3 * n_ranks - (4 if n_ranks % 2 else 7), 1) * t.forward


def v_min_bubble(n_ranks: int, n_micro_batches: int, t: OpTimes) -> float | None:
    """Idle time under V-Min: ``(4 PP - 5) F``, or ``(4 PP - 7) F`` where 3 divides PP; none on a single rank.

    Domain: F = Bi = W and at least PP micro-batches, there exact; None elsewhere, where a rank may wait in every round.
    """
    if n_ranks == 1:
        return 0.0
    if n_micro_batches < n_ranks or not t.forward == t.input_gradient == t.weight_gradient:
        return None
    return (4 * n_ranks - (7 if n_ranks % 3 == 0 else 5)) * t.forward


def dualpipe_bubble(n_ranks: int, t: OpTimes) -> float:
    """Largest idle time of a rank under DualPipe: ``(PP/2 - 1)(FB + B - 3W)``.

    Domain: exact only where F = Bi and W <= Bi. With F > Bi or W > Bi the replayed schedule idles longer than this;
    with Bi > F shorter, by up to (Bi - F) times a few. It does not depend on the number of micro-batches.
    """
    return (n_ranks / 2 - 1) * (t.fb + t.b - 3 * t.weight_gradient)


def dualpipe_v_bubble(n_ranks: int, t: OpTimes) -> float:
    """The same for DualPipeV, which has twice as many stages as ranks: ``(PP/2 - 1)(FB + B - 3W)`` with PP stages."""
    return (n_ranks - 1) * (t.fb + t.b - 3 * t.weight_gradient)
