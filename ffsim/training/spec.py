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
    Ratio,
    Share,
    Shelf,
    Time,
    Tokens,
    spec,
)
from ffsim.model.lowering import Recompute
from ffsim.schedules import SCHEDULES, Messages

ScheduleName = Literal["1f1b", "dualpipe", "dualpipev"]
assert set(ScheduleName.__args__) == set(SCHEDULES)  # type: ignore[attr-defined]


@spec
class PlanSpec:
    """How a model is laid out over GPUs.

    Attributes:
        pp: pipeline-parallel ranks.
        ep: ranks that the routed experts of a layer are spread over.
        tp: tensor-parallel ranks; only 1 is modelled yet.
        zero: optimizer states sharded over data-parallel ranks (1) or not (0).
        schedule: pipeline schedule.
        micro_batch: sequences per micro-batch.
        gpus: GPUs of the cluster to use; all by default.
        recompute: outputs computed again in the backward pass instead of kept.
        sms_for_communication: SMs set aside for expert traffic, which computing does without; by default as many as the
            expert kernels take.
        messages: how pipeline messages hold up computing (see `ffsim.schedules.plan_messages`).
        layers_per_stage: decoder layers of each stage, by hand; balanced by time if left out.
    """

    pp: Count
    ep: Count = 1
    tp: Count = 1
    zero: Literal[0, 1] = 1
    schedule: ScheduleName = "1f1b"
    micro_batch: Count = 1
    gpus: Count | None = None
    recompute: tuple[Recompute, ...] = ()
    sms_for_communication: Natural | None = None
    messages: Messages = "overlapped"
    layers_per_stage: tuple[Natural, ...] | None = None


@spec
class Assumptions:
    """Figures that nobody published; see the shipped ``assumptions.yaml`` for what each means."""

    kind: Literal["assumptions"]
    operator_time: Figure[Factor]
    sms_given_back: Figure[Share]
    launch_gap: Figure[Time]
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
class OtherStage:
    """A part of the whole training that is not simulated but billed as published."""

    name: str
    gpu_time: Figure[GpuHours]


@spec
class PretrainSpec:
    """A pre-training workload.

    Attributes:
        model, precision, expert_kernels: names or paths.
        tokens: tokens of the whole run.
        sequence_length: tokens per sequence.
        global_batch: sequences per optimizer step.
        assumptions: overrides of the shipped assumptions.
        expert_loads: how unevenly tokens go to experts, where that is known.
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
    plan: PlanSpec
    assumptions: Assumptions
    expert_loads: ExpertLoadSpec | None = None
    other_stages: tuple[OtherStage, ...] = ()


def _installed() -> Path:
    """The shipped workload files: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(ffsim.__file__).parent
    inside = package / "workloads"
    return inside if inside.is_dir() else package.parent / "workloads"


SHELF = Shelf("workload", "workloads", _installed())
ASSUMPTIONS = Shelf("assumptions", "assumptions", Path(__file__).parent / "data")
