"""Workloads of ``kind: flows`` and ``kind: collective``: from files, through ``ffsim run``."""

import csv
import io
import json
from pathlib import Path

import pytest

from ffsim.topology import load_cluster

HEADER = "id,start_s,src,dst,bytes,depends_on\n"
COLLECTIVE = """
kind: collective
title: Two rings
ops:
  - {op: all_reduce, algorithms: [ring], nodes: "2,4", sizes: 64 MiB}
"""


def test_a_list_of_flows_is_simulated(ffsim, file_regression):
    answer = ffsim("run", "fire-flyer-2", "reads-beside-allreduce")
    assert answer.code == 0, answer.err
    file_regression.check(answer.out)


def test_two_flows_share_and_a_third_waits(ffsim):
    cluster = load_cluster("fire-flyer-2")
    port = cluster.port_bytes_per_s(cluster.nic)
    lines = "a,0,node 1,node 3,1e9,\nb,0,Node 5  host,node 3,1e9,\nc,0.001,storage 7 nic 0,node 3,2 GB,a b\n"
    Path("mine.csv").write_text(HEADER + lines)
    data = json.loads(ffsim("run", "fire-flyer-2", "mine.csv", "--format", "json").out)
    first, second, third = data["rows"]
    assert first["end_s"] == pytest.approx(2e9 / port, rel=1e-3)
    assert second["rate_bytes_per_s"] == pytest.approx(port / 2)
    assert third["start_s"] == pytest.approx(first["end_s"], rel=1e-3)
    assert third["end_s"] - third["start_s"] == pytest.approx(2e9 / port, rel=1e-3)
    assert first["bottleneck"] == "zone 0 leaf 0 -> node 3 NIC 0"
    bounds = data["bounds"]["makespan_s"]
    assert bounds["lower"] <= data["headline"]["makespan_s"] <= bounds["upper"]
    table = list(csv.DictReader(io.StringIO(ffsim("run", "fire-flyer-2", "mine.csv", "--format", "csv").out)))
    assert [row["id"] for row in table] == ["a", "b", "c"]


def test_closed_forms_of_flows(ffsim):
    Path("mine.csv").write_text(HEADER + "a,0,gpu 12,node 3,1e9,\nb,0,gpu 24,node 3,1e9,\n")
    data = json.loads(ffsim("run", "fire-flyer-2", "mine.csv", "--format", "json", "--depth", "bounds").out)
    assert data["headline"]["makespan_s"] == data["bounds"]["makespan_s"]["lower"]
    assert data["events"] == 0


def test_everything_wrong_with_a_list_is_said_at_once(ffsim, tmp_path):
    Path("bad.csv").write_text(
        "id,start,src,dst,size,depends_on,lane,cap\n"
        "a,0,gpu 1,gpu 10000,1 GB,c,,\n"
        "b,-1 s,node x,node 1,1e9,a,,\n"
        "c,0,node 1,node 1,-5 B,b,,\n"
        "c,1 s,storage 180,node 0,1 GB,zz,fast,0\n"
        "e,0,node 5 gpu 8,node 1250,1 GB\n"
    )
    answer = ffsim("run", "fire-flyer-2", "bad.csv", "-o", "out.json", "--report", "r.html")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines() == [
        "bad.csv:2: dst: no GPU 10000; they are 0 to 9,999",
        "bad.csv:2: depends_on: a circle: a waits for c waits for b waits for a; leave one of them out",
        "bad.csv:3: src: 'node x' is no end; write such as `gpu 12`, `node 3`, `node 3 gpu 5`, `storage 7 nic 0`",
        "bad.csv:3: size: cannot read '1e9' as size; use one of B, kB, MB, GB, TB, PB, KiB, MiB, GiB, TiB, PiB",
        "bad.csv:3: start: '-1 s' is not a figure from 0 up; give an ordinary number",
        "bad.csv:4: dst: 'node 1' is where the flow comes from; name another end",
        "bad.csv:4: size: '-5 B' is not a figure from 0 up; give an ordinary number",
        "bad.csv:5: id: 'c' is the id of line 4 too; give every row its own",
        "bad.csv:5: src: no storage node 180; they are 0 to 179",
        "bad.csv:5: cap: is zero, so the flow would never end; give a rate or leave it empty",
        "bad.csv:5: lane: no class of traffic 'fast'; use one of hfreduce, nccl, storage, other",
        "bad.csv:5: depends_on: no flow 'zz'; name the id of another row",
        "bad.csv:6: does not have as many cells as the header; mend the commas",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("src,dst\nnode 0,node 1\n", "mine.csv:1: no column 'bytes'; add it"),
        ("src,dst,bytes,strat\n", "mine.csv:1: unknown column 'strat'; did you mean 'start'?"),
        ("src,dst,bytes,size\n", "mine.csv:1: columns size and bytes; keep one of them"),
        ("src,dst,bytes,src\n", "mine.csv:1: column 'src' occurs twice; keep one"),
        ("src,dst,bytes\n", "mine.csv: holds no flows; add a row for each flow"),
        ("src,dst,bytes\nnode 0,node 1,inf\n", "mine.csv:2: bytes: 'inf' is not a figure from 0 up"),
        ("src,dst,bytes,depends_on\nnode 0,node 1,1,1\n", "a circle: 1 waits for 1; leave one of them out"),
        ("\xff", "mine.csv:1: unknown column"),
    ],
)
def test_a_bad_list_is_refused(ffsim, text, says):
    Path("mine.csv").write_text(text)
    answer = ffsim("run", "fire-flyer-2", "mine.csv")
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err


def test_nodes_whose_nics_hang_on_gpus_are_no_ends(ffsim):
    Path("mine.csv").write_text("src,dst,bytes\nnode 0,storage 0,1\n")
    answer = ffsim("run", "h800-2048", "mine.csv")
    assert answer.err.splitlines() == [
        "mine.csv:2: src: node 0 is no end, its NICs hang on GPUs; name one, as `node 3 gpu 0`",
        "mine.csv:2: dst: h800-2048 has no storage nodes; name GPUs or nodes",
    ]


def test_a_file_that_names_a_list_that_is_not_there(ffsim):
    Path("mine.yaml").write_text("kind: flows\nfile: none.csv\n")
    assert ffsim("run", "fire-flyer-2", "mine.yaml").err == "none.csv: no such file; check the path\n"
    assert ffsim("run", "fire-flyer-2", "none.csv").err == "none.csv: no such file; check the path\n"


def test_a_workload_of_collectives_gives_the_rows_of_the_command(ffsim):
    Path("mine.yaml").write_text(COLLECTIVE)
    by_file = json.loads(ffsim("run", "fire-flyer-2", "mine.yaml", "--format", "json").out)
    ask = ("collective", "fire-flyer-2", "--algorithm", "ring", "--nodes", "2,4", "--size", "64MiB")
    by_options = json.loads(ffsim(*ask, "--format", "json").out)
    assert by_file["rows"] == by_options["rows"]
    changed = ffsim("run", "fire-flyer-2", "mine.yaml", "--set", "groups=2", "--set", "workload.title=Mine")
    assert changed.out.startswith("Mine (in-zone, 8 GPUs a node, 2 groups at once, each row the slowest)")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[ring]", "[rng]", "mine.yaml:5:35: ops.0.algorithms.0: no algorithm named 'rng'; did you mean 'ring'?"),
        ("64 MiB", "64", "mine.yaml:5:63: ops.0.sizes: 64 has no unit; add one of B, kB"),
        ("nodes:", "node:", "mine.yaml:5:42: ops.0.node: unknown key; did you mean 'nodes'?"),
        ('nodes: "2,4", ', "", "mine.yaml:2:1: ops do not say how many nodes; add nodes, or list them under placement"),
        (", sizes: 64 MiB", "", "mine.yaml:5:5: ops.0: all_reduce needs sizes; add such as sizes: 1MiB:1GiB"),
        (
            "title:",
            "background: {servers: 2}\ntitle:",
            "background: a background needs exactly one of read_per_node and",
        ),
    ],
)
def test_a_bad_question_is_refused_at_its_place(ffsim, old, new, says):
    Path("mine.yaml").write_text(COLLECTIVE.replace(old, new))
    answer = ffsim("run", "fire-flyer-2", "mine.yaml", "-o", "out.json")
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err
    assert not Path("out.json").exists()


@pytest.mark.parametrize("text", [COLLECTIVE, "kind: flows\nfile: mine.csv\n"])
def test_a_report_is_one_file_and_the_same_every_time(ffsim, text):
    Path("mine.yaml").write_text(text)
    Path("mine.csv").write_text(HEADER + "a,0,gpu 12,node 3,1e9,\n")
    for name in ("a.html", "b.html"):
        assert ffsim("run", "fire-flyer-2", "mine.yaml", "--report", name).code == 0
    page = Path("a.html").read_text()
    assert page == Path("b.html").read_text().replace("b.html", "a.html")
    assert "<svg" in page
    assert "ffsim run fire-flyer-2 mine.yaml" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_trace_is_refused_where_there_is_none(ffsim, tmp_path):
    Path("mine.yaml").write_text(COLLECTIVE)
    answer = ffsim("run", "fire-flyer-2", "mine.yaml", "--trace", "t.json")
    assert (answer.code, answer.out) == (2, "")
    assert "a workload of kind collective has none: leave it out" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_storage_workload_is_dispatched_by_its_kind(ffsim):
    ask = ("run", "fire-flyer-2", "3fs-read", "--depth", "bounds")
    answer = ffsim(*ask, "--format", "json", "--report", "r.html")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["headline"]["read_bytes_per_s"] > 1e12
    assert "storage NICs" in Path("r.html").read_text()
    assert "3FS, 400 clients" in ffsim(*ask).out


@pytest.mark.parametrize("workload", ["fire-flyer-2-allreduce", "reads-beside-allreduce"])
def test_explain_is_refused_where_rows_say_it_themselves(ffsim, workload):
    answer = ffsim("explain", "fire-flyer-2", workload)
    assert (answer.code, answer.out) == (2, "")
    assert "explains itself row by row: use `ffsim run`" in answer.err


def test_rows_can_ask_about_collectives_and_any_workload(ffsim):
    Path("mine.csv").write_text("src,dst,bytes,cap\nnode 1,node 3,1e9,10 GB/s\n")
    Path("rows.yaml").write_text(
        """
- {id: ring, source: me, quantity: busbw_bytes_per_s, value: 45, unit: GB/s, rel_tol: 0.05,
   collective: {cluster: h800-2048, op: all_reduce, algorithm: ring, nodes: 2, size: 1 GiB, gpus_per_node: 1}}
- {id: flow, source: me, quantity: rows.0.end_s, value: 100, unit: ms, rel_tol: 0.001,
   run: {cluster: fire-flyer-2, workload: mine.csv}}
"""
    )
    answer = ffsim("validate", "rows.yaml")
    assert answer.code == 0, answer.err
    bad = Path("rows.yaml").read_text().replace("ring, nodes", "rng, nodes")
    Path("rows.yaml").write_text(bad)
    assert "ring: collective.algorithm: no algorithm named 'rng'; did you mean" in ffsim("validate", "rows.yaml").err
    Path("rows.yaml").write_text(bad.replace("rng", "ring").replace("busbw", "linkbw"))
    assert (
        "ring: quantity: unknown quantity 'linkbw_bytes_per_s'; use one of time_s" in ffsim("validate", "rows.yaml").err
    )
