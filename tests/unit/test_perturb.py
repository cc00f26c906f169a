"""Slow GPUs, ranks and links, and jitter: what they cost, and where they are refused."""

from pathlib import Path

import numpy as np
import pytest

from ffsim.errors import ModelDomainError, ScenarioError
from ffsim.study import Scenario, run

DATA = Path(__file__).parents[1] / "data"
MOE = str(DATA / "tiny-pretrain.yaml")
DENSE = str(DATA / "tiny-1f1b.yaml")


def perturbed(key, *overrides, workload=DENSE, depth="full", seed=0):
    texts = (f"perturbations={key}", *overrides) if key else overrides
    return run(Scenario(cluster="h800-2048", workload=workload, overrides=texts, depth=depth, seed=seed, ranges=False))


@pytest.mark.parametrize("depth", ["folded", "full"])
def test_a_factor_of_one_changes_nothing(depth):
    usual = perturbed("", depth=depth)
    same = perturbed("{slow_gpus: [{gpu: 5, factor: 1}], slow_ranks: [{pipeline_rank: 2, factor: 1}]}", depth=depth)
    assert same.step.timeline.end_s.tobytes() == usual.step.timeline.end_s.tobytes()
    assert same.exposed() == usual.exposed()


@pytest.mark.parametrize("workload", [MOE, DENSE])
def test_one_slow_gpu_holds_up_all_and_never_more_than_a_slow_rank(workload):
    """GPU 2 is of pipeline rank 0 in both: alone it is the exact case, its whole rank what folded takes it for."""
    usual = perturbed("", workload=workload).step
    steps = [perturbed(f"{{slow_gpus: [{{gpu: 2, factor: {f}}}]}}", workload=workload).step for f in (1.1, 1.3)]
    folded = perturbed("{slow_gpus: [{gpu: 2, factor: 1.3}]}", workload=workload, depth="folded")
    assert usual.step_s < steps[0].step_s < steps[1].step_s <= folded.step.step_s * (1 + 1e-9)
    assert "all GPUs of pipeline rank 0 are taken to be as slow" in " ".join(folded.warnings)
    for step in (*steps, folded.step):
        assert step.bounds.lower <= step.step_s <= step.bounds.upper
        totals = sum(step.breakdown.exposed.values())
        assert totals == pytest.approx(np.full(len(totals), step.step_s), rel=1e-9)


def test_time_beyond_the_usual_is_the_straggler_s():
    """Computing 1.25 times as long is a fifth of it more than usual, on that rank only."""
    found = perturbed("{slow_ranks: [{pipeline_rank: 1, factor: 1.25}]}", depth="folded").step.breakdown.exposed
    usual = perturbed("", depth="folded").step.breakdown.exposed
    kernels = [name for name in usual if name.startswith("compute/") and name != "compute/straggler"] + ["optimizer"]
    computed = sum(usual[name][1] for name in kernels)
    assert found["compute/straggler"] == pytest.approx([0, 0.25 * computed, 0, 0])
    assert [found[name][1] for name in kernels] == pytest.approx([usual[name][1] for name in kernels])


def test_a_rank_that_is_slow_as_a_whole_is_exact_when_folded():
    key = "{slow_ranks: [{pipeline_rank: 1, factor: 1.25}, {pipeline_rank: 3, factor: 0.9}]}"
    folded, full = perturbed(key, workload=MOE, depth="folded"), perturbed(key, workload=MOE)
    assert full.step.step_s == pytest.approx(folded.step.step_s, rel=1e-9)
    assert not [text for text in folded.warnings if "as slow as" in text]


def test_jitter_has_a_seed_and_costs_more_the_more_wait_for_each_other():
    """Members draw from streams of their own, so that more of them can only be later."""
    key = "{jitter: {sigma: 0.1}}"
    sizes = [("plan.gpus=16", "global_batch=64"), ("plan.gpus=64", "global_batch=256")]
    few, many = (perturbed(key, *overrides).step for overrides in sizes)
    assert perturbed("", *sizes[0]).step.step_s < few.step_s < many.step_s
    again, other = (perturbed(key, *sizes[0], seed=seed).step for seed in (0, 1))
    assert again.timeline.end_s.tobytes() == few.timeline.end_s.tobytes()
    assert other.step_s != few.step_s
    assert few.bounds.lower <= few.step_s <= few.bounds.upper


@pytest.mark.parametrize("depth", ["bounds", "folded"])
def test_jitter_needs_every_gpu(depth):
    with pytest.raises(
        ModelDomainError, match=r"perturbations\.jitter: groups wait for the slowest .* use --depth full"
    ):
        perturbed("{jitter: {sigma: 0.02}}", depth=depth)


@pytest.mark.parametrize("depth", ["folded", "full"])
def test_a_slow_cable_slows_what_crosses_it(depth):
    usual = perturbed("", workload=MOE, depth=depth).step.step_s
    slow = perturbed("{slow_links: [{node: 0, nic: 3, capacity: 0.25}]}", workload=MOE, depth=depth).step.step_s
    assert slow > usual


def test_what_takes_no_part_is_refused_all_at_once():
    with pytest.raises(ScenarioError) as refused:
        perturbed("{slow_gpus: [{gpu: 99, factor: 2}], slow_ranks: [{pipeline_rank: 4, factor: 2}]}")
    text = str(refused.value)
    assert "perturbations.slow_gpus.0.gpu: GPU 99 takes no part in the job; use one of 0 to 15" in text
    assert "perturbations.slow_ranks.0.pipeline_rank: there are 4 pipeline ranks; use one of 0 to 3" in text


def test_a_cable_that_is_none_is_refused_where_the_workload_names_it():
    with pytest.raises(ScenarioError, match=r"perturbations\.slow_links\.0\.at: there is no 'leaf 99'"):
        perturbed("{slow_links: [{at: leaf 99, capacity: 0.5}]}")
