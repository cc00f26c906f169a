"""Every illegal combination: the reason, a plan nearby that runs, and within two seconds."""

import re
import time
from pathlib import Path

import pytest

from ffsim.cli.main import run_cli
from ffsim.errors import InfeasiblePlan, ScenarioError
from ffsim.study import Scenario
from ffsim.study.scenario import load
from ffsim.training import prepare

DATA = Path(__file__).parents[1] / "data"
DENSE = ("h800-2048", str(DATA / "tiny-1f1b.yaml"))
MOE = ("h800-2048", str(DATA / "tiny-pretrain.yaml"))
FIRE_FLYER = ("fire-flyer-2", str(DATA / "tiny-1f1b.yaml"))
LIMIT_S = 2.0

ILLEGAL = [
    (DENSE, ("plan.tp=16", "plan.gpus=64"), "8 heads do not divide over 16 ranks", "plan.tp="),
    (DENSE, ("plan.tp=3", "plan.gpus=48"), "8 heads do not divide over 3 ranks", "plan.tp="),
    (DENSE, ("plan.cp=2", "sequence_length=127"), "127 tokens does not divide into two chunks", "plan.cp=1"),
    (DENSE, ("plan.cp=4", "plan.context_exchange=all-to-all"), "2 heads of keys and values", "plan.c"),
    (DENSE, ("plan.cp=2", "software=megatron-2022"), "has no attention for a ring", "plan.context_exchange=all-to-all"),
    (DENSE, ("plan.ep=2",), "has no experts to spread over 2 ranks", "plan.ep=1"),
    (DENSE, ("plan.etp=2",), "divide experts, of which the model has none", "plan.etp=1"),
    (MOE, ("plan.ep=64",), "64 ranks for 32 routed experts", "plan.ep=32"),
    (MOE, ("plan.etp=3",), "experts 512 wide do not divide over 3 ranks", "plan.etp="),
    (MOE, ("plan.tp=2",), "would all send the same tokens to the experts", "plan.sequence_parallel=true"),
    (DENSE, ("plan.vpp=2",), "1f1b has", "plan."),
    (DENSE, ("plan.schedule=interleaved", "plan.vpp=2", "global_batch=24"), "a multiple of 4", "plan."),
    (DENSE, ("plan.schedule=interleaved", "plan.vpp=4"), "16 stages are more than the 8 layers", "plan."),
    (DENSE, ("plan.schedule=dualpipe", "plan.zero=3"), "dualpipe holds every stage twice", "plan."),
    (DENSE, ("plan.schedule=dualpipe", "plan.zero=2"), "do not meet at every pass to share gradients", "plan."),
    (DENSE, ("plan.schedule=dualpipe", "global_batch=8"), "at least 8 micro-batches", "plan."),
    (DENSE, ("plan.gradient_reduction=hfreduce",), "h800-2048 has an NVSwitch", "plan.gradient_reduction=nccl"),
    (FIRE_FLYER, ("plan.gradient_reduction=hfreduce", "plan.tp=2"), "adds up all 8 GPUs of a node", "plan."),
    (DENSE, ("global_batch=7", "plan.gpus=16"), "7 sequences do not divide", "--set"),
    (DENSE, ("plan.gpus=4096",), "4,096 GPUs wanted, the cluster has 2,048", "plan.gpus=2048"),
    (DENSE, ("plan.first_node=255",), "16 GPUs from node 255 on", "plan.first_node=254"),
    (DENSE, ("plan.pp=3",), "3 pipeline ranks do not divide 16 GPUs", "plan.pp="),
    (DENSE, ("plan.layers_per_stage=[4,4]",), "got 2 stages with 8 layers, need 4", "plan.layers_per_stage=null"),
    (DENSE, ("plan.recompute_layers=1",), "whole layers are not recomputed", "plan.recompute"),
    (DENSE, ("plan.recompute=full", "plan.recompute_layers=9"), "9 are more than the 8", "plan.recompute_layers=null"),
    (DENSE, ("sequence_length=4096",), "4,096 tokens are more than the 2,048", "sequence_length=2048"),
    (
        DENSE,
        ("plan.tp=5", "plan.pp=7", "plan.ep=2", "plan.gpus=35", "plan.vpp=3", "global_batch=1", "sequence_length=127"),
        "8 heads do not divide over 5 ranks",
        "plan.tp=4",
    ),
]


def inputs_of(names, overrides):
    return load(Scenario(cluster=names[0], workload=names[1], overrides=overrides))


@pytest.mark.parametrize(("names", "overrides", "reason", "change"), ILLEGAL, ids=[" ".join(row[1]) for row in ILLEGAL])
def test_an_illegal_combination_names_its_reason_and_a_plan_that_runs(names, overrides, reason, change):
    inputs = inputs_of(names, overrides)
    begin = time.process_time()
    with pytest.raises(InfeasiblePlan) as caught:
        prepare(inputs)
    assert time.process_time() - begin < LIMIT_S
    *reasons, nearest = str(caught.value).splitlines()
    assert any(reason in line for line in reasons)
    assert nearest.startswith("nearest plan that runs: --set ")
    assert change in nearest
    changes = re.findall(r"--set (\S+)", nearest)
    keys = {text.partition("=")[0] for text in changes}
    kept = [text for text in overrides if text.partition("=")[0] not in keys]
    prepare(inputs_of(names, (*kept, *changes)))


def test_all_reasons_come_at_once_with_exit_code_3(capfd):
    code = run_cli(["run", *DENSE, "--set", "plan.tp=3", "--set", "plan.ep=2", "--set", "plan.gpus=48"])
    said = capfd.readouterr().err
    assert code == 3
    for reason in (
        "8 heads do not divide over 3",
        "feed-forwards 2816 wide",
        "has no experts",
        "nearest plan that runs",
    ):
        assert reason in said


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("plan.overlap.gradient=true", "gradients"),
        ("plan.overlap.tensors=true", "tensor"),
        ("plan.overlap=all", "plan.overlap"),
        ("software=megatron-cor", "megatron-core"),
        ("plan.recompute=ful", "full"),
        ("plan.schedule=1f1", "1f1b"),
        ("plan.zero=4", "plan.zero"),
        ("plan.order=tp-dp-pp", "tp, cp, dp and pp once each"),
        ("perturbation={}", "perturbations"),
        ("plan.bucket=25", "25 has no unit"),
    ],
)
def test_a_misspelled_key_or_name_is_told_from_the_right_one(override, says):
    with pytest.raises(ScenarioError, match=re.escape(says)) as caught:
        inputs_of(DENSE, (override,))
    assert f"--set {override}" in str(caught.value)
    assert len(caught.value.problems) == 1
