"""Laws that hold for every plan that runs, on small models of both kinds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffsim.schedules import SCHEDULES
from ffsim.study import Scenario, run

DATA = Path(__file__).parents[1] / "data"
CLUSTERS = ("h800-2048", "fire-flyer-2", "dgx-a100-10000")
TWICE_BETWEEN_NODES = (f"nodes.nic={DATA}/nic-twice.yaml", f"fabric.switch={DATA}/switch-twice.yaml")
FASTER = {
    "h800-2048": (f"nodes.gpu={DATA}/gpu-twice.yaml",),  # links inside nodes
    "fire-flyer-2": TWICE_BETWEEN_NODES,
    "dgx-a100-10000": TWICE_BETWEEN_NODES,
}


MOE, DENSE = str(DATA / "tiny-pretrain.yaml"), str(DATA / "tiny-1f1b.yaml")


@st.composite
def scenarios(draw, clusters=CLUSTERS, replicas=(1, 2, 4, 8, 12, 24)):
    """Plans that divide: of a dense model, or of a MoE whose expert groups fill nodes."""
    cluster = draw(st.sampled_from(clusters))
    schedule = draw(st.sampled_from(["1f1b", "dualpipe", "dualpipev"]))
    pp = draw(st.sampled_from([2, 4] if schedule != "1f1b" else [1, 2, 4, 8]))
    moe = draw(st.booleans())
    ep = draw(st.sampled_from([1, 8, 16])) if moe else 1
    dp = ep * draw(st.sampled_from([1, 2])) if ep > 1 else draw(st.sampled_from(replicas))
    micro_batch = draw(st.sampled_from([1, 2]))
    n_micro_batches = draw(st.integers(1, 20)) if schedule == "1f1b" else 2 * pp + 2 * draw(st.integers(0, 6))
    overrides = {
        "plan.schedule": schedule,
        "plan.pp": pp,
        "plan.ep": ep,
        "plan.micro_batch": micro_batch,
        "plan.gpus": pp * dp,
        "plan.zero": draw(st.sampled_from([0, 1])),
        "plan.messages": draw(st.sampled_from(["overlapped", "blocking", "rendezvous"])),
        "global_batch": n_micro_batches * dp * micro_batch,
        "sequence_length": draw(st.sampled_from([256, 1024, 2048])),
        "precision": "fp8" if cluster == "h800-2048" and draw(st.booleans()) else "bf16",
    }
    return _scenario(cluster, MOE if moe else DENSE, overrides)


@st.composite
def mixed_plans(draw):
    """Legal plans of every schedule and every kind of parallelism, 1 to 128 GPUs."""
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    family = SCHEDULES[name]
    vpp = 2 if family.stages_per_rank is None else 1
    pp = draw(
        st.sampled_from(
            [2, 4] if family.stages(vpp) == 1 else [1, 2, 4] if name in {"zb-v", "1f1b-v", "v-half", "v-min"} else [2]
        )
    )
    n = draw(st.integers(2 * pp, 4 * pp)) // 2 * 2
    n = n // pp * pp if name == "interleaved" else n
    moe = draw(st.booleans())
    tp, cp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 1, 2]))
    sequence_parallel = draw(st.booleans()) or (moe and tp > 1)
    ep, etp = (draw(st.sampled_from([1, 8])), draw(st.sampled_from([1, 1, 2]))) if moe else (1, 1)
    dp = draw(st.sampled_from([1, 2, 4])) * max(1, ep * etp // (tp * cp))
    overrides = {
        "plan.schedule": name,
        "plan.pp": pp,
        "plan.vpp": vpp,
        "plan.tp": tp,
        "plan.cp": cp,
        "plan.ep": ep,
        "plan.etp": etp,
        "plan.gpus": pp * tp * cp * dp,
        "plan.sequence_parallel": str(sequence_parallel).lower(),
        "plan.context_exchange": "all-to-all" if tp == 1 and draw(st.booleans()) else "ring",
        "plan.zero": draw(st.sampled_from([0, 1] if family.both_ends else [0, 1, 2, 3])),
        "plan.order": draw(st.sampled_from(["tp-cp-dp-pp", "tp-cp-pp-dp", "dp-tp-cp-pp"])),
        "plan.messages": draw(st.sampled_from(["overlapped", "blocking", "rendezvous"])),
        "plan.recompute": draw(st.sampled_from(["none", "selective", "full", "[norm, swiglu]"])),
        "plan.overlap.gradients": draw(st.sampled_from(["true", "false"])),
        "plan.overlap.parameters": draw(st.sampled_from(["true", "false"])),
        "plan.overlap.tensor": draw(st.sampled_from(["true", "false"])),
        "software": draw(st.sampled_from(["hai-llm", "megatron-core", *(["megatron-2021"] if cp == 1 else [])])),
        "global_batch": n * dp,
        "sequence_length": draw(st.sampled_from([512, 1024])),
        "precision": "bf16",
    }
    return _scenario(draw(st.sampled_from(CLUSTERS)), MOE if moe else DENSE, overrides)


def _scenario(cluster, workload, overrides):
    texts = tuple(f"{path}={value}" for path, value in overrides.items())
    return Scenario(cluster=cluster, workload=workload, overrides=texts, ranges=False)


@pytest.mark.slow
@given(mixed_plans())
@settings(max_examples=40)
def test_laws_of_every_kind_of_plan(scenario):
    """Bounds hold, causes and busy times add up, and better links never make a step longer."""
    step = run(scenario).step
    assert 0 < step.bounds.lower <= step.step_s * (1 + 1e-9)
    assert step.step_s <= step.bounds.upper * (1 + 1e-9)
    assert step.bounds.lower <= step.bounds.estimate <= step.bounds.upper
    causes = step.breakdown.exposed
    assert sum(causes.values()) == pytest.approx(np.full(step.prepared.layout.pp, step.step_s), rel=1e-9)
    assert all(float(column.min()) >= -1e-9 * step.step_s for column in causes.values())
    computing = sum(column for name, column in causes.items() if name.startswith(("compute/", "optimizer")))
    assert step.breakdown.busy["compute"] == pytest.approx(computing)
    better = run(replace(scenario, overrides=(*scenario.overrides, *FASTER[scenario.cluster]))).step.step_s
    assert better <= step.step_s * (1 + 1e-9)


@pytest.mark.slow
@given(scenarios())
@settings(max_examples=40)
def test_bounds_lie_around_the_step_and_its_causes_add_up(scenario):
    step = run(scenario).step
    assert step.bounds.lower <= step.step_s * (1 + 1e-9)
    assert step.step_s <= step.bounds.upper * (1 + 1e-9)
    totals = sum(step.breakdown.exposed.values())
    assert totals == pytest.approx(np.full(len(totals), step.step_s), rel=1e-9)
    assert all(float(column.min()) >= -1e-9 * step.step_s for column in step.breakdown.exposed.values())


@pytest.mark.slow
@given(scenarios(("h800-2048", "fire-flyer-2"), replicas=(8, 24)))
@settings(max_examples=15)
def test_full_equals_folded_where_no_two_stages_share_a_node(scenario):
    """Full loads the links that flows really cross. Routes of different stages may meet on a spine: hence not 1e-9."""
    folded, full = run(scenario).step, run(replace(scenario, depth="full")).step
    assert full.step_s == pytest.approx(folded.step_s, rel=1e-4)


@pytest.mark.slow
@given(scenarios(("fire-flyer-2", "dgx-a100-10000")))
@settings(max_examples=15)
def test_full_keeps_the_laws_where_ports_are_shared(scenario):
    step = run(replace(scenario, depth="full")).step
    assert step.bounds.lower <= step.step_s * (1 + 1e-9)
    assert step.step_s <= step.bounds.upper * (1 + 1e-9)
    totals = sum(step.breakdown.exposed.values())
    assert totals == pytest.approx(np.full(len(totals), step.step_s), rel=1e-9)
