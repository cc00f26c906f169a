"""What a pre-training workload file says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import ffsim
from ffsim.config import (
    Bytes,
    Count,
    Exponent,
    Factor,
    Figure,
    GpuHours,
    Natural,
    PositiveBytes,
    Ratio,
    Share,
    Shelf,
    Time,
    Tokens,
    spec,
)
from ffsim.model.lowering import Recompute
from ffsim.schedules import SCHEDULES, Messages
from ffsim.topology import FaultSpec

ScheduleName = Literal[
    "gpipe",
    "1f1b",
    "interleaved",
    "1f1b-v",
    "zb-h1",
    "zb-1.5p",
    "zb-h2",
    "zb-v",
    "v-half",
    "v-min",
    "dualpipe",
    "dualpipev",
]
assert set(ScheduleName.__args__) == set(SCHEDULES)  # type: ignore[attr-defined]
DIMENSIONS = ("tp", "cp", "dp", "pp")


Zero = Literal[0, 1, 2, 3]
RecomputeName = Literal["none", "selective", "full"]
RECOMPUTE: dict[RecomputeName, tuple[Recompute, ...]] = {"none": (), "selective": ("attention",), "full": ("layer",)}
GradientReduction = Literal["nccl", "hfreduce", "hfreduce-nvlink"]


@spec
class Overlap:
    """What runs beside computing instead of between kernels; what is left out is as the software has it.

    Attributes:
        gradients: buckets of gradients are reduced while the last backward pass goes on.
        parameters: what ZeRO gathers is fetched ahead of its use.
        tensor: tensor-parallel traffic runs beside the products around it, in chunks.
    """

    gradients: bool | None = None
    parameters: bool | None = None
    tensor: bool | None = None


@spec
class PlanSpec:
    """How a model is laid out over GPUs.

    ``gpus = pp * tp * cp * dp``: the data-parallel ranks are what the others leave of the GPUs.

    Attributes:
        gpus: GPUs of the cluster to use; all by default.
        pp: pipeline-parallel ranks.
        vpp: stages of every pipeline rank under the interleaved schedule.
        tp: tensor-parallel ranks.
        sequence_parallel: tensor-parallel ranks share what is done token by token (norms, residuals, dropout).
        cp: context-parallel ranks, which share the tokens of a sequence.
        context_exchange: keys and values travel around a ring, or heads are traded for tokens and back.
        ep: ranks that the routed experts of a layer are spread over; ``tp * cp * dp`` is a multiple of ``ep * etp``.
        etp: tensor-parallel ranks of every routed expert.
        zero: what data-parallel ranks share: nothing (0), optimizer states (1), gradients (2), parameters (3, FSDP).
        schedule: pipeline schedule.
        micro_batch: sequences per micro-batch.
        recompute: outputs computed again in the backward pass instead of kept; ``none``, ``selective`` (core attention)
            and ``full`` (whole layers) are short for the usual lists.
        recompute_layers: layers of every stage that ``layer`` holds for; all by default.
        layers_per_stage: decoder layers of each stage, by hand; balanced by time if left out.
        order: which ranks are neighbours: those on consecutive GPUs first.
        first_node: node of the cluster where the job begins.
        messages: how pipeline messages hold up computing (see `ffsim.schedules.plan_messages`).
        sms_for_communication: SMs set aside for expert traffic, which computing does without; by default as many as the
            expert kernels take.
        offload: states that live and are updated in host memory.
        gradient_reduction: who reduces gradients.
        overlap: what runs beside computing.
        bucket: gradients that are reduced in one go where that is overlapped; by default as the software has it.
    """

    gpus: Count | None = None
    pp: Count = 1
    vpp: Count = 1
    tp: Count = 1
    sequence_parallel: bool = False
    cp: Count = 1
    context_exchange: Literal["ring", "all-to-all"] = "ring"
    ep: Count = 1
    etp: Count = 1
    zero: Zero = 1
    schedule: ScheduleName = "1f1b"
    micro_batch: Count = 1
    recompute: RecomputeName | tuple[Recompute, ...] = ()
    recompute_layers: Natural | None = None
    layers_per_stage: tuple[Natural, ...] | None = None
    order: str = "tp-cp-dp-pp"
    first_node: Natural = 0
    messages: Messages = "overlapped"
    sms_for_communication: Natural | None = None
    offload: Literal["none", "optimizer"] = "none"
    gradient_reduction: GradientReduction = "nccl"
    overlap: Overlap = Overlap()
    bucket: PositiveBytes | None = None

    def __post_init__(self) -> None:
        if sorted(self.order.split("-")) != sorted(DIMENSIONS):
            raise ValueError(f"order {self.order!r} does not name tp, cp, dp and pp once each: write tp-cp-dp-pp")

    @property
    def recomputed(self) -> tuple[Recompute, ...]:
        """The list that ``recompute`` stands for."""
        return RECOMPUTE[self.recompute] if isinstance(self.recompute, str) else self.recompute


@spec
class Assumptions:
    """Figures that nobody published; see the shipped ``assumptions.yaml`` for what each means."""

    kind: Literal["assumptions"]
    operator_time: Figure[Factor]
    sms_given_back: Figure[Share]
    launch_gap: Figure[Time]
    nccl_sms: Figure[Natural]
    router_kernels: Figure[Count]
    expert_load: Figure[Ratio]
    expert_wait: Figure[Share]
    framework_memory: Figure[Bytes]
    communication_buffers: Figure[Bytes]
    fragmentation: Figure[Share]


@spec
class ExpertLoadSpec:
    """How unevenly tokens go to experts, instead of ``assumptions.expert_load``: from a file or drawn.

    Attributes:
        file: CSV with the columns ``layer,expert,tokens``, near the workload file; see `read_expert_tokens`.
        zipf: instead of a file, every layer's loads fall as ``rank^-zipf``; 0 is perfect balance.
        seed: of the ranks drawn for ``zipf``.
        placement: experts over ranks in order, or as EPLB packs them.
        redundant_experts: copies of busy experts per layer that EPLB may add. A copy takes the memory of an expert and
            is reduced and updated like one; adding up the gradients of copies within a group costs nothing here.
    """

    file: str | None = None
    zipf: Exponent | None = None
    seed: Natural = 0
    placement: Literal["contiguous", "eplb"] = "contiguous"
    redundant_experts: Natural = 0

    def __post_init__(self) -> None:
        if (self.file is None) == (self.zipf is None):
            raise ValueError("loads come from either a file or a draw: give one of `file:` and `zipf:`")
        if self.redundant_experts and self.placement != "eplb":
            raise ValueError("only EPLB places redundant experts: add `placement: eplb`")


@spec
class SlowGpu:
    """A GPU that computes slower than its kind.

    Attributes:
        gpu: of the cluster, from 0.
        factor: how many times as long it computes.
    """

    gpu: Natural
    factor: Factor


@spec
class SlowRank:
    """A pipeline rank all of whose GPUs compute slower than their kind.

    Attributes:
        pipeline_rank: from 0.
        factor: how many times as long they compute.
    """

    pipeline_rank: Natural
    factor: Factor


@spec
class Jitter:
    """Chance in how long kernels take.

    Attributes:
        sigma: of the logarithm of every computing task's time, whose mean stays what it is.
    """

    sigma: Share


@spec
class Perturbations:
    """What is not as it should be on the day; several factors on one GPU multiply.

    Attributes:
        slow_links: cables that are slow or broken, as in ``faults:`` of a cluster file.
        jitter: chance, drawn with the seed of the run.
    """

    slow_gpus: tuple[SlowGpu, ...] = ()
    slow_ranks: tuple[SlowRank, ...] = ()
    slow_links: tuple[FaultSpec, ...] = ()
    jitter: Jitter | None = None


@spec
class OtherStage:
    """A part of the whole training that is not simulated but billed as published."""

    name: str
    gpu_time: Figure[GpuHours]


@spec
class PretrainSpec:
    """A pre-training workload.

    Attributes:
        model, precision, expert_kernels, software: names or paths.
        tokens: tokens of the whole run.
        sequence_length: tokens per sequence.
        global_batch: sequences per optimizer step.
        assumptions: overrides of the shipped assumptions.
        expert_loads: how unevenly tokens go to experts, where that is known.
        perturbations: slow GPUs and links, and jitter.
        other_stages: published parts of the training that are added to the bill.
    """

    kind: Literal["pretrain"]
    title: str
    model: str
    tokens: Tokens
    sequence_length: Count
    global_batch: Count
    precision: str = "bf16"
    expert_kernels: str = "deepep-normal"
    software: str = "hai-llm"
    plan: PlanSpec
    assumptions: Assumptions
    expert_loads: ExpertLoadSpec | None = None
    perturbations: Perturbations = Perturbations()
    other_stages: tuple[OtherStage, ...] = ()


def _installed() -> Path:
    """The shipped workload files: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(ffsim.__file__).parent
    inside = package / "workloads"
    return inside if inside.is_dir() else package.parent / "workloads"


SHELF = Shelf("workload", "workloads", _installed())
ASSUMPTIONS = Shelf("assumptions", "assumptions", Path(__file__).parent / "data")
