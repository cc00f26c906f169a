"""What the optimizer step of a rank takes, on the GPU or in host memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ffsim.compute import Conditions, time_operators
from ffsim.model.operators import Operators, Row
from ffsim.training.costs import Pieces
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.stages import Stage, stage_parameters


def optimizer_s(inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces, rank: int) -> float:
    """Time of one optimizer step on a rank: memory traffic over the states it holds and the gradients it clears.

    Offloaded states are updated by the CPUs: gradients go out over PCIe, the host's memory is read and written, and
    parameters come back, one after the other. Domain: the CPUs' arithmetic is as fast as their memory; all GPUs of a
    node do so at once and share it evenly.
    """
    p, held = inputs.precision, held_parameters(inputs, layout, stages, pieces, rank)
    updated = sum(dense / dense_shards + expert / expert_shards for dense, expert, dense_shards, expert_shards in held)
    states = updated * (p.gradient_bytes + 2 * (p.master_bytes + p.moment_bytes) + p.weight_bytes.value)
    gradients = updated if inputs.spec.plan.zero >= 2 else sum(dense + expert for dense, expert, _, _ in held)
    cleared = 2 * p.gradient_bytes * gradients
    if inputs.spec.plan.offload == "none":
        return _pass_s(inputs, states + cleared)
    host = _host_rates(inputs)
    copied = updated * (p.gradient_wire_bytes.value + p.weight_bytes.value)
    return _pass_s(inputs, cleared) + copied / host.copy_bytes_per_s + states / host.memory_bytes_per_s


def _pass_s(inputs: Inputs, moved: float) -> float:
    """Time of kernels that do nothing but move so many bytes."""
    update = Row(name="optimizer", phase="W", segment=0, family="elementwise", read_bytes=moved, kernels=3)
    times = time_operators(Operators.of([update]), inputs.cluster.gpu, inputs.profile, Conditions())
    return float(times.seconds[0])


class _HostRates(NamedTuple):
    """What each GPU gets of its host when all do the same."""

    copy_bytes_per_s: float
    memory_bytes_per_s: float


def _host_rates(inputs: Inputs) -> _HostRates:
    cluster, nodes = inputs.cluster, inputs.cluster.spec.nodes
    cpu, link = cluster.cpu, cluster.gpu.host_link.value
    assert cpu is not None
    assert cpu.memory_usable is not None
    memory = cpu.memory_usable.value * nodes.cpus / nodes.gpus
    sharing = max((len(port) for port in nodes.host.shared_root_ports), default=1) if nodes.host else 1
    if cpu.root_port is not None and sharing > 1:
        link = min(link, cpu.root_port.value / sharing)
    return _HostRates(min(link, memory), memory)


def offload_obstacles(inputs: Inputs) -> Iterator[tuple[str, str, str]]:
    """What keeps states from living in host memory: (key, what, fix)."""
    cluster = inputs.cluster
    if inputs.spec.plan.offload == "none" or (cluster.cpu is not None and cluster.cpu.memory_usable is not None):
        return
    what = f"{cluster.name} does not say how fast the memory of its hosts is"
    yield "offload", what, "name nodes.cpu with memory_usable in the cluster file, or use offload: none"


def held_parameters(
    inputs: Inputs, layout: Layout, stages: tuple[Stage, ...], pieces: Pieces, rank: int
) -> list[tuple[int, int, int, int]]:
    """Per stage of a rank: dense and expert parameters, and over how many ranks the optimizer shards each."""
    rows = []
    sharded = inputs.spec.plan.zero >= 1
    for stage in layout.schedule.placement[rank]:
        dense, expert = stage_parameters(stages[stage], pieces)
        holders = len(layout.holders(stage))
        shards, expert_shards = layout.dp * layout.cp * holders, layout.edp * holders
        rows.append((dense, expert, shards if sharded else 1, expert_shards if sharded else 1))
    return rows
