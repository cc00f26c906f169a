"""Who wins and whether that is sure, on figures made by hand; and what a comparison keeps of a run."""

import re
from dataclasses import replace

import pytest

from ffsim.config import Figure, Source
from ffsim.economics import relative_capital
from ffsim.errors import ScenarioError
from ffsim.report.compare_page import render_comparison
from ffsim.study import Comparison, Question
from ffsim.study.compare import Group, Outcome, one_line
from ffsim.study.compare_measure import FIGURES, Effect, Measured, Price, measure
from ffsim.study.compare_question import Candidate, Vary, candidates
from ffsim.study.compare_verdicts import best_of, certain, pairings, ratio_range, winners
from ffsim.study.scenario import Scenario
from ffsim.topology import load_cluster

SOURCE = Source(ref="made for tests", kind="assumed")


def made(step_s, peak=10e9, *, effects=(), rental=(2.0, 2.0, 2.0)):
    """A candidate of one GPU at so many seconds a step of a million tokens."""
    value, low, high = rental
    return Measured(
        cluster_title="made for tests",
        cluster_name="made",
        figures={"step_s": step_s, "peak_memory_bytes": peak, "cost_per_mtoken_usd": value * step_s},
        ranges={},
        exposed={},
        memory={},
        capacity_bytes=80e9,
        effects={name: Effect(figure=figure, steps_s=steps) for name, figure, steps in effects},
        price_unit="",
        prices=(Price(name="rental", figure=Figure(value=value, low=low, high=high, source=SOURCE)),),
        sources=(),
        notes=(),
        warnings=(),
        published=(),
        sha256="0" * 64,
    )


def test_commas_in_brackets_belong_to_a_value():
    assert Vary.parse("plan.recompute=[norm, swiglu],none").values == ("[norm, swiglu]", "none")


def test_candidates_go_workload_by_workload_and_are_named_by_what_differs():
    question = Question(
        clusters=("h800-2048", "h800-2048-mrft"), workloads=("deepseek-v3-pretrain",), vary=("plan.pp=8,16",)
    )
    found, titles = candidates(question)
    assert [one.name for one in found] == [
        "h800-2048 pp=8",
        "h800-2048 pp=16",
        "h800-2048-mrft pp=8",
        "h800-2048-mrft pp=16",
    ]
    assert found[0].scenario.overrides == ("plan.pp=8",)
    assert titles == {"deepseek-v3-pretrain": "DeepSeek-V3 pre-training, 14.8 T tokens"}


def test_a_value_may_bring_others_along():
    vary = ("plan.schedule=1f1b,interleaved+plan.vpp=2", "global_batch=1e+3")
    job = {"clusters": ("h800-2048",), "workloads": ("deepseek-v3-pretrain",)}
    with pytest.raises(ScenarioError, match=r"--vary global_batch=1e\+3: global_batch: expected a whole number"):
        candidates(Question(**job, vary=vary))
    found, _ = candidates(Question(**job, vary=vary[:1]))
    assert [one.name for one in found] == ["schedule=1f1b", "schedule=interleaved vpp=2"]
    assert found[1].scenario.overrides == ("plan.schedule=interleaved", "plan.vpp=2")


def test_an_input_that_both_share_does_not_make_their_order_uncertain():
    figure = (1.0, 0.8, 1.2)
    fast = made(10.0, effects=[("operators", figure, (8.0, 12.0))])
    slow = made(11.0, effects=[("operators", figure, (8.8, 13.2))])
    assert ratio_range(slow, fast) == pytest.approx((1.1, 1.1))
    assert certain(fast, slow, "step_s") is True
    other = replace(slow, effects={"operators": Effect(figure=(1.0, 0.7, 1.2), steps_s=(8.8, 13.2))})
    down, up = (0.22**2 + (1.1 - 1.1 / 1.2) ** 2) ** 0.5, (0.22**2 + (1.1 / 0.8 - 1.1) ** 2) ** 0.5
    assert ratio_range(other, fast) == pytest.approx((1.1 - down, 1.1 + up))
    assert certain(fast, other, "step_s") is False


def test_rents_that_differ_move_one_candidate_each():
    cheap, dear = made(10.0, rental=(1.0, 0.5, 2.0)), made(10.0, rental=(1.5, 1.5, 3.0))
    low, high = ratio_range(dear, cheap, "cost_per_mtoken_usd")
    assert low == pytest.approx(1.5 - 0.75)  # the cheap one at twice its rent
    assert high == pytest.approx(1.5 + (1.5**2 + 1.5**2) ** 0.5)
    assert certain(cheap, dear, "cost_per_mtoken_usd") is False
    assert ratio_range(cheap, cheap, "cost_per_mtoken_usd") == pytest.approx((1.0, 1.0))


def test_the_best_are_those_that_nothing_beats_in_time_and_memory():
    ran = {"a": made(10.0, 50e9), "b": made(12.0, 40e9), "c": made(13.0, 45e9), "d": made(14.0, 30e9)}
    found = [(one.faster, one.other, one.less_memory, one.memory_difference_bytes) for one in pairings(ran)]
    assert found == [("a", "b", "b", 10e9), ("b", "d", "d", 10e9)]
    assert "a takes 17 % less time than b (10 s against 12 s); b needs 10 GB less memory" in pairings(ran)[0].text
    assert [(one.faster, one.other) for one in pairings({"x": made(1.0, 1e9), "y": made(2.0, 2e9)})] == [("x", "y")]


def test_the_sentence_says_who_wins_and_ties_are_no_wins():
    ran = {"a": made(10.0), "b": made(8.0)}
    assert winners(ran) == (
        "b is fastest (8 s a step, 20 % less than a) "
        "and cheapest to rent (16 USD per million tokens, 20 % less than a)."
    )
    assert best_of({"a": made(10.0), "b": made(10.0)}) == {}
    assert winners({"a": made(10.0), "b": made(10.0)}) == "all candidates take the same time and cost the same."
    assert (
        "too close to call"
        in pairings({"a": made(10.0), "b": made(10.05, 9e9, effects=[("x", (1.0, 0.5, 2.0), (10.0, 10.2))])})[0].text
    )
    assert winners({}) == "none of the candidates can run."


def test_relative_prices_are_those_of_table_3():
    assert relative_capital(load_cluster("fire-flyer-2")).per_gpu == pytest.approx(11_600 / 10_000)
    assert relative_capital(load_cluster("dgx-a100-10000")).network_per_gpu == pytest.approx(4_000 / 10_000)
    assert relative_capital(load_cluster("h800-2048")) is None
    assert relative_capital(load_cluster("fire-flyer-2-2022")) is None


def test_what_is_kept_of_a_run_agrees_with_it(tiny):
    kept, headline = measure(tiny), tiny.headline
    figures = kept.figures
    assert sum(kept.exposed.values()) == pytest.approx(headline["step_s"])
    assert figures["tokens_per_s"] * headline["step_s"] == pytest.approx(256 * 1024)
    assert figures["cost_per_mtoken_usd"] * 1e3 == pytest.approx(headline["cost_usd"])  # of 1 Gtoken
    assert figures["energy_per_mtoken_j"] * 1e3 == pytest.approx(headline["energy_j"])
    assert figures["gpu_hour_energy_cost_usd"] == pytest.approx(8400 / 8 / 1e3 * 1.25 * 0.0826)
    assert figures["peak_memory_bytes"] + figures["memory_margin_bytes"] == 80e9 == kept.capacity_bytes
    assert 0 < figures["network_frac"] < 1
    assert set(figures) <= set(FIGURES)
    for name, (low, high) in kept.ranges.items():
        assert low <= figures[name] <= high


def test_a_reason_is_one_line():
    with pytest.raises(Exception, match="no cluster") as caught:
        candidates(Question(clusters=(), workloads=()))
    assert one_line(caught.value.problems) == (
        "no cluster to compare; name one or more, before --workload; no workload to compare with; add --workload NAME"
    )


@pytest.mark.slow
def test_the_report_is_one_file_that_loads_nothing(tiny):
    question = Question(clusters=("h800-2048",), workloads=("<w>",))
    scenario = Scenario(cluster="h800-2048", workload="<w>")
    names = ("one", "two", "<three>")
    outcomes = [
        Outcome(candidate=Candidate(name=name, settings=(), options={}, scenario=scenario), measured=measure(tiny))
        for name in names
    ]
    refused = Outcome(
        candidate=Candidate(name="four", settings=(), options={}, scenario=scenario),
        measured=None,
        refused="<b>too large</b>",
    )
    group = Group(workload="<w>", title="<t>", outcomes=(*outcomes, refused))
    html = render_comparison(Comparison(question=question, groups=(group,)), command="ffsim compare '<x>'")
    assert html == render_comparison(Comparison(question=question, groups=(group,)), command="ffsim compare '<x>'")
    for text in ("<w>", "<t>", "<three>", "<b>too", "<x>", "<script", "@import", "nan"):
        assert text not in html, text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(address.startswith("#") for address in addresses)
    identifiers = re.findall(r' id="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))
    headings = ["Why", "Cost and energy", "Memory", "Assumptions and sources", "Against published", "Get this answer"]
    assert [html.index(f"<h2>{heading}") for heading in headings] == sorted(
        html.index(f"<h2>{heading}") for heading in headings
    )
