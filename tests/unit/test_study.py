"""Questions and answers: where overrides go, what an answer holds, what its fingerprint covers."""

import re
from pathlib import Path

import pytest

from ffsim.errors import ScenarioError
from ffsim.study import Scenario, run
from ffsim.study.scenario import fingerprint, load

DATA = Path(__file__).parents[1] / "data"
MOE = str(DATA / "tiny-pretrain.yaml")
DENSE = str(DATA / "tiny-1f1b.yaml")


def scenario(*overrides, **changes):
    return Scenario(**{"cluster": "h800-2048", "workload": MOE, "overrides": overrides} | changes)


def test_overrides_go_to_the_file_that_knows_their_first_key():
    inputs = load(scenario("nodes.nic=cx6-200g", "plan.pp=2", "cluster.title=Mine", "workload.title=Yours"))
    assert inputs.cluster.nic.bandwidth.value == 25e9
    assert inputs.spec.plan.pp == 2
    assert (inputs.cluster.spec.title, inputs.spec.title) == ("Mine", "Yours")


def test_the_problems_of_both_files_come_together():
    with pytest.raises(ScenarioError) as caught:
        load(scenario("nodes.nic=cx9", workload="nowhere.yaml"))
    assert [problem.what for problem in caught.value.problems] == ["no nic file named 'cx9'", "no such file"]


@pytest.mark.parametrize(
    "change",
    [
        {"overrides": ("nodes.nic=cx6-200g",)},
        {"overrides": ("rental.value=1.9 USD/GPU-hour", "rental.low=1 USD/GPU-hour")},
        {"overrides": ("assumptions.fragmentation.value=0.06",)},
        {"overrides": ("plan.zero=0",)},
        {"depth": "bounds"},
        {"seed": 1},
    ],
)
def test_whatever_can_change_the_answer_changes_the_fingerprint(change):
    base, other = scenario(), scenario(**change)
    assert fingerprint(load(base), base) == fingerprint(load(base), base)
    assert fingerprint(load(base), base) != fingerprint(load(other), other)


def test_headline_figures_follow_from_the_step(tiny):
    h, step = tiny.headline, tiny.step.step_s
    tokens = 256 * 1024
    assert h["tokens_per_day"] == pytest.approx(tokens / step * 86400)
    assert h["gpu_hours"] == pytest.approx(1e9 / tokens * step * 128 / 3600)
    assert h["gpu_hours_per_ttoken"] == pytest.approx(h["gpu_hours"] * 1000)
    assert h["cost_usd"] == pytest.approx(2 * h["gpu_hours"])
    assert h["mfu_frac"] == pytest.approx(h["flop_per_s_per_gpu"] / 989e12, rel=1e-3)
    assert h["days"] == pytest.approx(h["gpu_hours"] / 128 / 24)
    exposed = {row["path"]: row["seconds"] for row in tiny.exposed()}
    assert h["bubble_s"] == exposed["step/bubble"]


def test_ranges_lie_around_their_figures(tiny):
    assert set(tiny.range) >= {"step_s", "cost_usd", "tokens_per_day", "mfu_frac"}
    for name, ends in tiny.range.items():
        assert ends["low"] < tiny.headline[name] < ends["high"]


def test_the_range_of_the_cost_joins_those_of_step_and_price(tiny):
    """Independent relative deviations: the root of their summed squares."""
    price = tiny.bill.cost_figures[0]
    slower = tiny.doubt.high_s / tiny.step.step_s - 1
    dearer = price.high / price.value - 1
    expected = tiny.headline["cost_usd"] * (1 + (slower**2 + dearer**2) ** 0.5)
    assert tiny.range["cost_usd"]["high"] == pytest.approx(expected)


def test_closed_forms_have_the_ranges_of_prices_only():
    assert set(run(scenario(depth="bounds")).range) == {"cost_usd", "total_cost_usd", "energy_j", "energy_cost_usd"}


def test_published_stages_do_not_vary_with_the_step(v3):
    ends, simulated = v3.range["total_gpu_hours"], v3.range["gpu_hours"]
    assert ends["high"] - ends["low"] == pytest.approx(simulated["high"] - simulated["low"])


def test_doubts_that_no_range_covers_are_named(tiny, v3):
    (shapes,) = tiny.warnings  # tiny products in BF16, which nobody timed on an H800
    assert "of the time of a layer's kernels is extrapolated beyond measured sizes" in shapes
    (memory,) = v3.warnings
    assert memory.startswith("memory may not suffice: 80.73 GB of 80 GB at the high end of its range")
    shared = run(scenario("plan.gpus=96", "plan.pp=8", "global_batch=96", workload=DENSE, cluster="fire-flyer-2"))
    assert [text.split(":")[0] for text in shared.warnings if "extrapolated" not in text] == [
        "12 data-parallel ranks do not fill nodes of 8 GPUs",
    ]


def test_stages_whose_gradients_meet_between_switches_are_named():
    """Four nodes a stage on leaves of two and a half: both stages reduce over the same cables."""
    plan = ("plan.tp=8", "plan.pp=2", "global_batch=32")
    met, apart = (
        run(scenario(*plan, f"plan.gpus={gpus}", workload=DENSE, cluster="selene", ranges=False)) for gpus in (64, 32)
    )
    assert any(
        re.search(r"cross the same cables .* the step takes up to \d\S* % longer", text) for text in met.warnings
    )
    assert not any("cross the same cables" in text for text in apart.warnings)
    exact = run(scenario(*plan, "plan.gpus=64", workload=DENSE, cluster="selene", ranges=False, depth="full"))
    assert 1.01 < exact.headline["step_s"] / met.headline["step_s"] < 1.06
    assert not any("loaded unevenly" in text for text in exact.warnings)  # every GPU has its own links there


def test_a_gpu_that_borrows_its_profile_doubts_its_kernel_times(tmp_path):
    part = tmp_path / "borrowed.yaml"
    source = "{ref: timed on another GPU, kind: assumed}"
    part.write_text(f"base: h800-sxm\nkernel_time: {{value: 1, low: 0.9, high: 1.1, source: {source}}}\n")
    result = run(scenario(f"nodes.gpu={part}"))
    (doubt,) = [row for row in result.sensitivities() if row["input"] == "gpu.kernel_time"]
    assert doubt["step_at_low_s"] < result.headline["step_s"] < doubt["step_at_high_s"]


def test_what_the_power_limit_leaves_of_products_is_in_doubt():
    result = run(scenario("global_batch=64", workload="fire-flyer-2-llama-13b", cluster="fire-flyer-2"))
    (doubt,) = [row for row in result.sensitivities() if row["input"] == "gpu.sustained.bf16"]
    assert doubt["step_at_low_s"] > result.headline["step_s"] > doubt["step_at_high_s"]


def test_v3_is_billed_with_the_published_stages(v3):
    lines = {line.name: line for line in v3.bill.lines}
    assert [line.simulated for line in lines.values()] == [True, False, False]
    assert v3.bill.total_gpu_hours == pytest.approx(v3.bill.gpu_hours + 119e3 + 5e3)
    assert v3.bill.total_cost_usd == pytest.approx(2 * v3.bill.total_gpu_hours)
    nodes_w = 256 * v3.step.prepared.inputs.cluster.spec.nodes.power.value
    pue = v3.step.prepared.inputs.cluster.spec.pue.value
    assert v3.bill.energy_j == pytest.approx(nodes_w * pue * v3.bill.days * 86400)


def test_tables_come_as_frames(tiny):
    for table in ("exposed", "busy", "operations", "memory", "stages", "sensitivities"):
        frame = tiny.frame(table)
        assert len(frame) == len(getattr(tiny, table)()) > 0
    assert tiny.frame("exposed")["seconds"].sum() == pytest.approx(tiny.step.step_s)


def test_a_result_shows_itself(tiny):
    assert "\n" not in repr(tiny)
    assert repr(tiny) in tiny._repr_html_().replace("&lt;", "<")


def test_limits_rank_resources_and_explain_names_the_first_two(tiny):
    saved = tiny.limits
    assert list(saved)[-1] == "everything"
    assert list(saved.values())[:-1] == sorted(list(saved.values())[:-1], reverse=True)
    first, second = list(saved)[:2]
    assert re.fullmatch(
        rf"The step .* by {re.escape(first)} \(.*\), then by {re.escape(second)} \(.*\)\.", tiny.explain()
    )


def test_closed_forms_alone_explain_nothing():
    result = run(scenario(depth="bounds"))
    assert result.limits == {}
    assert "use depth folded" in result.explain()


def test_a_slower_network_takes_longer_and_limits_more():
    fast, slow = run(scenario()), run(scenario("nodes.nic=cx6-200g"))
    assert slow.step.step_s > fast.step.step_s
    network = "network (NICs and switches)"
    assert slow.limits[network] > fast.limits[network]
