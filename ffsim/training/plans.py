"""From a plan to its layout, or to the reasons why there is none and the nearest plan that has one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from ffsim.errors import InfeasiblePlan, ModelDomainError, Problem
from ffsim.schedules import SCHEDULES, Schedule
from ffsim.training.host_reduce import host_obstacles
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout, place_ranks
from ffsim.training.neighbours import legal_plans
from ffsim.training.obstacles import Obstacle, not_modelled, obstacles
from ffsim.training.repair import describe_workload, repaired
from ffsim.training.spec import PlanSpec


def lay_out(inputs: Inputs, fits: Callable[[Inputs], bool] = lambda _: True) -> Layout:
    """Divide the GPUs by the plan.

    Args:
        inputs: the workload.
        fits: what a workload must also meet to be named as the nearest that runs.

    Raises:
        ModelDomainError: the plan asks for something that is not modelled.
        InfeasiblePlan: it does not divide; every reason, and the nearest plan that does.
    """
    unknown = [_problem(inputs, obstacle) for obstacle in not_modelled(inputs)]
    if unknown:
        raise ModelDomainError(unknown)
    layout, found = try_layout(inputs)
    if layout is not None:
        return layout
    problems = [_problem(inputs, obstacle) for obstacle in found]
    nearest = _nearest(inputs, fits)
    if nearest is not None:
        problems.append(Problem(what=f"nearest plan that runs: {describe_workload(nearest.spec, inputs.spec)}"))
    raise InfeasiblePlan(problems)


def _nearest(inputs: Inputs, fits: Callable[[Inputs], bool]) -> Inputs | None:
    """The plan with the smallest changes that runs; where many are needed, one found change by change."""

    def from_here(start: Inputs) -> Inputs | None:
        plan = next(legal_plans(start, lambda plan: fits(with_plan(start, plan))), None)
        return None if plan is None else with_plan(start, plan)

    nearest = from_here(inputs)
    if nearest is not None:
        return nearest
    start = repaired(inputs)
    return None if start is None else from_here(start)


def with_plan(inputs: Inputs, plan: PlanSpec) -> Inputs:
    """The same workload with another plan."""
    return replace(inputs, spec=replace(inputs.spec, plan=plan))


def shortened(inputs: Inputs, n_micro_batches: int) -> Inputs | None:
    """The same plan with a smaller batch of so many micro-batches; None where that is no shorter, or not legal."""
    spec, plan = inputs.spec, inputs.spec.plan
    if any(obstacles(inputs, plan)):
        return None
    each = (plan.gpus or inputs.cluster.n_gpus) // (plan.pp * plan.tp * plan.cp) * plan.micro_batch
    shorter = replace(inputs, spec=replace(spec, global_batch=each * n_micro_batches))
    if 2 * shorter.spec.global_batch > spec.global_batch or any(obstacles(shorter, plan)):
        return None
    return shorter


def try_layout(inputs: Inputs) -> tuple[Layout | None, list[Obstacle]]:
    """The layout of a plan, or everything that stands in its way."""
    found = list(obstacles(inputs, inputs.spec.plan))
    if found:
        return None, found
    layout = _layout(inputs, inputs.spec.plan)
    found = list(host_obstacles(inputs, layout))
    return (None, found) if found else (layout, [])


@lru_cache(maxsize=16)
def _schedule(name: str, n_ranks: int, n_micro_batches: int, chunks: int) -> Schedule:
    """A schedule for unit times, which many plans that are tried share."""
    return SCHEDULES[name].build(n_ranks, n_micro_batches, chunks=chunks)


def _layout(inputs: Inputs, plan: PlanSpec) -> Layout:
    gpus = plan.gpus or inputs.cluster.n_gpus
    dp = gpus // (plan.pp * plan.tp * plan.cp)
    n = inputs.spec.global_batch // (dp * plan.micro_batch)
    schedule = _schedule(plan.schedule, plan.pp, n, plan.vpp)
    sizes = {"tp": plan.tp, "cp": plan.cp, "dp": dp, "pp": plan.pp}
    return Layout(
        gpus=gpus,
        pp=plan.pp,
        tp=plan.tp,
        cp=plan.cp,
        dp=dp,
        ep=plan.ep,
        etp=plan.etp,
        order=tuple(name for name in plan.order.split("-") if name != "pp"),
        placement=place_ranks(plan.order, sizes) + plan.first_node * inputs.cluster.gpus_per_node,
        micro_batch=plan.micro_batch,
        n_micro_batches=n,
        schedule=schedule,
        copies=2 if schedule.both_ends else 1,
    )


def _problem(inputs: Inputs, obstacle: Obstacle) -> Problem:
    key, what, fix = obstacle
    path = ("plan", key) if hasattr(inputs.spec.plan, key) else (key,)
    return Problem(where=str(inputs.document.place(path)), path=".".join(path), what=what, fix=fix)
