"""Answers about collectives: rows of validation about them, storage as a workload, links over time."""

import numpy as np
import pytest

from ffsim.report.link_use import use_csv
from ffsim.study import Scenario, answer, known_figures, validation
from ffsim.study.collective import Question, use_over_time
from ffsim.study.collective_spec import CollectiveSpec, CollectiveSubject, OpSpec
from ffsim.topology import build_topology, load_cluster


def subject(**changes):
    return CollectiveSubject(
        **{"cluster": "fire-flyer-2", "op": "all_reduce", "algorithm": "ring", "nodes": (2,), "size": (2.0**26,)}
        | changes
    )


def row(id_, **changes):
    return validation.Row(
        id=id_, collective=subject(**changes), quantity="time_s", value=1.0, unit="ms", rel_tol=0.1, source="me"
    )


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    path = tmp_path_factory.mktemp("rings") / "ring.yaml"
    path.write_text("kind: collective\nops:\n  - {op: all_reduce, algorithms: [ring], nodes: 2, sizes: 64 MiB}\n")
    return answer(Scenario(cluster="fire-flyer-2", workload=str(path)))


def test_a_report_finds_the_rows_about_its_cases(ring, monkeypatch):
    others = [
        row("more nodes", nodes=(4,)),
        row("other size", size=(2.0**25,)),
        row("elsewhere", placement="cross-zone"),
        row("one gpu", gpus_per_node=1),
        row("other cluster", cluster="h800-2048"),
        row("changed", set={"nodes.nic": "cx6-200g"}),
        row("tree", algorithm="double-tree"),
    ]
    monkeypatch.setattr(known_figures, "shipped_rows", lambda: (*others[:3], row("this"), *others[3:]))
    (verdict,) = known_figures.verdicts_about(ring)
    assert verdict.row.id == "this"
    assert verdict.simulated == pytest.approx(ring.measured[0].time_s * 1e3)
    assert validation.validate([row("this")])[0].simulated == verdict.simulated


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nodes": (2, 4)}, "one number of nodes and one size"),
        ({"size": None}, "all_reduce needs a size: change it"),
        ({"op": "barrier"}, "barrier has no size: change it"),
    ],
)
def test_a_subject_asks_for_one_case(changes, says):
    with pytest.raises(ValueError, match=says):
        subject(**changes)


def test_links_carry_over_time_what_the_flows_move():
    cluster = load_cluster("fire-flyer-2")
    spec = CollectiveSpec(
        kind="collective", ops=(OpSpec(op="all_reduce", algorithms=("ring",), nodes=(2,), sizes=(2.0**26,)),)
    )
    question = Question(cluster=cluster, topology=build_topology(cluster), spec=spec)
    end_s, use = use_over_time(question, 50)
    assert use.shape == (50, question.topology.n_links)
    assert 0 <= use.min() <= use.max() <= 1 + 1e-9
    nic = question.topology.routes(0, 8).links[0]
    access = [link for link in nic.tolist() if question.topology.link_name(link) == "node 0 NIC 0 -> zone 0 leaf 0"]
    carried = (use[:, access[0]] * end_s / 50).sum() * question.topology.bandwidth_bytes_per_s[access[0]]
    assert carried == pytest.approx(2 * 15 / 16 * 2.0**26)
    text, n_used = use_csv(question.topology, end_s, use)
    assert n_used == np.count_nonzero(use.any(axis=0))
    assert len(text.splitlines()) == 1 + 50 * n_used
