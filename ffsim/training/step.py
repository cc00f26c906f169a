"""One optimizer step of a pre-training workload: simulate it, bound it, open it up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ffsim.engine import Costs, Timeline, execute, execute_crew
from ffsim.model.parameters import train_flop_per_token
from ffsim.model.pieces import PieceKind
from ffsim.schedules import SCHEDULES
from ffsim.training.advice import cheapest_changes, written
from ffsim.training.blocks import SendSlot
from ffsim.training.bounds import Bounds, bounds, mean_times, per_operation
from ffsim.training.breakdown import Breakdown, break_down
from ffsim.training.costs import MAX_SEGMENTS, PHASES, Pieces, PieceTimes, cut, entry, time_pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.memory import RankMemory, does_not_fit, memory, overflow
from ffsim.training.obstacles import not_modelled
from ffsim.training.perturb import check_jitter, check_perturbations, paces, slow_down, slowest
from ffsim.training.plans import lay_out, shortened, try_layout, with_plan
from ffsim.training.program import Program, build_program
from ffsim.training.replicate import MAX_FULL_TASKS, check_full, replicate
from ffsim.training.slot_costs import slot_costs
from ffsim.training.stages import Stage, balance, make_stages
from ffsim.training.traffic import Messages, ranks_per_port, trace_messages

Floats = np.ndarray[Any, Any]
Depth = Literal["bounds", "folded", "full"]

__all__ = ["MAX_FULL_TASKS", "Depth", "Prepared", "StepResult", "prepare", "simulate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A workload laid out and costed, ready to be run.

    Attributes:
        times: compute seconds of the pieces.
        program: the task graph of one data-parallel replica.
        messages: the links of its messages.
        costs: what its slots cost.
        memory: of every pipeline rank.
    """

    inputs: Inputs
    layout: Layout
    stages: tuple[Stage, ...]
    pieces: Pieces
    times: PieceTimes
    program: Program
    messages: Messages
    costs: Costs
    memory: tuple[RankMemory, ...]

    @property
    def paces(self) -> Floats:
        """``[pp, members]`` how many times as long every GPU computes."""
        return paces(self.inputs, self.layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One optimizer step.

    Attributes:
        step_s: its time.
        bounds: closed forms around it.
        timeline: of every task of one replica, none at depth ``bounds``.
        breakdown: where the time goes, none at depth ``bounds``.
        n_events: events simulated.
    """

    prepared: Prepared
    depth: Depth
    step_s: float
    bounds: Bounds
    timeline: Timeline | None
    breakdown: Breakdown | None
    n_events: int

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        spec = self.prepared.inputs.spec
        return spec.global_batch * spec.sequence_length

    def flop_per_s_per_gpu(self, *, causal: bool = True) -> float:
        """Model FLOP/s per GPU by the convention of `train_flop_per_token`."""
        inputs = self.prepared.inputs
        per_token = train_flop_per_token(inputs.model, inputs.spec.sequence_length, causal=causal)
        return per_token * self.tokens_per_step / self.step_s / self.prepared.layout.gpus


def prepare(inputs: Inputs) -> Prepared:
    """Lay out a workload and cost it.

    Raises:
        ScenarioError: perturbations of GPUs that take no part.
        ModelDomainError: something in it is not modelled.
        InfeasiblePlan: it does not divide or does not fit in memory; with the reason and the nearest plan that does.
    """
    layout = lay_out(inputs, _fits)
    check_perturbations(inputs, layout)
    return _prepare(inputs, layout, must_fit=True)


def _prepare(inputs: Inputs, layout: Layout, *, must_fit: bool = False) -> Prepared:
    pieces = cut(inputs, layout.ep, layout.micro_batch)
    times = time_pieces(inputs, pieces)
    stages = _stages(inputs, layout, pieces, times)
    if SCHEDULES[layout.schedule.name].needs_times:  # what ranks hold depends on the order, and that on the costs
        program, _, costs = _program(inputs, layout, stages, pieces, times)
        layout = _timed(inputs, layout, program, costs)
    held = memory(inputs, layout, stages, pieces)
    if must_fit:  # before what may be a large graph is built
        _check_memory(inputs, held)
    program, messages, costs = _program(inputs, layout, stages, pieces, times)
    return Prepared(
        inputs=inputs,
        layout=layout,
        stages=stages,
        pieces=pieces,
        times=times,
        program=program,
        messages=messages,
        costs=costs,
        memory=held,
    )


def _check_memory(inputs: Inputs, held: tuple[RankMemory, ...]) -> None:
    fullest = overflow(inputs, held)
    if fullest is not None:
        changes = cheapest_changes(
            inputs, lambda plan: _fits(with_plan(inputs, plan)), lambda plan: _estimate_s(with_plan(inputs, plan))
        )
        raise does_not_fit(inputs, fullest, written(changes))


def _estimate_s(inputs: Inputs) -> float:
    """Closed-form step, whether it fits or not; a long pipeline's from two short ones, as it is linear in their length.

    Domain: micro-batches beyond twice the pipeline ranks cost alike, as the bubble formulas have it.
    """
    few, more = (shortened(inputs, rounds * inputs.spec.plan.pp) for rounds in (1, 2))
    if few is None or more is None:
        return _bounds_s(inputs)
    few_s, more_s = _bounds_s(few), _bounds_s(more)
    slope = (more_s - few_s) / (more.spec.global_batch - few.spec.global_batch)
    return few_s + slope * (inputs.spec.global_batch - few.spec.global_batch)


def _bounds_s(inputs: Inputs) -> float:
    return _around(_prepare(inputs, lay_out(inputs))).estimate


def _program(
    inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces, times: PieceTimes
) -> tuple[Program, Messages, Costs]:
    program = slow_down(build_program(inputs, layout, stages, pieces), slowest(inputs, layout))
    messages = trace_messages(inputs, layout, program.slots)
    return program, messages, slot_costs(inputs, layout, stages, pieces, times, program.slots, messages)


def _timed(inputs: Inputs, layout: Layout, program: Program, costs: Costs) -> Layout:
    """The layout with its schedule ordered for the mean times of this plan instead of equal ones."""
    idle = costs.idle_s.tolist()
    compute, host, traffic = per_operation(program, idle)
    spent = [max(a, b) + c for a, b, c in zip(compute, host, traffic, strict=True)]
    sends = [idle[number] for number, slot in enumerate(program.slots) if isinstance(slot, SendSlot)]
    schedule = SCHEDULES[layout.schedule.name].build(
        layout.pp,
        layout.n_micro_batches,
        chunks=inputs.spec.plan.vpp,
        times=mean_times([op.kind for _, op in program.ops], spent),
        message_s=sum(sends) / len(sends) if sends else 0.0,
    )
    return replace(layout, schedule=schedule)


def _stages(inputs: Inputs, layout: Layout, pieces: Pieces, times: PieceTimes) -> tuple[Stage, ...]:
    """The stages as the plan gives them, else the best balanced; among equals the first that fits in memory."""
    by_hand = inputs.spec.plan.layers_per_stage
    splits = (by_hand,) if by_hand else balance(inputs.model, layout.schedule, piece_seconds(pieces, times))
    replayed = inputs.spec.plan.recompute_layers
    options = [make_stages(inputs.model, layout.schedule, sizes, replayed) for sizes in splits]
    if len(options) == 1:
        return options[0]
    fitting = (stages for stages in options if overflow(inputs, memory(inputs, layout, stages, pieces)) is None)
    return next(fitting, options[0])


def piece_seconds(pieces: Pieces, times: PieceTimes) -> dict[PieceKind, float]:
    """Compute time of one forward and backward of every piece, beside communication."""
    return {
        kind: times.total([entry(kind, phase, at, "beside") for phase in PHASES for at in range(MAX_SEGMENTS)])
        for kind in pieces.lowered
    }


def _fits(inputs: Inputs) -> bool:
    """Whether a workload is modelled, divides and fits.

    What does not fit with few micro-batches does not with more; what does still will where the schedule's closed form
    of the activations it holds is the same.
    """
    plan = inputs.spec.plan
    if any(not_modelled(inputs)):
        return False
    few = shortened(inputs, 2 * plan.pp)
    if few is None:
        return _fits_whole(inputs)
    family, n = SCHEDULES[plan.schedule], 2 * plan.pp
    n_all = n * inputs.spec.global_batch // few.spec.global_batch
    forms = [family.activations(plan.pp, length, plan.vpp) for length in (n, n_all)]
    if forms[0] is not None and forms[0] == forms[1]:
        return _fits_whole(few)
    return _fits_whole(few) and _fits_whole(inputs)


def _fits_whole(inputs: Inputs) -> bool:
    layout, _ = try_layout(inputs)
    if layout is None:
        return False
    pieces = cut(inputs, layout.ep, layout.micro_batch)
    stages = _stages(inputs, layout, pieces, time_pieces(inputs, pieces))
    return overflow(inputs, memory(inputs, layout, stages, pieces)) is None


def simulate(prepared: Prepared, depth: Depth = "folded", seed: int = 0) -> StepResult:
    """Run one step.

    Args:
        prepared: the workload.
        depth: ``bounds`` closed forms only; ``folded`` one data-parallel replica for all; ``full`` every rank, of which
            the timeline and breakdown are those of the replica that ends last, the first of several.
        seed: of what is drawn at random.

    Raises:
        ModelDomainError: ``full`` with more than `MAX_FULL_TASKS` tasks; jitter at any other depth.
    """
    inputs, layout, program = prepared.inputs, prepared.layout, prepared.program
    around = _around(prepared)
    if depth == "full":
        check_full(inputs, layout, program)
        graph, crew, costs = replicate(inputs, layout, program, prepared.messages, prepared.costs, seed)
        everybody = execute_crew(graph, crew, costs)
        last, step_s = everybody.last(), everybody.makespan_s
        timeline, slow = everybody.of(last), prepared.paces[:, last]
        around = around if costs.noise is None else _within(around, costs.noise)
    else:
        check_jitter(inputs)
        if depth == "bounds":
            return StepResult(
                prepared=prepared,
                depth=depth,
                step_s=around.estimate,
                bounds=around,
                timeline=None,
                breakdown=None,
                n_events=0,
            )
        timeline, slow = execute(program.graph, prepared.costs), slowest(inputs, layout)
        step_s = timeline.makespan_s
    return StepResult(
        prepared=prepared,
        depth=depth,
        step_s=step_s,
        bounds=around,
        timeline=timeline,
        breakdown=break_down(program, timeline, step_s, prepared.times, slow),
        n_events=timeline.n_events,
    )


def _around(prepared: Prepared) -> Bounds:
    per_port = ranks_per_port(prepared.inputs, prepared.layout)
    return bounds(prepared.program, prepared.layout, prepared.costs, per_port)


def _within(around: Bounds, noise: Floats) -> Bounds:
    """Bounds that hold for tasks that take so many times as long."""
    low, high = min(float(noise.min()), 1.0), max(float(noise.max()), 1.0)
    return replace(around, lower=around.lower * low, upper=around.upper * high)
