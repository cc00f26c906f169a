"""One optimizer step: stages, memory, breakdown, bounds, depths, doubt and limits."""

from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from ffsim.errors import ModelDomainError
from ffsim.schedules import SCHEDULES
from ffsim.study import Scenario, run
from ffsim.study.scenario import load
from ffsim.training.blocks import LANES, OptimizerSlot, SendSlot, SyncSlot
from ffsim.training.limits import limits
from ffsim.training.memory import least_bytes
from ffsim.training.plans import lay_out
from ffsim.training.stages import balance, make_stages

DATA = Path(__file__).parents[1] / "data"
MOE = str(DATA / "tiny-pretrain.yaml")
DENSE = str(DATA / "tiny-1f1b.yaml")


def simulated(workload, *overrides, depth="folded"):
    return run(Scenario(cluster="h800-2048", workload=workload, overrides=overrides, depth=depth, ranges=False))


# --- stages -----------------------------------------------------------------------------------------------------------


def test_v3_stages_hold_every_layer_once_with_the_shallowest_and_deepest_on_one_rank(v3):
    stages = v3.step.prepared.stages
    assert [stage.layers[1] - stage.layers[0] for stage in stages] == [4] + [4] * 14 + [1]
    assert stages[0].pieces == ("embedding", "dense", "dense", "dense", "moe")
    assert stages[-1].pieces == ("moe", "head", "mtp", "head")
    assert v3.step.prepared.layout.schedule.placement[0] == (0, 15)


@pytest.mark.parametrize("name", ["1f1b", "dualpipe", "dualpipev"])
def test_balance_finds_the_best_split(tiny, name):
    """Against every possible split of a small model."""
    model = tiny.step.prepared.inputs.model
    seconds = {"embedding": 0.3, "dense": 0.7, "moe": 1.0, "mtp": 1.1, "head": 0.9}
    schedule = SCHEDULES[name].build(4 if name != "dualpipev" else 2, 8)

    def busiest(sizes):
        stages = make_stages(model, schedule, sizes)
        each = [sum(seconds[piece] for piece in stage.pieces) for stage in stages]
        return max(sum(each[stage] for stage in modules) for modules in schedule.placement)

    splits = [
        sizes for sizes in product(range(model.layers + 1), repeat=4) if sum(sizes) == model.layers and all(sizes[1:-1])
    ]
    chosen, *_ = balance(model, schedule, seconds)
    assert sum(chosen) == model.layers
    assert busiest(chosen) == pytest.approx(min(map(busiest, splits)))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_1f1b_holds_one_micro_batch_more_for_every_rank_behind(tiny_1f1b):
    prepared = tiny_1f1b.step.prepared
    for rank in prepared.memory:
        saved = sum(prepared.pieces.lowered[piece].saved_bytes for piece in prepared.stages[rank.rank].pieces)
        assert rank.by_kind["activations"] == (4 - rank.rank) * saved


def test_memory_of_weights_by_hand(tiny_1f1b):
    """BF16 weights 2 bytes, FP32 gradients 4, FP32 master and moments 12 over four replicas."""
    prepared = tiny_1f1b.step.prepared
    layer = 1024 * (8 + 2 + 2 + 8) * 128 + 3 * 1024 * 2816 + 2 * 1024
    middle = prepared.memory[1]
    layers = prepared.stages[1].layers[1] - prepared.stages[1].layers[0]
    assert middle.by_kind["weights"] == 2 * layer * layers
    assert middle.by_kind["gradients"] == 4 * layer * layers
    assert middle.by_kind["optimizer"] == 12 * layer * layers / 4


def test_v3_fits_without_tensor_parallelism(v3):
    for rank in v3.step.prepared.memory:
        assert 60e9 < rank.total < 80e9
        assert sum(rank.activation_shares.values()) == pytest.approx(rank.by_kind["activations"])


def test_the_quick_floor_never_exceeds_the_memory(v3, tiny, tiny_1f1b):
    for result in (v3, tiny, tiny_1f1b):
        inputs = result.step.prepared.inputs
        fullest = max(rank.by_kind["weights"] + rank.by_kind["gradients"] for rank in result.step.prepared.memory)
        assert 0 < least_bytes(inputs, inputs.spec.plan) <= fullest


def test_v3_memory_of_a_dualpipe_rank_by_hand(v3):
    """Rank 1 holds stages 1 and 14: eight MoE layers with 4 of 256 experts each."""
    attention = 7168 * 1536 + 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 + 512 * 128 * 256 + 128 * 128 * 7168
    dense = attention + 2 * 7168 + 3 * 7168 * 2048 + 256 * 7168 + 256
    experts = 4 * 3 * 7168 * 2048
    rank = v3.step.prepared.memory[1]
    assert rank.stages == (1, 14)
    assert rank.by_kind["weights"] == 8 * (dense + experts) * 2
    assert rank.by_kind["gradients"] == 8 * (dense + experts) * 4
    assert rank.by_kind["optimizer"] == pytest.approx(8 * (dense / 256 + experts / 4) * 8)
    saved = v3.step.prepared.pieces.lowered["moe"].saved_bytes
    assert rank.by_kind["activations"] == 4 * 17 * saved  # PP + 1 micro-batches of four layers each
    assert rank.by_kind["workspace"] < 1e9


def test_the_head_s_gradient_is_no_workspace(v3):
    """Its logits are: 4,096 x 129,280 in BF16."""
    assert v3.step.prepared.memory[0].by_kind["workspace"] == 4096 * 129_280 * 2


@pytest.mark.slow
def test_uneven_experts_need_memory_too(tiny):
    """Tokens received by a rank's experts are kept; with all experts on one rank none are uneven."""
    loads = [f"assumptions.expert_load={{value: {load}, source: {{ref: t, kind: derived}}}}" for load in (1.0, 1.5)]
    even, uneven = (simulated(MOE, load) for load in loads)
    assert uneven.headline["peak_memory_bytes"] > even.headline["peak_memory_bytes"]
    alone = [simulated(MOE, load, "plan.ep=1") for load in loads]
    assert alone[0].headline == alone[1].headline


def test_a_tied_head_on_another_rank_holds_the_embedding_again():
    result = simulated(DENSE, "model=gpt2-medium", "sequence_length=1024", "precision=bf16")
    prepared = result.step.prepared
    table = (50_257 + 1024) * 1024
    first, last = prepared.memory[0], prepared.memory[-1]
    assert prepared.stages[-1].embedding_copy
    layers = [stage.layers[1] - stage.layers[0] for stage in prepared.stages]
    per_layer = prepared.memory[1].by_kind["weights"] / layers[1]
    assert first.by_kind["weights"] == pytest.approx(layers[0] * per_layer + 2 * table)
    assert last.by_kind["weights"] == pytest.approx(layers[-1] * per_layer + 2 * table + 2 * 2 * 1024)
    assert [slot for slot in prepared.program.slots if getattr(slot, "what", "") == "embedding"]


# --- synchronisation --------------------------------------------------------------------------------------------------


def test_plain_data_parallelism_moves_what_reducing_and_gathering_move():
    """An all-reduce is a reduce-scatter and an all-gather; here both of FP32 gradients."""
    sharded, plain = (simulated(DENSE, f"plan.zero={zero}").step.prepared for zero in (1, 0))
    layer = 1024 * (8 + 2 + 2 + 8) * 128 + 3 * 1024 * 2816 + 2 * 1024
    layers = plain.stages[1].layers[1] - plain.stages[1].layers[0]
    reduce, whole = (SyncSlot(name, "dense", 1, 1, layers * layer, 1) for name in ("reduce", "all-reduce"))
    assert reduce in sharded.messages
    assert whole in plain.messages
    assert reduce._replace(operation="gather") in sharded.messages
    assert reduce._replace(operation="gather") not in plain.messages
    assert plain.messages[whole].amounts == tuple(2 * amount for amount in sharded.messages[reduce].amounts)
    assert max(plain.messages[whole].amounts) == pytest.approx(2 * 3 / 4 * layer * layers)  # a ring of four


def test_all_holders_of_a_stage_synchronise_it_together(v3):
    program, timeline = v3.step.prepared.program, v3.step.timeline
    starts = defaultdict(set)
    for task in np.flatnonzero(program.category == "sync").tolist():
        slot = program.slots[program.graph.slot[task]]
        starts[slot.operation, slot.what, slot.stage].add(timeline.start_s[task])
    assert len(starts) == 16 * 4
    assert all(len(times) == 1 for times in starts.values())


def test_the_optimizer_reads_and_writes_its_states_once(tiny_1f1b):
    """Sharded states: gradient 4, master and moments 12 twice, weight 2; then the gradients are scaled and cleared."""
    prepared = tiny_1f1b.step.prepared
    number = prepared.program.slots.index(OptimizerSlot(1))
    held = prepared.memory[1].by_kind["weights"] / 2
    copies, gpu = prepared.inputs.profile.kernel("elementwise", "bf16").parameters, prepared.inputs.cluster.gpu
    moved = held / 4 * (4 + 2 * 12 + 2) + 2 * held * 4
    seconds = 3 * copies.launch + moved / (gpu.memory_bandwidth.value * copies.share)
    assert prepared.costs.duration_s[number] == pytest.approx(seconds)


# --- time -------------------------------------------------------------------------------------------------------------


def test_every_rank_s_causes_add_up_to_the_step(v3, tiny, tiny_1f1b):
    for result in (v3, tiny, tiny_1f1b):
        exposed = result.step.breakdown.exposed
        totals = sum(exposed.values())
        assert totals == pytest.approx(np.full(len(totals), result.step.step_s), rel=1e-9)
        assert min(float(column.min()) for column in exposed.values()) > -1e-9
        assert sum(row["seconds"] for row in result.exposed()) == pytest.approx(result.step.step_s, rel=1e-9)


def test_waiting_for_a_message_under_way_is_communication_at_both_ends(tiny_1f1b):
    """The last rank's first message arrives while it has nothing to compute."""
    program, timeline = tiny_1f1b.step.prepared.program, tiny_1f1b.step.timeline
    last = tiny_1f1b.step.prepared.layout.pp - 1
    to_last = [slot == SendSlot(last - 1, last) for slot in program.slots]
    arrivals = np.flatnonzero(np.array(to_last)[program.graph.slot])
    first = arrivals[timeline.end_s[arrivals].argmin()]
    exposed = tiny_1f1b.step.breakdown.exposed["exposed/pipeline_send"][last]
    assert exposed >= timeline.end_s[first] - timeline.start_s[first] > 0


def test_one_gpu_alone_has_no_bubble():
    for overrides in ([], ["global_batch=1"]):
        headline = simulated(DENSE, "plan.gpus=1", "plan.pp=1", *overrides).headline
        assert (headline["bubble_s"], headline["exposed_communication_s"]) == (0.0, 0.0)


def test_busy_time_is_no_less_than_exposed_time(v3):
    exposed = {row["path"]: row["seconds"] for row in v3.exposed()}
    busy = {row["activity"]: row["seconds"] for row in v3.busy()}
    assert busy["dispatch"] >= exposed["step/exposed/dispatch"]
    computing = sum(seconds for path, seconds in exposed.items() if path.startswith("step/compute/"))
    assert busy["compute"] == pytest.approx(computing + exposed["step/optimizer"])


def test_operations_never_overlap_on_a_rank(v3):
    program, timeline = v3.step.prepared.program, v3.step.timeline
    rows = np.flatnonzero(program.graph.lane % len(LANES) == 0)
    rows = rows[program.graph.lane[rows] >= 0]
    for rank in range(16):
        mine = rows[program.rank[rows] == rank]
        order = mine[np.argsort(timeline.start_s[mine], kind="stable")]
        assert (timeline.start_s[order][1:] >= timeline.end_s[order][:-1] - 1e-12).all()


def test_bounds_lie_around_the_step(v3, tiny, tiny_1f1b):
    for result in (v3, tiny, tiny_1f1b):
        bounds = result.step.bounds
        assert bounds.lower <= result.step.step_s <= bounds.upper
        assert bounds.lower <= bounds.estimate <= bounds.upper


SYMMETRIC = [
    (MOE, ()),
    (MOE, ("plan.schedule=zb-v", "plan.gpus=64", "global_batch=128")),
    (DENSE, ("plan.gpus=32",)),
    (DENSE, ("plan.gpus=64", "global_batch=128", "plan.schedule=interleaved", "plan.vpp=2")),
    (DENSE, ("plan.gpus=128", "global_batch=128", "plan.tp=4", "plan.order=dp-tp-cp-pp")),
    (DENSE, ("plan.gpus=128", "global_batch=128", "plan.tp=2", "plan.cp=2", "plan.sequence_parallel=true")),
    (DENSE, ("plan.gpus=128", "global_batch=128", "plan.zero=3", "plan.overlap={parameters: true, gradients: true}")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("workload", "overrides"), SYMMETRIC)
def test_full_equals_folded(workload, overrides):
    folded, full = simulated(workload, *overrides), simulated(workload, *overrides, depth="full")
    assert full.step.step_s == pytest.approx(folded.step.step_s, rel=1e-9)
    assert full.step.timeline.end_s == pytest.approx(folded.step.timeline.end_s, rel=1e-9)
    assert full.step.n_events > folded.step.n_events


@pytest.mark.slow
@pytest.mark.parametrize(("gpus", "equal"), [(128, True), (96, False)])
def test_full_sees_what_folded_leaves_out(gpus, equal):
    """Eight GPUs of a Fire-Flyer node share a NIC; with twelve to a stage, parts of two stages meet on every other.

    Replicas on one node take turns there; those of another stage do not, and cost 15 % of a step that is mostly sends.
    """
    overrides = (f"plan.gpus={gpus}", "plan.pp=8", f"global_batch={gpus}")
    scenario = Scenario(cluster="fire-flyer-2", workload=DENSE, overrides=overrides)
    folded, full = run(scenario).step, run(replace(scenario, depth="full")).step
    assert (folded.step_s == pytest.approx(full.step_s, rel=1e-9)) == equal
    assert folded.step_s == pytest.approx(full.step_s, rel=0.2)


def test_bounds_simulate_nothing():
    result = simulated(MOE, depth="bounds")
    assert result.step.n_events == 0
    assert result.step.breakdown is None
    assert result.step.step_s == result.step.bounds.estimate
    assert result.exposed() == []


def test_full_is_refused_by_tasks_not_by_gpus(monkeypatch, tiny):
    monkeypatch.setattr("ffsim.training.replicate.MAX_FULL_TASKS", 10_000)
    n_tasks = tiny.step.prepared.program.graph.n_tasks
    message = f"at most 10,000 tasks, the plan has {32 * n_tasks:,}: {n_tasks:,} for each of 32 GPUs of a pipeline rank"
    with pytest.raises(ModelDomainError, match=message):
        simulated(MOE, depth="full")


@pytest.mark.slow
@pytest.mark.parametrize("routing", ["d_mod_k", "spray"])
def test_full_with_2048_gpus_equals_folded(routing):
    """Every GPU and flow of DeepSeek-V3's step: stages fill nodes, and no two flows meet on a cable of the fabric."""
    routed = (f"routing={{kind: {routing}}}",)
    scenario = Scenario(cluster="h800-2048", workload="deepseek-v3-pretrain", overrides=routed, ranges=False)
    folded, full = run(scenario).step, run(replace(scenario, depth="full")).step
    assert full.step_s == pytest.approx(folded.step_s, rel=1e-9)
    assert full.timeline.end_s == pytest.approx(folded.timeline.end_s, rel=1e-9)
    assert full.n_events == 7_459_585


def test_the_same_question_gets_the_same_bytes(tiny):
    again = run(Scenario(cluster="h800-2048", workload=MOE))
    assert again.to_dict() == tiny.to_dict()
    assert again.step.timeline.end_s.tobytes() == tiny.step.timeline.end_s.tobytes()


def test_the_number_of_events_is_fixed(v3):
    assert (v3.step.prepared.program.graph.n_tasks, v3.step.n_events) == (82_177, 114_225)


@pytest.mark.parametrize(
    ("override", "faster"),
    [
        ("assumptions.operator_time={value: 0.95, source: {ref: test, kind: derived}}", True),
        ("assumptions.expert_load={value: 1.5, source: {ref: test, kind: derived}}", False),
        ("nodes.nic=cx6-200g", False),
        ("nodes.gpu=h200-sxm", True),
        ("plan.messages=rendezvous", False),
    ],
)
def test_better_parts_make_a_shorter_step(tiny, override, faster):
    changed = simulated(MOE, override).step.step_s
    assert (changed < tiny.step.step_s) == faster, (changed, tiny.step.step_s)


# --- doubt and limits -------------------------------------------------------------------------------------------------


def test_the_range_contains_the_step_and_every_input_moves_it(v3):
    doubt = v3.doubt
    assert doubt.low_s < v3.step.step_s < doubt.high_s
    assert [row.spread_s for row in doubt.sensitivities] == sorted(
        (row.spread_s for row in doubt.sensitivities), reverse=True
    )
    by_name = {row.name: row for row in doubt.sensitivities}
    slower = by_name["assumptions.operator_time"]
    assert slower.step_at_low_s < v3.step.step_s < slower.step_at_high_s
    faster = by_name["nic.usable_share"]
    assert faster.step_at_low_s > v3.step.step_s > faster.step_at_high_s


@pytest.mark.slow
def test_the_quick_variation_agrees_with_a_run(v3):
    """One pass without contention, scaled, against simulating the changed input: a kernel's and a link's."""
    rows = {row.name: row for row in v3.doubt.sensitivities}
    for name, end in (("assumptions.operator_time", "high"), ("assumptions.expert_wait", "high")):
        row = rows[name]
        value = getattr(row, end)
        changed = run(
            Scenario(
                cluster="h800-2048",
                workload="deepseek-v3-pretrain",
                overrides=(f"{name}={{value: {value}, source: {{ref: test, kind: derived}}}}",),
            )
        )
        assert changed.step.step_s == pytest.approx(getattr(row, f"step_at_{end}_s"), rel=5e-3), name


def test_peak_memory_has_a_range_of_its_own(v3):
    doubt, peak = v3.doubt, v3.headline["peak_memory_bytes"]
    assert doubt.peak_low_bytes < peak < doubt.peak_high_bytes
    rows = {row.name: row for row in doubt.sensitivities if row.spread_bytes}
    assert set(rows) == {
        "assumptions.expert_load",
        "assumptions.framework_memory",
        "assumptions.communication_buffers",
        "assumptions.fragmentation",
        "precision.weight_bytes",
    }
    assert rows["assumptions.framework_memory"].peak_at_high_bytes == pytest.approx(peak + 2e9)


def test_limits_name_the_binding_resource_first(v3):
    rows = limits(v3.step)
    assert rows[0].resource == "tensor cores (dense products)"
    assert rows[-1].resource == "everything"
    assert rows[-1].saved_frac == pytest.approx(1 - 1 / 1.1)
    assert all(row.saved_frac >= 0 for row in rows)
    assert sum(row.saved_frac for row in rows[:-1]) <= rows[-1].saved_frac + 1e-3


@pytest.mark.parametrize("messages", ["blocking", "rendezvous"])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_no_schedule_waits_for_its_own_messages_in_a_circle(name, messages):
    """A rank's messages in one direction take turns: in the order in which it sends them."""
    pp, vpp = 2 if name == "dualpipev" else 4, 2 if name == "interleaved" else 1
    for n in (4, 8, 12) if name != "dualpipe" else (8, 12):
        plan = (f"plan.pp={pp}", f"plan.gpus={pp}", f"plan.vpp={vpp}", f"plan.messages={messages}")
        free, held = (
            simulated(DENSE, *plan, f"plan.schedule={name}", f"global_batch={2 * n}", *more).step.step_s
            for more in (("plan.messages=overlapped",), ())
        )
        assert free <= held * (1 + 1e-9)


@pytest.mark.slow
def test_layouts_of_other_schedules_run():
    for overrides in (
        ["plan.schedule=1f1b"],
        ["plan.schedule=dualpipev", "plan.pp=2"],
        ["plan.pp=1", "plan.schedule=1f1b"],
    ):
        result = simulated(MOE, *overrides)
        assert result.step.bounds.lower <= result.step.step_s <= result.step.bounds.upper
    inputs = load(
        Scenario(cluster="h800-2048", workload=MOE, overrides=("plan.gpus=16", "plan.pp=1", "plan.schedule=1f1b"))
    )
    assert lay_out(inputs).dp == 16
