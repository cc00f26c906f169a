"""What stands in the way of a plan: ranks that do not divide, what a schedule cannot take, what is not modelled."""

from __future__ import annotations

from collections.abc import Iterator

from ffsim.model.spec import CnnSpec
from ffsim.model.split import check_split
from ffsim.schedules import SCHEDULES
from ffsim.schedules.family import nearest
from ffsim.training.inputs import Inputs
from ffsim.training.optimizer import offload_obstacles
from ffsim.training.spec import PlanSpec

Obstacle = tuple[str, str, str]
"""The key of the plan (or of the workload), what is wrong with it, and how to put it right."""

MAX_PASSES = 100_000  # micro-batches times pipeline ranks: some 4 million tasks and 3 GB


def not_modelled(inputs: Inputs) -> Iterator[Obstacle]:
    """Everything about a workload that ffsim has no model for: (key, what, fix)."""
    plan, gpu = inputs.spec.plan, inputs.cluster.gpu
    yield from offload_obstacles(inputs)
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


def obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[Obstacle]:
    """Everything that keeps a plan from dividing: (key, what, fix)."""
    yield from _length_obstacles(inputs)
    problems = list(_gpu_obstacles(inputs, plan))
    yield from problems
    yield from _model_obstacles(inputs, plan)
    if not problems:
        yield from _expert_obstacles(inputs, plan)
        yield from _batch_obstacles(inputs, plan)


def first_obstacles(inputs: Inputs) -> tuple[int, int]:
    """How many checks a workload passes, each of which may hide what the next ones find, and what the first one finds.

    Model and sequence, then GPUs, experts, batch, schedule and stages; (6, 0) where nothing is in the way.
    """
    plan = inputs.spec.plan
    found = [*_length_obstacles(inputs), *_model_obstacles(inputs, plan)]
    if found:
        return 0, len(found)
    for level, check in enumerate((_gpu_obstacles, _expert_obstacles, _batch_obstacles), start=1):
        if found := list(check(inputs, plan)):
            behind = {"global_batch": 0, "schedule": 1}.get(found[0][0], 2) if check is _batch_obstacles else 0
            return level + behind, len(found)
    return 6, 0


def _length_obstacles(inputs: Inputs) -> Iterator[Obstacle]:
    model, length = inputs.model, inputs.spec.sequence_length
    if length > model.max_context:
        yield (
            "sequence_length",
            f"{length:,} tokens are more than the {model.max_context:,} that {model.title} takes",
            "use shorter sequences",
        )


def _model_obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[Obstacle]:
    yield from _split_obstacles(inputs, plan)
    yield from _state_obstacles(inputs, plan)


def _split_obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[Obstacle]:
    """What ranks cannot share of the model and its sequences."""
    if isinstance(inputs.model, CnnSpec):
        yield from _image_obstacles(inputs.model, plan)
        return
    yield from check_split(
        inputs.model,
        tensor_parallel=plan.tp,
        context_parallel=plan.cp,
        expert_tensor_parallel=plan.etp,
        sequence_parallel=plan.sequence_parallel,
        sequence_length=inputs.spec.sequence_length,
        context_exchange=plan.context_exchange,
    )
    if inputs.software.attention == "unfused" and plan.cp > 1 and plan.context_exchange == "ring":
        yield "context_exchange", f"{inputs.software.title} has no attention for a ring", "use all-to-all"


def _image_obstacles(model: CnnSpec, plan: PlanSpec) -> Iterator[Obstacle]:
    """What a model of images has nothing to do with."""
    for key in ("tp", "cp", "etp"):
        if getattr(plan, key) > 1:
            yield key, f"{model.title} has neither heads nor sequences nor experts to divide", f"use {key}: 1"
    if plan.recomputed:
        yield "recompute", f"recomputing {model.title} is not modelled", "use recompute: none"


def _state_obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[Obstacle]:
    """Gradients and parameters that cannot be shared as wanted, layers that cannot be recomputed."""
    layers = plan.recompute_layers
    if layers is not None and "layer" not in plan.recomputed:
        yield (
            "recompute_layers",
            f"{layers} layers of a stage, but whole layers are not recomputed",
            "use recompute: full",
        )
    if layers is not None and not isinstance(inputs.model, CnnSpec) and layers > inputs.model.layers:
        yield "recompute_layers", f"{layers} are more than the {inputs.model.layers} layers of the model", "use fewer"
    if plan.zero >= 2 and SCHEDULES[plan.schedule].both_ends:
        shared = "gradients" if plan.zero == 2 else "parameters"
        what = f"{plan.schedule} holds every stage twice, and its holders do not meet at every pass to share {shared}"
        yield "zero", what, "use zero: 1 or another schedule"


def _gpu_obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[Obstacle]:
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


def _batch_obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[Obstacle]:
    """A batch that does not divide into replicas and micro-batches, or that the schedule cannot take."""
    batch = inputs.spec.global_batch
    dp = (plan.gpus or inputs.cluster.n_gpus) // (plan.pp * plan.tp * plan.cp)
    per_step = dp * plan.micro_batch
    if batch % per_step:
        yield (
            "global_batch",
            f"{batch:,} sequences do not divide into {dp} replicas x {plan.micro_batch} a micro-batch",
            f"use a multiple of {per_step:,}: {nearest(batch, per_step, at_least=per_step)}",
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
    if family.stages_per_rank is not None and plan.vpp not in {1, family.stages_per_rank}:
        what = f"{plan.schedule} has {family.stages_per_rank} stages a rank, got {plan.vpp}"
        yield "vpp", what, "use vpp: 1, or schedule: interleaved"
        return
    try:
        family.check(plan.pp, n_micro_batches, plan.vpp)
    except ValueError as error:
        yield "schedule", str(error), "change pp, the global batch or the schedule"
        return
    yield from _stage_obstacles(inputs, plan, plan.pp * family.stages(plan.vpp))


def _stage_obstacles(inputs: Inputs, plan: PlanSpec, n_stages: int) -> Iterator[Obstacle]:
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


def _expert_obstacles(inputs: Inputs, plan: PlanSpec) -> Iterator[Obstacle]:
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
        if plan.ep > 1:
            yield "ep", f"{inputs.model.title} has no experts to spread over {plan.ep} ranks", "use ep: 1"
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
