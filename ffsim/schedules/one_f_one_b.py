"""1F1B: warm up with forwards, then one forward and one backward in turn, then drain.

Source: Narayanan et al. 2019 (PipeDream-Flush), 2021 (arXiv 2104.04473).
"""

from __future__ import annotations

from ffsim.schedules.data import Family, Op, RankRecorder, Schedule


def one_f_one_b(n_ranks: int, n_micro_batches: int) -> Schedule:
    """The 1F1B schedule.

    Args:
        n_ranks: pipeline ranks, one stage each.
        n_micro_batches: micro-batches per step; with fewer than ranks the pipeline never fills.

    Raises:
        ValueError: either is less than 1.

    >>> [op.kind for op in one_f_one_b(2, 3).ops[0]]
    ['F', 'F', 'B', 'F', 'B', 'B']
    """
    _check(n_ranks, n_micro_batches)
    placement = tuple((rank,) for rank in range(n_ranks))
    ranks = [_rank(placement, rank, n_micro_batches) for rank in range(n_ranks)]
    return Schedule(
        name="1f1b",
        placement=placement,
        both_ends=False,
        n_micro_batches=n_micro_batches,
        ops=tuple(tuple(recorder.ops) for recorder in ranks),
        messages=tuple(tuple(recorder.groups) for recorder in ranks),
    )


def _check(n_ranks: int, n_micro_batches: int) -> None:
    if n_ranks < 1 or n_micro_batches < 1:
        raise ValueError(f"1f1b needs at least one rank and one micro-batch, got {n_ranks=}, {n_micro_batches=}")


ONE_F_ONE_B = Family(one_f_one_b, _check, stages_per_rank=1)


def _rank(placement: tuple[tuple[int, ...], ...], rank: int, n: int) -> RankRecorder:
    recorder = RankRecorder(placement, rank, both_ends=False)
    warm_up = min(len(placement) - rank - 1, n)

    def forward(chunk: int) -> None:
        recorder.message("r", "F", 0, chunk)
        recorder.add(Op("F", 0, chunk))
        recorder.message("s", "F", 0, chunk)

    def backward(chunk: int) -> None:
        recorder.message("r", "B", 0, chunk)
        recorder.add(Op("B", 0, chunk))
        recorder.message("s", "B", 0, chunk)

    for chunk in range(warm_up):
        forward(chunk)
    for chunk in range(n - warm_up):
        forward(warm_up + chunk)
        backward(chunk)
    for chunk in range(n - warm_up, n):
        backward(chunk)
    recorder.flush()
    return recorder
