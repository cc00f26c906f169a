"""Plans: ranks and groups, what does not divide, and which plan nearby does."""

import re
from pathlib import Path

import numpy as np
import pytest

from ffsim.errors import InfeasiblePlan, ModelDomainError
from ffsim.schedules import one_f_one_b
from ffsim.study import Scenario, run
from ffsim.study.scenario import load
from ffsim.training.layout import Layout, place_ranks
from ffsim.training.plans import lay_out

DATA = Path(__file__).parents[1] / "data"
V3 = ("h800-2048", "deepseek-v3-pretrain")
MOE = ("h800-2048", str(DATA / "tiny-pretrain.yaml"))
DENSE = ("h800-2048", str(DATA / "tiny-1f1b.yaml"))


def refused(names, *overrides, error=InfeasiblePlan):
    with pytest.raises(error) as caught:
        run(Scenario(cluster=names[0], workload=names[1], overrides=overrides))
    return str(caught.value)


def test_v3_has_one_expert_group_on_eight_nodes_and_every_stage_twice():
    layout = lay_out(load(Scenario(cluster=V3[0], workload=V3[1])))
    assert (layout.pp, layout.dp, layout.ep, layout.n_micro_batches, layout.copies) == (16, 128, 64, 120, 2)
    groups = layout.groups("expert", 3)
    assert groups.shape == (2, 64)
    assert len(np.unique(groups[0] // 8)) == 8
    assert layout.holders(0) == [0, 15]


@pytest.mark.parametrize(
    ("names", "overrides", "says"),
    [
        (V3, ["plan.pp=3"], "plan.pp: 3 pipeline ranks do not divide 2,048 GPUs; use a divisor"),
        (V3, ["plan.ep=512"], "plan.ep: 512 ranks for 256 routed experts; use at most 256"),
        (V3, ["plan.ep=48"], "plan.ep: 256 routed experts do not divide over 48 ranks; use a divisor"),
        (V3, ["plan.gpus=4096"], "plan.gpus: 4,096 GPUs wanted, the cluster has 2,048"),
        (V3, ["global_batch=1000"], "global_batch: 1,000 sequences do not divide into 128 replicas x 1 a micro-batch"),
        (V3, ["global_batch=2048"], "dualpipe over 16 ranks needs an even number of at least 32 micro-batches, got 16"),
        (V3, ["sequence_length=200000"], "sequence_length: 200,000 tokens are more than the 163,840 that DeepSeek-V3"),
        (V3, ["plan.pp=64", "plan.ep=32"], "plan.pp: 64 stages are more than the 61 layers of DeepSeek-V3"),
        (V3, ["plan.layers_per_stage=[60,1]"], "got 2 stages with 61 layers, need 16 stages with 61 layers"),
        (DENSE, ["plan.layers_per_stage=[4,0,2,2]"], "plan.layers_per_stage: stage 1 has no layers; give every stage"),
        (V3, ["global_batch=1_000_000_000"], "are more than ffsim simulates (100,000)"),
        (DENSE, ["plan.ep=2"], "plan.ep: Tiny dense has no experts to spread over 2 ranks; use ep: 1"),
    ],
)
def test_a_plan_that_does_not_divide_is_refused_with_the_reason(names, overrides, says):
    assert says in refused(names, *overrides)


@pytest.mark.parametrize("ep", [6, 12])
def test_expert_groups_fill_nodes_or_divide_them(tmp_path, ep):
    model = tmp_path / "odd.yaml"
    model.write_text(f"base: {DATA / 'tiny-moe.yaml'}\ntitle: Odd\nmoe: {{routed: 48}}\n")
    message = refused(MOE, "plan.gpus=48", "plan.pp=4", f"plan.ep={ep}", "global_batch=240", f"model={model}")
    assert f"plan.ep: expert groups of {ep} do not fill nodes of 8 GPUs; use a multiple of 8" in message


def test_the_first_and_the_last_stage_may_hold_embedding_and_head_alone():
    overrides = ("plan.layers_per_stage=[0,4,4,0]",)
    stages = run(Scenario(cluster=DENSE[0], workload=DENSE[1], overrides=overrides, ranges=False)).step.prepared.stages
    assert (stages[0].pieces, stages[-1].pieces) == (("embedding",), ("head",))


@pytest.mark.parametrize(("pp", "gpus"), [(2, 128), (4, 512), (8, 128), (16, 128)])
def test_large_dense_models_run_or_are_refused_with_a_plan(pp, gpus):
    """A 72B model with a heavy head: no stage is left without layers, whatever the search for plans tries."""
    said = outcome(DENSE, "model=qwen2.5-72b", f"plan.pp={pp}", f"plan.gpus={gpus}", "global_batch=1024")
    assert said == "runs" or re.search("(nearest plan that runs|cheapest change that fits): --set", said)


def outcome(names, *overrides):
    try:
        run(Scenario(cluster=names[0], workload=names[1], overrides=overrides, depth="bounds"))
    except InfeasiblePlan as error:
        return str(error)
    return "runs"


def test_expert_kernels_need_sms():
    message = refused(MOE, "plan.sms_for_communication=0", error=ModelDomainError)
    assert "plan.sms_for_communication: expert kernels that take no SMs are not modelled; use 20" in message
    inputs = load(Scenario(cluster=MOE[0], workload=MOE[1], overrides=("plan.sms_for_communication=null",)))
    assert inputs.sms_for_communication == 20


def test_all_reasons_are_given_at_once():
    message = refused(V3, "plan.ep=48", "global_batch=1000")
    assert "plan.ep: 256 routed experts" in message
    assert "plan.ep: expert groups of 48 do not divide the 128 ranks of a pipeline rank" in message
    assert "global_batch: 1,000 sequences" in message


def test_what_is_not_modelled_is_said_all_at_once():
    message = refused(("fire-flyer-2", V3[1]), "plan.sms_for_communication=108", error=ModelDomainError)
    assert [line.split(": ")[1] for line in message.splitlines()] == ["plan.sms_for_communication", "precision"]
    assert "precision: NVIDIA A100 PCIe 40 GB has no fp8_block, fp8_block_wgrad products; use a precision" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "overrides"),
    [
        (V3, ["plan.pp=8"]),
        (V3, ["plan.pp=3"]),
        (V3, ["plan.ep=512"]),
        (V3, ["plan.zero=0"]),
        (V3, ["plan.recompute=[]"]),
        (MOE, ["plan.pp=5"]),
        (MOE, ["plan.ep=64"]),
    ],
)
def test_the_nearest_plan_that_is_named_does_run(names, overrides):
    message = refused(names, *overrides)
    advice = re.split("nearest plan that runs: |cheapest change that fits: ", message)[1].partition(" (")[0]
    changes = re.findall(r"--set (\S+)", advice)
    assert changes, message
    kept = [override for override in overrides if override.split("=")[0] not in {c.split("=")[0] for c in changes}]
    result = run(
        Scenario(cluster=names[0], workload=names[1], overrides=(*kept, *changes), depth="bounds", ranges=False)
    )
    assert result.step.step_s > 0


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_refused_with_its_memory_by_kind():
    message = refused(V3, "plan.pp=8")
    assert "deepseek-v3-pretrain.yaml:11:3: plan: pipeline rank 0 needs 107 GB of 80 GB" in message
    assert "gradients 32.8 GB" in message
    hopeless = refused(V3, "plan.gpus=64", "plan.pp=2", "plan.ep=32", "global_batch=1024")
    assert "no plan nearby fits: use more GPUs" in hopeless


@pytest.mark.parametrize(
    ("order", "tensor", "context", "data"),
    [
        ("tp-cp-dp-pp", [0, 1], [0, 2, 4], [0, 2, 4, 6, 8, 10]),
        ("cp-tp-dp-pp", [0, 3], [0, 1, 2], [0, 1, 2, 6, 7, 8]),
        ("dp-tp-pp-cp", [0, 2], [0, 4, 8], [0, 1, 4, 5, 8, 9]),
    ],
)
def test_groups_follow_the_order_of_dimensions(order, tensor, context, data):
    """Two tensor-, three context- and two data-parallel ranks: the group that member 0 is in."""
    layout = Layout(
        gpus=24,
        pp=2,
        tp=2,
        cp=3,
        dp=2,
        ep=2,
        etp=3,
        order=tuple(name for name in order.split("-") if name != "pp"),
        placement=place_ranks(order, {"tp": 2, "cp": 3, "dp": 2, "pp": 2}),
        micro_batch=1,
        n_micro_batches=4,
        schedule=one_f_one_b(2, 4),
        copies=1,
    )
    firsts = [layout.members_of(kind)[0].tolist() for kind in ("tensor", "context", "data")]
    assert firsts == [tensor, context, data]
    assert layout.members_of("expert").tolist() == [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]
    assert layout.members_of("expert_data")[0].tolist() == [0, 6]
    for kind in ("tensor", "context", "data", "expert", "expert_tensor", "expert_data"):
        assert sorted(np.concatenate([layout.groups(kind, rank) for rank in range(2)]).ravel()) == list(range(24))
