"""Laws of every plan, legal or not, with every key there is, on small models and 8 to 64 GPUs.

The first law runs plans as they come: most are refused, and must name one that runs. The others want plans that run.
"""

import re
from dataclasses import replace
from functools import cache
from math import isfinite
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffsim.config.document import parse_scalar
from ffsim.errors import InfeasiblePlan, ModelDomainError
from ffsim.schedules import SCHEDULES
from ffsim.study import Scenario
from ffsim.study.scenario import load
from ffsim.topology import build_topology
from ffsim.training import prepare, simulate
from ffsim.training.software import load_software
from ffsim.training.spec import Overlap, PlanSpec

# Hypothesis writes down the inputs of a plan, which are long, where it explains a failure.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
DATA = Path(__file__).parents[1] / "data"
WORKLOADS = {"dense": str(DATA / "tiny-1f1b.yaml"), "moe": str(DATA / "tiny-pretrain.yaml")}
CLUSTERS = ("h800-2048", "fire-flyer-2", "selene")
SOFTWARE = ("hai-llm", "megatron-2021", "megatron-2022", "megatron-core", "megascale", "pytorch-1.12")
FUSED = ("hai-llm", "megatron-core", "megascale")
RECOMPUTE = ("none", "selective", "full", ("norm", "mla_up", "swiglu"), ("layer", "norm"), ())
TOLERANCE = 1e-9
# Transfers that share links meet at other moments where some are faster, and may hold up each other more.
MEETING = 0.01


@cache
def on(cluster, workload):
    overrides = ("precision=bf16", "plan.sms_for_communication=null")
    return load(Scenario(cluster=cluster, workload=WORKLOADS[workload], overrides=overrides))


framework = cache(load_software)


def loaded(cluster, workload, software):
    return replace(on(cluster, workload), software=framework(software))


def pick(draw, *values):
    return draw(st.sampled_from(values))


@st.composite
def other_keys(draw, schedules=tuple(SCHEDULES), software=SOFTWARE):
    """Every key of a plan that does not decide which ranks there are, and the software."""
    switch = (None, True, False)
    return pick(draw, *software), {
        "zero": pick(draw, 0, 1, 2, 3),
        "micro_batch": pick(draw, 1, 2, 4),
        "recompute": pick(draw, *RECOMPUTE),
        "recompute_layers": pick(draw, None, None, 0, 1, 8),
        "order": "-".join(draw(st.permutations(["tp", "cp", "dp", "pp"]))),
        "messages": pick(draw, "overlapped", "blocking", "rendezvous"),
        "offload": pick(draw, "none", "optimizer"),
        "overlap": Overlap(**{key: pick(draw, *switch) for key in ("gradients", "parameters", "tensor")}),
        "bucket": pick(draw, 25e6, 1e6, 4e3),
        "first_node": pick(draw, 0, 0, 3),
        "schedule": pick(draw, *schedules),
    }


@st.composite
def any_plans(draw):
    """Workloads as they come: few divide."""
    software, keys = draw(other_keys())
    inputs = loaded(pick(draw, *CLUSTERS), pick(draw, *WORKLOADS), software)
    sizes = st.sampled_from([1, 1, 2, 3, 4, 5, 8])
    plan = PlanSpec(
        gpus=pick(draw, 8, 16, 24, 32, 60, 64),
        **{key: draw(sizes) for key in ("pp", "tp", "cp", "ep", "etp", "vpp")},
        sequence_parallel=draw(st.booleans()),
        context_exchange=pick(draw, "ring", "all-to-all"),
        gradient_reduction=pick(draw, "nccl", "nccl", "hfreduce", "hfreduce-nvlink"),
        layers_per_stage=pick(draw, None, None, (4, 4), (2, 2, 2, 2), (8, 0)),
        sms_for_communication=pick(draw, None, 8, 0),
        **keys,
    )
    return changed(inputs, plan, pick(draw, 1, 7, 64, 240), pick(draw, 1, 127, 1000, 2048, 4096))


@st.composite
def dividing_plans(draw):
    """Workloads that run."""
    workload = pick(draw, *WORKLOADS)
    pp, tp, cp, dp = (pick(draw, *sizes) for sizes in ((1, 2, 4), (1, 2, 4), (1, 1, 2, 4), (1, 2, 3, 4)))
    members = tp * cp * dp
    ep = pick(draw, *(n for n in (1, 2, 4, 8, 16) if members % n == 0)) if workload == "moe" else 1
    etp = pick(draw, *(n for n in (1, 2, 4) if members // ep % n == 0)) if workload == "moe" else 1
    needs_ranks = [name for name, family in SCHEDULES.items() if pp > 1 or not (family.both_ends or name[:2] == "in")]
    exchange = pick(draw, "ring", "all-to-all") if tp * cp <= 2 else "ring"
    software, keys = draw(other_keys(needs_ranks, FUSED if exchange == "ring" and cp > 1 else SOFTWARE))
    family = SCHEDULES[keys["schedule"]]
    if keys["recompute"] != "full" or pick(draw, True, False):
        keys["recompute_layers"] = None
    if family.both_ends:
        keys["zero"] = min(keys["zero"], 1)
    plan = PlanSpec(
        gpus=pp * members,
        pp=pp,
        tp=tp,
        cp=cp,
        ep=ep,
        etp=etp,
        vpp=2 if family.stages_per_rank is None else 1,
        sequence_parallel=tp > 1 and (workload == "moe" or draw(st.booleans())),
        context_exchange=exchange,
        **keys,
    )
    n_micro_batches = 2 * pp + 2 * draw(st.integers(0, 2)) if "dual" in family.name else pp * draw(st.integers(1, 4))
    inputs = loaded("fire-flyer-2" if plan.offload == "optimizer" else pick(draw, *CLUSTERS), workload, software)
    return changed(inputs, plan, dp * plan.micro_batch * n_micro_batches, pick(draw, 128, 1024))


def changed(inputs, plan, global_batch, sequence_length):
    spec = replace(inputs.spec, plan=plan, global_batch=global_batch, sequence_length=sequence_length)
    return replace(inputs, spec=spec)


def advised(inputs, message):
    """The workload with the first plan that a refusal names."""
    advice = re.search("(?:nearest plan that runs|cheapest change that fits): ([^;(]*)", message)
    assert advice, message
    plan, others = {}, {}
    for key, text in re.findall(r"--set (\S+?)=(\S+)", advice[1]):
        value = parse_scalar(text, key)
        into, _, last = key.rpartition(".")
        (plan if into else others)[last] = tuple(value) if isinstance(value, list) else value
    assert plan or others, message
    return replace(inputs, spec=replace(inputs.spec, plan=replace(inputs.spec.plan, **plan), **others))


def keeps_the_laws(inputs):
    step = simulate(prepare(inputs))
    assert isfinite(step.step_s)
    assert 0 < step.bounds.lower <= step.step_s * (1 + TOLERANCE)
    assert step.step_s <= step.bounds.upper * (1 + TOLERANCE)
    totals = sum(step.breakdown.exposed.values())
    assert totals == pytest.approx(np.full(inputs.spec.plan.pp, step.step_s), rel=TOLERANCE)
    parts = np.array([*step.breakdown.exposed.values(), *step.breakdown.busy.values()])
    assert np.isfinite(parts).all()
    assert parts.min() >= -TOLERANCE * step.step_s
    sizes = np.array([list(rank.by_kind.values()) for rank in step.prepared.memory])
    assert np.isfinite(sizes).all()
    assert sizes.min() >= 0
    return step


def peak(step):
    return max(rank.total for rank in step.prepared.memory)


def faster(inputs, *, nic=1.0, nvlink=1.0):
    """The same workload where NICs and switch ports, or NVLink, have so many times the bandwidth."""

    def times(figure, factor):
        return replace(figure, value=figure.value * factor, low=None, high=None)

    old = inputs.cluster
    cluster = replace(
        old,
        nic=replace(old.nic, bandwidth=times(old.nic.bandwidth, nic)),
        switch=replace(old.switch, bandwidth=times(old.switch.bandwidth, nic)),
        gpu=replace(old.gpu, scale_up_usable=times(old.gpu.scale_up_usable, nvlink)),
    )
    return replace(inputs, cluster=cluster, topology=build_topology(cluster))


@pytest.mark.slow
@given(any_plans())
@settings(max_examples=16)
def test_a_plan_keeps_the_laws_or_its_refusal_names_one_that_does(inputs):
    try:
        keeps_the_laws(inputs)
    except ModelDomainError:
        assert inputs.spec.plan.sms_for_communication == 0 or inputs.spec.plan.offload == "optimizer"
    except InfeasiblePlan as error:
        keeps_the_laws(advised(inputs, str(error)))


@pytest.mark.slow
@given(dividing_plans())
@settings(max_examples=16)
def test_a_plan_that_divides_keeps_the_laws_and_twice_the_micro_batch_takes_no_less_memory(inputs):
    step = keeps_the_laws(inputs)
    spec, plan = inputs.spec, inputs.spec.plan
    larger = changed(
        inputs, replace(plan, micro_batch=2 * plan.micro_batch), 2 * spec.global_batch, spec.sequence_length
    )
    twice = simulate(prepare(larger))
    if not SCHEDULES[plan.schedule].needs_times:  # an order that follows durations may put off other weight gradients
        assert peak(twice) >= peak(step)
    again = simulate(prepare(inputs))
    assert (again.step_s, again.n_events, peak(again)) == (step.step_s, step.n_events, peak(step))


@pytest.mark.slow
@given(dividing_plans(), st.sampled_from([{"nic": 1.5}, {"nvlink": 1.5}]))
@settings(max_examples=16)
def test_more_bandwidth_takes_no_longer_but_for_transfers_that_meet_elsewhere(inputs, factors):
    slow, fast = simulate(prepare(faster(inputs))), simulate(prepare(faster(inputs, **factors)))
    assert fast.bounds.lower <= slow.bounds.lower * (1 + TOLERANCE)
    assert fast.step_s <= slow.step_s * (1 + MEETING)
