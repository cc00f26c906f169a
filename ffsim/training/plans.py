"""From a plan to its layout: what divides, what does not, and which plan nearby does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import log2
from typing import Literal

from ffsim.errors import InfeasiblePlan, ModelDomainError, Problem
from ffsim.model.lowering import Recompute
from ffsim.model.split import check_split
from ffsim.schedules import SCHEDULES
from ffsim.training.host_reduce import host_obstacles
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout, place_ranks
from ffsim.training.spec import PlanSpec

SHARDED: Literal[1] = 1  # ZeRO-1
RECOMPUTABLE: tuple[Recompute, ...] = ("norm", "mla_up", "swiglu")
MAX_PASSES = 100_000  # micro-batches times pipeline ranks: some 4 million tasks and 3 GB


def lay_out(inputs: Inputs, fits: Callable[[PlanSpec], bool] = lambda _: True) -> Layout:
    """Divide the GPUs by the plan.

    Args:
        inputs: the workload.
        fits: what a plan must also meet to be named as the nearest that runs.

    Raises:
        ModelDomainError: the plan asks for something that is not modelled.
        InfeasiblePlan: it does not divide; every reason, and the nearest plan that does.
    """
    plan = inputs.spec.plan
    unknown = [_problem(inputs, key, what, fix) for key, what, fix in _not_modelled(inputs)]
    if unknown:
        raise ModelDomainError(unknown)
    problems = [_problem(inputs, key, what, fix) for key, what, fix in _obstacles(inputs, plan)]
    if not problems:
        layout = _layout(inputs, plan)
        unreduced = [_problem(inputs, key, what, fix) for key, what, fix in host_obstacles(inputs, layout)]
        if unreduced:
            raise InfeasiblePlan(unreduced)
        return layout
    nearest = next(legal_plans(inputs, fits), None)
    if nearest is not None:
        problems.append(Problem(what=f"nearest plan that runs: {describe(nearest, plan)}"))
    raise InfeasiblePlan(problems)


def _layout(inputs: Inputs, plan: PlanSpec) -> Layout:
    gpus = plan.gpus or inputs.cluster.n_gpus
    dp = gpus // (plan.pp * plan.tp * plan.cp)
    n = inputs.spec.global_batch // (dp * plan.micro_batch)
    schedule = SCHEDULES[plan.schedule].build(plan.pp, n, chunks=plan.vpp)
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


def _problem(inputs: Inputs, key: str, what: str, fix: str) -> Problem:
    path = ("plan", key) if hasattr(inputs.spec.plan, key) else (key,)
    return Problem(where=str(inputs.document.place(path)), path=".".join(path), what=what, fix=fix)


def _not_modelled(inputs: Inputs) -> Iterator[tuple[str, str, str]]:
    """Everything about a workload that ffsim has no model for: (key, what, fix)."""
    plan, gpu = inputs.spec.plan, inputs.cluster.gpu
    if plan.zero > SHARDED and SCHEDULES[plan.schedule].both_ends:
        what = f"{plan.schedule} holds every stage on two pipeline ranks, which do not pass it at the same time"
        yield "zero", f"{what}: they cannot share gradients or parameters", "use zero: 1"
    if inputs.sms_for_communication >= gpu.sms.value:
        yield (
            "sms_for_communication",
            f"{inputs.sms_for_communication} SMs for communication leave none of {gpu.sms.value} for computing",
            f"use fewer than {gpu.sms.value}",
        )
    if plan.ep > 1 and inputs.sms_for_communication == 0:
        yield (
            "sms_for_communication",
            "expert kernels that take no SMs are not modelled",
            f"use {inputs.kernels.sms.value}, as {inputs.kernels.title} take, or leave it out",
        )
    formats = {inputs.precision.gemm, inputs.precision.weight_gradient}
    if missing := sorted(formats - set(inputs.profile.formats("gemm"))):
        known = ", ".join(inputs.profile.formats("gemm"))
        yield "precision", f"{gpu.title} has no {', '.join(missing)} products", f"use a precision within {known}"


def _obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[tuple[str, str, str]]:
    """Everything that keeps a plan from dividing: (key, what, fix)."""
    model, spec = inputs.model, inputs.spec
    if spec.sequence_length > model.max_context:
        yield (
            "sequence_length",
            f"{spec.sequence_length:,} tokens are more than the {model.max_context:,} that {model.title} takes",
            "use shorter sequences",
        )
    problems = list(_gpu_obstacles(inputs, plan))
    yield from problems
    if not problems:
        yield from check_split(
            model,
            tensor_parallel=plan.tp,
            context_parallel=plan.cp,
            expert_tensor_parallel=plan.etp,
            sequence_parallel=plan.sequence_parallel,
            sequence_length=spec.sequence_length,
            context_exchange=plan.context_exchange,
        )
        yield from _expert_obstacles(inputs, plan)
        yield from _batch_obstacles(inputs, plan)


def _gpu_obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[tuple[str, str, str]]:
    """GPUs that there are not, and ranks that do not divide them."""
    cluster = inputs.cluster
    gpus = plan.gpus or cluster.n_gpus
    if gpus > cluster.n_gpus:
        yield "gpus", f"{gpus:,} GPUs wanted, the cluster has {cluster.n_gpus:,}", "use fewer or a larger cluster"
        return
    if plan.first_node * cluster.gpus_per_node + gpus > cluster.n_gpus:
        yield (
            "first_node",
            f"{gpus:,} GPUs from node {plan.first_node:,} on: the cluster has {cluster.n_gpus:,} GPUs",
            f"begin at node {(cluster.n_gpus - gpus) // cluster.gpus_per_node:,} at most, or use fewer GPUs",
        )
    if gpus % plan.pp:
        yield "pp", f"{plan.pp} pipeline ranks do not divide {gpus:,} GPUs", "use a divisor"
    elif (gpus // plan.pp) % (plan.tp * plan.cp):
        yield (
            "tp" if plan.cp == 1 else "cp",
            f"{plan.tp} tensor- x {plan.cp} context-parallel ranks do not divide the {gpus // plan.pp:,} GPUs",
            "use divisors",
        )


def _batch_obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[tuple[str, str, str]]:
    """A batch that does not divide into replicas and micro-batches, or that the schedule cannot take."""
    batch = inputs.spec.global_batch
    dp = (plan.gpus or inputs.cluster.n_gpus) // (plan.pp * plan.tp * plan.cp)
    per_step = dp * plan.micro_batch
    if batch % per_step:
        yield (
            "global_batch",
            f"{batch:,} sequences do not divide into {dp} replicas x {plan.micro_batch} a micro-batch",
            f"use a multiple of {per_step:,}",
        )
        return
    n_micro_batches = batch // per_step
    if plan.pp * n_micro_batches > MAX_PASSES:
        yield (
            "global_batch",
            f"{n_micro_batches:,} micro-batches through {plan.pp} ranks are more than ffsim simulates ({MAX_PASSES:,})",
            "use larger micro-batches, more GPUs or a smaller batch",
        )
        return
    family = SCHEDULES[plan.schedule]
    try:
        family.check(plan.pp, n_micro_batches, plan.vpp)
    except ValueError as error:
        yield "schedule", str(error), "change pp, the global batch or the schedule"
        return
    yield from _stage_obstacles(inputs, plan, plan.pp * family.stages(plan.vpp))


def _stage_obstacles(inputs: Inputs, plan: PlanSpec, n_stages: int) -> Iterator[tuple[str, str, str]]:
    layers, by_hand = inputs.model.layers, plan.layers_per_stage
    if n_stages > layers:
        yield "pp", f"{n_stages} stages are more than the {layers} layers of {inputs.model.title}", "use fewer"
    if by_hand is None:
        return
    if len(by_hand) != n_stages or sum(by_hand) != layers:
        yield (
            "layers_per_stage",
            f"got {len(by_hand)} stages with {sum(by_hand)} layers, need {n_stages} stages with {layers} layers",
            "list the layers of every stage, first to last",
        )
    elif 0 in by_hand[1:-1]:
        yield (
            "layers_per_stage",
            f"stage {1 + by_hand[1:-1].index(0)} has no layers",
            "give every stage a layer; the first may hold the embedding alone, the last the head",
        )


def _expert_obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[tuple[str, str, str]]:
    members = (plan.gpus or inputs.cluster.n_gpus) // plan.pp
    moe, per_node, copies = inputs.model.moe, inputs.cluster.gpus_per_node, inputs.redundant_experts
    if copies and (plan.ep == 1 or copies % plan.ep):
        yield (
            "expert_loads",
            f"{copies} redundant experts do not spread over {plan.ep} ranks",
            "use a multiple of ep > 1",
        )
    if plan.ep == plan.etp == 1:
        return
    if moe is None:
        for key in ("ep", "etp"):
            if getattr(plan, key) > 1:
                what = f"{inputs.model.title} has no experts to spread over {getattr(plan, key)} ranks"
                yield key, what, f"use {key}: 1"
        return
    if plan.ep > moe.routed:
        yield "ep", f"{plan.ep} ranks for {moe.routed} routed experts", f"use at most {moe.routed}"
    elif moe.routed % plan.ep:
        yield "ep", f"{moe.routed} routed experts do not divide over {plan.ep} ranks", "use a divisor"
    if members % (plan.ep * plan.etp):
        yield (
            "ep",
            f"expert groups of {plan.ep * plan.etp} do not divide the {members} ranks of a pipeline rank",
            "use a divisor",
        )
    elif plan.ep % per_node and per_node % plan.ep:
        yield "ep", f"expert groups of {plan.ep} do not fill nodes of {per_node} GPUs", f"use a multiple of {per_node}"


def legal_plans(inputs: Inputs, fits: Callable[[PlanSpec], bool] = lambda _: True) -> Iterator[PlanSpec]:
    """Plans that divide, nearest to the wanted one first.

    Pipeline, expert groups and micro-batch may change; optimizer states may be sharded and more outputs recomputed.

    Args:
        inputs: the workload.
        fits: a further condition, asked in order of distance.
    """
    wanted = inputs.spec.plan
    gpus = min(wanted.gpus or inputs.cluster.n_gpus, inputs.cluster.n_gpus)
    experts = inputs.model.moe.routed if inputs.model.moe else 1
    plans = [
        replace(
            wanted,
            gpus=gpus,
            pp=pp,
            ep=ep,
            micro_batch=micro_batch,
            zero=zero,
            recompute=recompute,
            layers_per_stage=None,
        )
        for pp in _divisors(gpus)
        for ep in _divisors(experts)
        for micro_batch in (1, 2, 4, 8)
        for zero in dict.fromkeys((wanted.zero, SHARDED))
        for recompute in dict.fromkeys((wanted.recompute, RECOMPUTABLE))
    ]
    for plan in sorted(plans, key=lambda plan: _distance(plan, wanted)):
        if not list(_obstacles(inputs, plan)) and fits(plan):
            yield plan


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _distance(plan: PlanSpec, wanted: PlanSpec) -> tuple[float, int, int, int]:
    steps = (
        abs(log2(plan.pp / wanted.pp))
        + abs(log2(plan.ep / wanted.ep))
        + abs(log2(plan.micro_batch / wanted.micro_batch))
        + (plan.zero != wanted.zero) / 2  # these two keep the groups as they are
        + (plan.recompute != wanted.recompute) / 2
    )
    return (steps, -plan.pp, -plan.ep, plan.micro_batch)


def describe(plan: PlanSpec, wanted: PlanSpec) -> str:
    """What a plan changes, as ``--set`` options."""
    names = ["pp", "ep", "micro_batch", "zero"] + (["gpus"] if wanted.gpus is not None else [])
    changed = [(name, str(getattr(plan, name))) for name in names if getattr(plan, name) != getattr(wanted, name)]
    if plan.recompute != wanted.recompute:
        changed.append(("recompute", f"[{','.join(plan.recomputed)}]"))
    return " ".join(f"--set plan.{name}={value}" for name, value in changed) or "the plan as given, stages balanced"
