"""The report: one file, nothing loaded from elsewhere, everything it says found in the result."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ffsim.report.figures import all_figures
from ffsim.report.html import render_report
from ffsim.study import Scenario, run
from ffsim.study.known_figures import verdicts_about

DATA = Path(__file__).parents[1] / "data"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Checker(HTMLParser):
    """Refuses tags that do not close; collects text and addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_startendtag(self, _, attrs):
        self.addresses += [value for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(html):
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert all(address.startswith("#") for address in checker.addresses), checker.addresses
    return " ".join(" ".join(checker.text).split())


@pytest.fixture(scope="module")
def v3_report(v3):
    return render_report(v3, command="ffsim run a b", verdicts=verdicts_about(v3))


@pytest.mark.slow
def test_the_report_is_one_well_formed_file(v3, v3_report):
    text = checked(v3_report)
    for expected in (
        "DeepSeek-V3 pre-training, 14.8 T tokens",
        "on 2,048 H800 in 256 nodes",
        "18.79 s",
        "million GPU-hours",
        "v3.step",
        "arXiv 2505.09343 Table 4",
        "tensor cores (dense products)",
        "ffsim run a b",
        v3.provenance.sha256,
    ):
        assert expected in text, expected
    assert "<script" not in v3_report
    assert "@import" not in v3_report
    assert len(v3_report) < 500_000


@pytest.mark.slow
def test_the_same_run_gives_the_same_report(tiny):
    first, second = (render_report(tiny, command="x") for _ in range(2))
    assert first == second


def test_what_a_user_wrote_is_escaped(tiny):
    html = render_report(tiny, command="ffsim run '<script>alert(1)</script>' x")
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_scenario_without_published_figures_says_so(tiny):
    assert verdicts_about(tiny) == []
    assert "No published figure is known for this very scenario" in checked(render_report(tiny, command="x"))


def test_published_figures_are_found_however_the_files_are_named(v3):
    assert {verdict.row.id for verdict in verdicts_about(v3)} >= {"v3.step", "v3.total_cost"}


@pytest.mark.slow
def test_bounds_get_a_report_without_a_timeline():
    result = run(Scenario(cluster="h800-2048", workload="deepseek-v3-pretrain", depth="bounds"))
    assert list(all_figures(result)) == ["roofline", "memory"]
    text = checked(render_report(result, command="x"))
    assert "nothing was simulated" in text
    assert "How sure this is" not in text


@pytest.mark.slow
def test_figures_are_svg_in_the_colours_of_the_page(tiny, tiny_1f1b):
    for result in (tiny, tiny_1f1b):
        figures = all_figures(result)
        assert list(figures) == ["where", "pipeline", "pair", "roofline", "memory", "tornado"]
        for svg in figures.values():
            root = ET.fromstring(svg)  # noqa: S314 - our own text
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert "currentColor" in svg
            assert "<style" not in svg
            identifiers = re.findall(r' id="([^"]+)"', svg)
            assert len(identifiers) == len(set(identifiers))


def test_figures_show_what_is_recomputed_and_gathered():
    overrides = ("plan.recompute=full", "plan.zero=3", "plan.gpus=16", "plan.pp=2")
    result = run(
        Scenario(cluster="h800-2048", workload=str(DATA / "tiny-1f1b.yaml"), overrides=overrides, ranges=False)
    )
    figures = all_figures(result)
    assert "recomputed forward" in figures["roofline"]
    for kind in ("replay", "gathered"):
        assert f"{kind}, " in figures["memory"]
