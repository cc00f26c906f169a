"""Gradients and parameters of data-parallel ranks: bytes, overlap, buckets, ZeRO, HFReduce and offloading."""

from pathlib import Path

import numpy as np
import pytest

from ffsim.collectives import link_class
from ffsim.collectives.catalogue import Request, build
from ffsim.config import Override
from ffsim.engine import simulate_flows
from ffsim.errors import InfeasiblePlan, ModelDomainError
from ffsim.topology import LinkKind, load_cluster
from ffsim.training.blocks import SyncSlot
from ffsim.training.buckets import Bucket, buckets, pieces_alone, whole
from ffsim.training.costs import Pieces
from ffsim.training.inputs import load_inputs, workload_document
from ffsim.training.nccl_costs import Nccl
from ffsim.training.stages import Stage
from ffsim.training.step import prepare, simulate
from ffsim.training.sync_costs import NCCL_OPERATIONS
from ffsim.training.traffic import LINKS_PER_RANK

DENSE = str(Path(__file__).parents[1] / "data" / "tiny-1f1b.yaml")
ONE_NODE = "plan={gpus: 8, pp: 1, zero: %s, micro_batch: 2, overlap: {gradients: %s, parameters: %s}}"
TWO_NODES = "plan={gpus: 16, pp: 1, zero: 0, gradient_reduction: %s, bucket: %s, overlap: {gradients: %s}}"
N_MICRO_BATCHES = 64 // (8 * 2)
OUT = link_class(LinkKind.SCALE_UP)


def prepared(cluster, *overrides):
    found = workload_document(DENSE, [Override.parse(text) for text in overrides])
    return prepare(load_inputs(load_cluster(cluster), found))


def parameters_sent(ready, operation):
    """By one rank over NVLink in a step, before what NCCL's protocol costs."""
    runs = np.bincount(ready.program.graph.slot, minlength=len(ready.program.slots))
    total = 0.0
    for number, slot in enumerate(ready.program.slots):
        if isinstance(slot, SyncSlot) and slot.operation == operation:
            message = ready.messages[slot]
            on = dict(zip(message.links, message.amounts, strict=True))
            total += runs[number] * on[slot.rank * LINKS_PER_RANK + OUT]
    return total


def held(ready):
    return sum(ready.pieces.dense_parameters[piece] for piece in ready.stages[0].pieces)


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlapped", ["false", "true"])
def test_data_parallelism_moves_every_gradient_twice(overlapped):
    """2 (n-1)/n of them, in one go or in buckets."""
    ready = prepared("h800-2048", ONE_NODE % (0, overlapped, "false"))
    assert parameters_sent(ready, "all-reduce") == pytest.approx(2 * 7 / 8 * held(ready))
    assert parameters_sent(ready, "gather") == 0


@pytest.mark.parametrize("overlapped", ["false", "true"])
def test_sharing_optimizer_states_scatters_gradients_and_gathers_parameters_once(overlapped):
    ready = prepared("h800-2048", ONE_NODE % (1, overlapped, overlapped))
    assert parameters_sent(ready, "reduce") == pytest.approx(7 / 8 * held(ready))
    assert parameters_sent(ready, "gather") == pytest.approx(7 / 8 * held(ready))


def test_sharing_gradients_reduces_them_after_every_micro_batch():
    ready = prepared("h800-2048", ONE_NODE % (2, "true", "true"))
    assert parameters_sent(ready, "reduce") == pytest.approx(N_MICRO_BATCHES * 7 / 8 * held(ready))
    assert parameters_sent(ready, "gather") == pytest.approx(7 / 8 * held(ready))


@pytest.mark.parametrize("ahead", ["false", "true"])
def test_sharing_parameters_moves_them_three_times_a_micro_batch(ahead):
    """3 (n-1)/n: gathered for the forward pass, again for the backward pass, gradients scattered."""
    ready = prepared("h800-2048", ONE_NODE % (3, "true", ahead))
    assert parameters_sent(ready, "gather") == pytest.approx(N_MICRO_BATCHES * 2 * 7 / 8 * held(ready))
    assert parameters_sent(ready, "reduce") == pytest.approx(N_MICRO_BATCHES * 7 / 8 * held(ready))


# --- buckets ----------------------------------------------------------------------------------------------------------


def test_buckets_fill_up_from_the_last_piece_to_the_first():
    pieces = Pieces(
        lowered={},
        dense_parameters={"embedding": 50, "dense": 10, "moe": 4, "head": 7},
        expert_parameters={"embedding": 0, "dense": 0, "moe": 30, "head": 0},
        replicated_parameters={},
    )
    stage = Stage(("embedding", "dense", "moe", "moe", "head", "head"), (0, 3))
    assert buckets(stage, pieces, 20) == [
        Bucket("experts", 30, 2, (3,)),
        Bucket("experts", 30, 2, (2,)),
        Bucket("dense", 7 + 4 + 4 + 10, 2, (4, 3, 2, 1)),
        Bucket("dense", 50, 3, (0,)),
    ]
    assert whole(stage, pieces) == [Bucket("dense", 75, 1, (4, 3, 2, 1, 0)), Bucket("experts", 60, 1, (4, 3, 2, 1, 0))]
    assert pieces_alone(stage, pieces)[2] == [Bucket("dense", 4, 1, (2,)), Bucket("experts", 30, 1, (2,))]


# --- overlap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["nccl", "hfreduce", "hfreduce-nvlink"])
def test_overlap_hides_some_of_the_reduction(reduction):
    after, beside = (
        simulate(prepared("fire-flyer-2", TWO_NODES % (reduction, "50 MB", overlapped)))
        for overlapped in ("false", "true")
    )
    assert beside.step_s < after.step_s
    exposed, busy = beside.breakdown.exposed["exposed/gradient_sync"], beside.breakdown.busy["sync"]
    assert exposed < busy
    assert after.breakdown.exposed["exposed/gradient_sync"] == pytest.approx(after.breakdown.busy["sync"])


@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize("overlapped", ["false", "true"])
def test_every_instant_has_one_cause_and_the_bounds_hold(zero, overlapped):
    result = simulate(prepared("h800-2048", ONE_NODE % (zero, overlapped, overlapped)))
    assert sum(result.breakdown.exposed.values()) == pytest.approx(np.full(1, result.step_s), rel=1e-9)
    assert result.bounds.lower <= result.step_s <= result.bounds.upper
    for exposed, busy in (("exposed/gradient_sync", "sync"), ("exposed/parameters", "parameters")):
        assert result.breakdown.exposed[exposed] <= result.breakdown.busy.get(busy, 0.0) + 1e-12


def test_shared_parameters_are_there_before_their_piece_and_fetched_one_piece_ahead():
    result = simulate(prepared("h800-2048", ONE_NODE % (3, "true", "true")))
    program, timeline = result.prepared.program, result.timeline
    gathers = np.flatnonzero(program.category == "parameters")
    computing = np.flatnonzero((program.op >= 0) & np.isin(program.category, ["forward", "backward", "input_gradient"]))
    n = len(result.prepared.stages[0].pieces)
    first, passes = computing[:n], gathers[:n]
    assert (timeline.start_s[first] >= timeline.end_s[passes]).all()
    assert (timeline.start_s[passes[2:]] >= timeline.end_s[first[:-2]]).all()
    assert (timeline.start_s[passes[1:]] < timeline.end_s[first[:-1]]).any()


def test_all_ranks_of_a_plan_agree_with_every_rank_spelled_out():
    for zero in (2, 3):
        ready = prepared("h800-2048", f"plan={{gpus: 16, pp: 2, zero: {zero}, overlap: {{gradients: true}}}}")
        assert simulate(ready, "full").step_s == pytest.approx(simulate(ready).step_s, rel=1e-9)


# --- who reduces ------------------------------------------------------------------------------------------------------


def test_a_reduction_alone_takes_what_nccl_takes():
    ready = prepared("h800-2048", "plan={gpus: 32, pp: 1, zero: 1}")
    for number, slot in enumerate(ready.program.slots):
        if isinstance(slot, SyncSlot):
            element = 4 if slot.operation == "reduce" else 2
            groups = ready.layout.groups("data", 0)
            time = Nccl(ready.inputs).time(NCCL_OPERATIONS[slot.operation], slot.parameters * element, groups)
            assert ready.costs.idle_s[number] == pytest.approx(time.seconds)


@pytest.mark.parametrize("nics", [8, 4, 2, 1])
def test_nodes_send_as_much_however_many_rings_share_their_nics(nics):
    """A ring for each tensor-parallel rank, with its part of the gradients: together they use all NICs of a node."""
    seconds = []
    for tp in (1, 2, 4, 8):
        overrides = ("model=megatron-1.7b", "global_batch=32", f"plan={{gpus: 32, pp: 1, tp: {tp}, zero: 0}}")
        found = workload_document(DENSE, [Override.parse(text) for text in overrides])
        ready = prepare(load_inputs(load_cluster("selene", [Override.parse(f"nodes.nics={nics}")]), found))
        slots = [number for number, slot in enumerate(ready.program.slots) if isinstance(slot, SyncSlot)]
        dp = 32 // tp
        seconds.append(
            float(sum(ready.costs.idle_s[slots])) * dp / (dp - 1)
        )  # of a ring's bytes (dp - 1) / dp are sent
    assert seconds == pytest.approx([seconds[0]] * 4, rel=0.1)


@pytest.mark.parametrize("way", ["hfreduce", "hfreduce-nvlink"])
def test_hfreduce_alone_takes_what_the_collective_takes(way):
    ready = prepared("fire-flyer-2", TWO_NODES % (way, "1 GB", "true"))
    (number,) = (number for number, slot in enumerate(ready.program.slots) if isinstance(slot, SyncSlot))
    size = ready.program.slots[number].parameters * 4.0
    cluster, topology = ready.inputs.cluster, ready.inputs.topology
    request = Request(op="all_reduce", algorithm=way, size_bytes=size, nodes=(0, 1), gpus_per_node=8)
    alone = simulate_flows(build(topology, cluster, request).flows, topology.bandwidth_bytes_per_s)
    assert ready.costs.idle_s[number] == pytest.approx(alone.makespan_s, rel=0.02)  # straight lines between sizes


@pytest.mark.parametrize(
    ("cluster", "plan", "reason"),
    [
        ("h800-2048", "{gpus: 16, pp: 1, gradient_reduction: hfreduce}", "NVSwitch"),
        ("fire-flyer-2", "{gpus: 16, pp: 4, gradient_reduction: hfreduce}", "all 8 GPUs of a node"),
        ("fire-flyer-2", "{gpus: 16, pp: 1, tp: 2, gradient_reduction: hfreduce}", "all 8 GPUs of a node"),
    ],
)
def test_hfreduce_is_refused_where_hosts_cannot_add_up(cluster, plan, reason):
    with pytest.raises(InfeasiblePlan, match=reason):
        prepared(cluster, f"plan={plan}")


def test_stages_held_twice_share_no_gradients():
    with pytest.raises(InfeasiblePlan, match="every stage twice"):
        prepared("h800-2048", "plan={gpus: 16, pp: 4, schedule: dualpipe, zero: 2}")


# --- offloading -------------------------------------------------------------------------------------------------------


def test_offloaded_states_cross_pcie_and_host_memory():
    """Gradients of 4 bytes out, weights of 2 back; 320 GB/s of a node's memory for eight GPUs; 30 bytes of states.

    Two GPUs share a root port of 37 GB/s.
    """
    here, away = (
        prepared("fire-flyer-2", f"plan={{gpus: 8, pp: 1, zero: 1, offload: {where}}}")
        for where in ("none", "optimizer")
    )
    own = held(here) / 8
    states = own * (4 + 2 * 12 + 2)
    times = [simulate(ready).breakdown.exposed["optimizer"][0] for ready in (here, away)]
    expected = own * 6 / 18.5e9 + states / 40e9
    assert times[1] - times[0] == pytest.approx(expected, rel=0.03)  # less what the GPU's memory took


def test_offloading_needs_a_described_host():
    with pytest.raises(ModelDomainError, match="memory of its hosts"):
        prepared("h800-2048", "plan.offload=optimizer")
