"""A kind of schedule: how to make one, what it asks of a plan, and its closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ffsim.schedules.bubbles import OpTimes
from ffsim.schedules.data import Schedule

UNIT_TIMES = OpTimes(forward=1.0, input_gradient=1.0, weight_gradient=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a schedule is wanted for.

    Attributes:
        n_ranks: pipeline ranks.
        n_micro_batches: micro-batches per step.
        chunks: stages per rank.
        times: durations on one stage, in any unit.
        message_s: time of a message between ranks, in the same unit.
    """

    n_ranks: int
    n_micro_batches: int
    chunks: int
    times: OpTimes = UNIT_TIMES
    message_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of schedule.

    Attributes:
        name: as users write it.
        title: one line that tells it from the others.
        make: the schedule of a request that `check` lets pass.
        obstacle: why there is no schedule for a request and the nearest for which there is, or None.
        bubble_form: see `bubble`.
        activations_form: see `activations`.
        stages_per_rank: stages the model is cut into, per rank; None where that is the user's choice (``chunks``).
        both_ends: micro-batches enter at both ends, and every stage is held twice (see `Schedule`).
        splits_backward: whether it has input and weight gradients apart (Bi and W).
        needs_times: whether the order depends on durations; made for unit times where none are given.
    """

    name: str
    title: str
    make: Callable[[Request], Schedule]
    obstacle: Callable[[Request], str | None]
    bubble_form: Callable[[Request], float | None]
    activations_form: Callable[[Request], tuple[float, ...] | None]
    stages_per_rank: int | None = 1
    both_ends: bool = False
    splits_backward: bool = False
    needs_times: bool = False

    def build(
        self,
        n_ranks: int,
        n_micro_batches: int,
        *,
        chunks: int = 1,
        times: OpTimes | None = None,
        message_s: float = 0.0,
    ) -> Schedule:
        """The schedule of so many ranks and micro-batches.

        Args:
            n_ranks: pipeline ranks.
            n_micro_batches: micro-batches per step.
            chunks: stages per rank, where ``stages_per_rank`` leaves the choice.
            times: durations on one stage in any unit; only their ratios matter, and only where ``needs_times``.
            message_s: time of a message between ranks, in the unit of ``times``.

        Raises:
            ValueError: see `check`; or a duration is negative or not a number.
        """
        self.check(n_ranks, n_micro_batches, chunks)
        times = UNIT_TIMES if times is None else times
        given = {"F": times.forward, "Bi": times.input_gradient, "W": times.weight_gradient}
        given |= {"B": times.b, "FB": times.fb, "message": message_s}
        wrong = [f"{name} = {value:g}" for name, value in given.items() if not 0 <= value < float("inf")]
        if wrong:
            raise ValueError(f"{self.name} needs finite durations of at least 0, got {', '.join(wrong)}")
        return self.make(
            Request(n_ranks=n_ranks, n_micro_batches=n_micro_batches, chunks=chunks, times=times, message_s=message_s)
        )

    def check(self, n_ranks: int, n_micro_batches: int, chunks: int = 1) -> None:
        """Refuse what `build` would refuse, without building it.

        Raises:
            ValueError: what does not fit, and the nearest that does.
        """
        if n_ranks < 1 or n_micro_batches < 1 or chunks < 1:
            raise ValueError(
                f"{self.name} needs at least one rank, one micro-batch and one chunk, "
                f"got {n_ranks=}, {n_micro_batches=}, {chunks=}"
            )
        if self.stages_per_rank is not None and chunks not in {1, self.stages_per_rank}:
            raise ValueError(
                f"{self.name} has {self.stages_per_rank} stages per rank, got chunks={chunks}: leave chunks out, or "
                "use interleaved, which has as many as you choose"
            )
        request = Request(n_ranks=n_ranks, n_micro_batches=n_micro_batches, chunks=chunks)
        if (why := self.obstacle(request)) is not None:
            raise ValueError(why)

    def stages(self, chunks: int = 1) -> int:
        """Stages the model is cut into, per rank."""
        return chunks if self.stages_per_rank is None else self.stages_per_rank

    def bubble(self, n_ranks: int, n_micro_batches: int, chunks: int, times: OpTimes) -> float | None:
        """Closed form of the largest idle time of a rank from the first operation of all to the last.

        Stages are alike and messages free. None where there is no closed form; the docstrings in `bubbles` say where
        each is exact and by how much it is off elsewhere.
        """
        request = Request(n_ranks=n_ranks, n_micro_batches=n_micro_batches, chunks=chunks, times=times)
        return self.bubble_form(request)

    def activations(self, n_ranks: int, n_micro_batches: int, chunks: int) -> tuple[float, ...] | None:
        """Closed form of the most activations that each rank holds, or None where there is none.

        In units of one rank's share of one micro-batch, so 1/``chunks`` (1/2 where there are two stages) for each
        stage. Held from the forward to the full backward, or to the weight gradient where that is put off.
        """
        return self.activations_form(Request(n_ranks=n_ranks, n_micro_batches=n_micro_batches, chunks=chunks))


def no_obstacle(_request: Request) -> None:
    """Any number of ranks and micro-batches will do."""


def nearest(wanted: int, step: int, *, at_least: int = 1) -> str:
    """The multiples of a step on either side of a number, as advice.

    >>> nearest(9, 2), nearest(3, 4)
    ('8 or 10', '4')
    """
    below, above = wanted // step * step, -(-wanted // step) * step
    return f"{below} or {above}" if below >= at_least else str(max(above, at_least))
