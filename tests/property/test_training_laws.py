"""Laws that hold for every plan that runs, on small models of both kinds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffsim.study import Scenario, run

DATA = Path(__file__).parents[1] / "data"
CLUSTERS = ("h800-2048", "fire-flyer-2", "dgx-a100-10000")


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
    workload = DATA / ("tiny-pretrain.yaml" if moe else "tiny-1f1b.yaml")
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
    texts = tuple(f"{path}={value}" for path, value in overrides.items())
    return Scenario(cluster=cluster, workload=str(workload), overrides=texts)


@pytest.mark.slow
@given(scenarios())
@settings(max_examples=60)
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
@settings(max_examples=10)
def test_full_keeps_the_laws_where_ports_are_shared(scenario):
    step = run(replace(scenario, depth="full")).step
    assert step.bounds.lower <= step.step_s * (1 + 1e-9)
    assert step.step_s <= step.bounds.upper * (1 + 1e-9)
    totals = sum(step.breakdown.exposed.values())
    assert totals == pytest.approx(np.full(len(totals), step.step_s), rel=1e-9)
