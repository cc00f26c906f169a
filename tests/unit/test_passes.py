"""Passes of ranks that share layers: what they compute in one go, what they exchange, how long it takes."""

from pathlib import Path

import numpy as np
import pytest

from ffsim.collectives import load_nccl, nccl_time
from ffsim.collectives.nccl_flows import links_of
from ffsim.schedules import SCHEDULES, Op
from ffsim.study import Scenario, run
from ffsim.study.scenario import load
from ffsim.training import bubble_parts, step_parts
from ffsim.training.blocks import GroupSlot, HostSlot, Making, SendSlot, make_block
from ffsim.training.costs import cut
from ffsim.training.plans import lay_out
from ffsim.training.recipes import make_recipes
from ffsim.training.slot_costs import slot_costs
from ffsim.training.stages import Stage, balance
from ffsim.training.traffic import trace_messages

DENSE = str(Path(__file__).parents[1] / "data" / "tiny-1f1b.yaml")
SHARED = ("plan.tp=2", "plan.sequence_parallel=true")
LAYER = Stage(("dense",), (0, 1))


def simulated(*overrides, cluster="h800-2048"):
    return run(Scenario(cluster=cluster, workload=DENSE, overrides=overrides, ranges=False)).step


def block(op, *overrides, stage=LAYER, chunks=1, **how):
    inputs = load(Scenario(cluster="h800-2048", workload=DENSE, overrides=overrides))
    recipes = make_recipes(inputs, cut(inputs, 1, 1))
    return make_block(op, 0, (stage,), Making(recipes=recipes, tensor_chunks=chunks), **how)


def exchanges(made):
    return [slot.operation for slot in made.slots if isinstance(slot, GroupSlot)]


# --- structure --------------------------------------------------------------------------------------------------------


def test_without_exchanges_an_operation_is_one_task():
    program = simulated().prepared.program
    inside = program.op >= 0
    lanes = program.graph.lane[inside] >= 0
    assert lanes.sum() == len(program.ops) == 4 * 16 * 2
    assert set(program.category[inside][lanes].tolist()) == {"forward", "backward"}


def test_a_layer_is_gathered_and_scattered_twice_and_regathered_for_weight_gradients():
    assert exchanges(block(Op("F", 0, 0), *SHARED)) == ["all-gather", "reduce-scatter"] * 2
    backward = exchanges(block(Op("B", 0, 0), *SHARED))
    # the gathered inputs of both blocks are not kept: they come again, beside the gradients that cross
    assert sorted(backward) == ["all-gather"] * 4 + ["reduce-scatter"] * 2


def test_an_exchange_holds_up_what_follows_it_but_not_weight_gradients():
    made = block(Op("B", 0, 0), *SHARED)
    scattered = {
        task
        for task, slot in enumerate(made.slots)
        if isinstance(slot, GroupSlot) and slot.operation == "reduce-scatter"
    }
    following = {made.categories[second] for first, second in made.edges if first in scattered}
    assert following <= {"input_gradient", "tensor", "end"}


def test_overlapped_exchanges_hold_up_products_for_one_chunk():
    parts = [slot.part for slot in block(Op("F", 0, 0), *SHARED, chunks=4).slots if isinstance(slot, GroupSlot)]
    assert sorted(set(parts)) == [0.25, 0.75]
    assert sum(parts) == 4


def test_recomputed_layers_run_and_exchange_twice():
    """Whole layers again, their last sums left out where nothing needs them."""
    full = block(
        Op("B", 0, 0), *SHARED, "plan.recompute=full", stage=Stage(("dense",), (0, 1), replayed=frozenset([0]))
    )
    kept = block(Op("B", 0, 0), *SHARED, "plan.recompute=full")
    assert len(exchanges(full)) > len(exchanges(kept))


def test_pieces_told_apart_begin_and_end_in_order():
    made = block(Op("F", 0, 0), *SHARED, stage=Stage(("embedding", "dense", "dense"), (0, 2)), split=True)
    begins, ends = made.begins["F"], made.ends["F"]
    assert sorted(begins) == [0, 1, 2]
    assert begins[0] <= ends[0] < begins[1] < ends[1] < begins[2] < ends[2]


# --- cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "tp", "library"),
    [("h800-2048", 8, "nccl-nvlink4"), ("h800-2048", 16, "nccl-nvlink4"), ("dgx-a100-10000", 4, "nccl-nvlink3")],
)
@pytest.mark.parametrize("operation", ["all-reduce", "all-gather", "reduce-scatter"])
def test_an_exchange_takes_what_nccl_takes(cluster, tp, library, operation):
    overrides = (f"plan.tp={tp}", "plan.pp=1", f"plan.gpus={tp}", "global_batch=8", "model=llama-2-7b")
    inputs = load(Scenario(cluster=cluster, workload=DENSE, overrides=overrides))
    layout, slot = lay_out(inputs), GroupSlot(operation, "tensor", 0, 2.0**26)
    messages = trace_messages(inputs, layout, (slot,))
    costs = slot_costs(inputs, layout, (), None, None, (slot,), messages)
    links = links_of(inputs.cluster, inputs.topology, np.arange(-(-tp // 8)), np.arange(min(tp, 8)))
    expected = nccl_time(operation.replace("-", "_"), 2.0**26, tp, min(tp, 8), links, load_nccl(library))
    assert costs.duration_s[0] == pytest.approx(expected.launch_s + expected.latency_s)
    # or longer, where the cluster's NVLink gives less than the library would use
    assert expected.seconds * (1 - 1e-9) <= costs.idle_s[0] < expected.seconds * 1.5


def test_pairs_exchange_over_their_bridge():
    overrides = ("plan.tp=2", "plan.pp=1", "plan.gpus=16", "global_batch=8")
    times = []
    for order in ("tp-cp-dp-pp", "dp-tp-cp-pp"):  # neighbours on a bridge, or a node apart
        inputs = load(Scenario(cluster="fire-flyer-2", workload=DENSE, overrides=(*overrides, f"plan.order={order}")))
        layout, slot = lay_out(inputs), GroupSlot("all-reduce", "tensor", 0, 2.0**26)
        costs = slot_costs(inputs, layout, (), None, None, (slot,), trace_messages(inputs, layout, (slot,)))
        times.append(float(costs.idle_s[0]))
    assert times[0] == pytest.approx(2.0**26 / 240e9, rel=0.4)  # an all-reduce of two moves the buffer once
    assert times[1] > 10 * times[0]  # eight of them share one NIC


def test_tensor_ranks_send_a_part_each():
    whole, part = simulated(), simulated("plan.tp=2")
    send = SendSlot(0, 1)
    assert max(part.prepared.messages[send].amounts) == pytest.approx(max(whole.prepared.messages[send].amounts) / 2)
    gathers = part.prepared.program.category[part.prepared.program.op < 0] == "tensor"
    assert gathers.sum() == 2 * 3 * 32  # every message of 32 micro-batches over three borders, both ways
    sharded = simulated(*SHARED).prepared.program
    assert not (sharded.category[sharded.op < 0] == "tensor").any()


def test_a_step_is_no_shorter_than_its_host(tmp_path):
    slow = tmp_path / "slow.yaml"
    figure = "{value: 100 us, low: 0 us, high: 100 us, source: {ref: test, kind: assumed}}"
    slow.write_text(f"base: megatron-core\nhost_issue: {figure}\n")
    step = simulated(f"software={slow}")
    program, timeline = step.prepared.program, step.timeline
    rows = np.array([isinstance(slot, HostSlot) for slot in program.slots])[program.graph.slot] & (program.rank == 1)
    issuing = float((timeline.end_s - timeline.start_s)[rows].sum())
    assert step.prepared.costs.idle_s.max() < issuing <= step.step_s
    assert step.breakdown.exposed["host"].max() > 0.3 * step.step_s


# --- stages and schedules ---------------------------------------------------------------------------------------------


def test_stages_dealt_in_turn_are_even_and_spare_the_ends():
    model = load(Scenario(cluster="h800-2048", workload=DENSE)).model
    schedule = SCHEDULES["interleaved"].build(2, 4, chunks=3)
    seconds = {"embedding": 0.1, "dense": 1.0, "head": 1.5}
    (sizes,) = balance(model, schedule, seconds)
    assert sum(sizes) == model.layers == 8
    assert sizes == (1, 1, 2, 1, 2, 1)  # rank 0 has no head: both spare layers go to it


@pytest.mark.parametrize("name", ["zb-h1", "zb-v"])
def test_orders_that_depend_on_durations_are_made_for_the_plan_s(name):
    layout = simulated(f"plan.schedule={name}").prepared.layout
    family = SCHEDULES[name]
    assert sorted(map(len, layout.schedule.ops)) == sorted(map(len, family.build(4, layout.n_micro_batches).ops))


# --- where the bubble comes from --------------------------------------------------------------------------------------


def test_parts_sum_to_the_step_and_causes_to_the_bubble(v3, tiny, tiny_1f1b):
    for result in (v3, tiny, tiny_1f1b):
        parts, causes = step_parts(result.step), bubble_parts(result.step)
        assert sum(parts.values()) == pytest.approx(result.step.step_s)
        assert sum(causes.values()) == pytest.approx(parts["bubble_s"])


def test_most_of_what_v3_idles_beyond_the_formula_is_uneven_stages(v3):
    causes = bubble_parts(v3.step)
    beyond = sum(causes.values()) - causes["closed form at mean times"]
    assert causes["uneven stages"] > 0.5 * beyond > 0


def test_equal_stages_on_free_links_idle_by_the_formula():
    step = simulated("plan.schedule=gpipe", "plan.pp=2", "plan.gpus=2", "global_batch=8")
    causes = bubble_parts(step)
    assert causes["order of operations"] == pytest.approx(0.0, abs=1e-9)
    assert causes["messages that wait for each other"] == 0.0
