"""``ffsim collective``: what it prints and writes, and what it refuses."""

import csv
import io
import json
import logging
from pathlib import Path

import pytest

from ffsim import __version__

ASK = ("collective", "fire-flyer-2", "--algorithm", "ring")


def rows(ffsim, *args):
    answer = ffsim(*args, "--format", "json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)["rows"]


def test_the_table_is_stable(ffsim, file_regression):
    answer = ffsim(*ASK, "--nodes", "2:8", "--size", "1MiB:256MiB:16")
    assert answer.code == 0
    file_regression.check(answer.out)


def test_json_is_versioned_and_csv_has_a_row_a_case(ffsim):
    args = (*ASK, "--nodes", "2,4", "--size", "1 MiB, 186 MiB")
    data = json.loads(ffsim(*args, "--format", "json").out)
    assert data["schema"] == "ffsim.collective/1"
    assert data["provenance"]["ffsim_version"] == __version__
    assert len(data["provenance"]["scenario_sha256"]) == 64
    table = list(csv.DictReader(io.StringIO(ffsim(*args, "--format", "csv").out)))
    assert [(row["nodes"], float(row["size_bytes"])) for row in table] == [
        ("2", 2**20),
        ("2", 186 * 2**20),
        ("4", 2**20),
        ("4", 186 * 2**20),
    ]
    assert [float(row["time_s"]) for row in table] == [row["time_s"] for row in data["rows"]]
    assert ffsim(*args, "--format", "markdown").out.startswith("# Collectives (in-zone, 8 GPUs a node)")


def test_busbw_is_that_of_nccl_tests_and_bounds_hold_the_time(ffsim):
    for row in rows(ffsim, *ASK, "--nodes", "2:8", "--size", "1MiB:256MiB:16"):
        assert row["algbw_bytes_per_s"] == row["size_bytes"] / row["time_s"]
        assert row["busbw_bytes_per_s"] == pytest.approx(row["algbw_bytes_per_s"] * 2 * (1 - 1 / row["ranks"]))
        assert row["lower_s"] <= row["time_s"] <= row["upper_s"]
        assert sum(row["held_by"].values()) == pytest.approx(row["time_s"])


def test_the_same_question_writes_the_same_bytes(ffsim):
    for name in ("a", "b"):
        files = ("-o", f"{name}.json", "--plot", f"{name}.svg", "--use", f"{name}.csv")
        assert ffsim(*ASK, "--nodes", "8", "--size", "8MiB", "--routing", "hash", "--seed", "3", *files).code == 0
    for suffix in ("json", "svg", "csv"):
        assert Path(f"a.{suffix}").read_bytes() == Path(f"b.{suffix}").read_bytes()


def test_bounds_and_full_say_the_same_as_folded(ffsim):
    args = (*ASK, "--nodes", "4", "--gpus-per-node", "1", "--size", "8MiB")
    (folded,) = rows(ffsim, *args)
    (full,) = rows(ffsim, *args, "--depth", "full")
    (bounds,) = rows(ffsim, *args, "--depth", "bounds")
    assert full["time_s"] == pytest.approx(folded["time_s"])
    assert bounds["time_s"] == folded["lower_s"]


def test_groups_that_share_links_slow_each_other(ffsim):
    ask = (*ASK, "--nodes", "8", "--gpus-per-node", "1", "--size", "64MiB", "--placement", "spread")
    (alone,) = rows(ffsim, *ask)
    (mixed,) = rows(ffsim, *ask, "--groups", "60")
    assert mixed["groups"] == 60
    assert mixed["time_s"] > 1.5 * alone["time_s"]
    assert mixed["upper_s"] is None
    assert mixed["lower_s"] <= mixed["time_s"]


def test_reads_from_storage_slow_a_collective_and_lanes_protect_it(ffsim):
    args = (*ASK, "--nodes", "4", "--size", "64MiB", "--depth", "full")
    (alone,) = rows(ffsim, *args)
    (shared,) = rows(ffsim, *args, "--background", "24 GB/s", "--lanes", "off")
    (protected,) = rows(ffsim, *args, "--background", "24 GB/s", "--lanes", "on")
    assert shared["time_s"] > 1.05 * alone["time_s"]
    assert alone["time_s"] * (1 - 1e-9) <= protected["time_s"] < shared["time_s"]


def test_flows_of_a_file_run_in_the_background(ffsim):
    Path("others.csv").write_text("src,dst,bytes,cap\n" + "node 9,node 1,1e9,1 GB/s\n" * 40)
    args = (*ASK, "--nodes", "2", "--size", "64MiB", "--depth", "full")
    (alone,) = rows(ffsim, *args)
    (shared,) = rows(ffsim, *args, "--background", "others.csv", "--lanes", "off")
    assert shared["time_s"] > 1.05 * alone["time_s"]


def test_listed_nodes_and_placements_change_the_way(ffsim):
    (listed,) = rows(ffsim, *ASK, "--placement", "0,1,625,626", "--size", "1MiB")
    (across,) = rows(ffsim, *ASK, "--placement", "cross-zone", "--nodes", "4", "--size", "1MiB")
    (inside,) = rows(ffsim, *ASK, "--nodes", "4", "--size", "1MiB")
    assert listed["time_s"] == across["time_s"] > inside["time_s"]


def test_set_changes_the_cluster(ffsim):
    ask = ("collective", "h800-2048", "--algorithm", "ring", "--gpus-per-node", "1", "--size", "256MiB")
    (fast,), (slow,) = rows(ffsim, *ask), rows(ffsim, *ask, "--set", "nodes.nic=cx6-200g")
    assert slow["time_s"] > 1.5 * fast["time_s"]


def test_plot_and_use_are_written_beside_the_answer(ffsim):
    args = (*ASK, "--nodes", "4", "--size", "8MiB", "--depth", "full")
    answer = ffsim(*args, "--plot", "p.svg", "--use", "u.svg")
    assert answer.code == 0
    assert "GB/s" in Path("p.svg").read_text()
    assert "node 0 NIC 0" in Path("u.svg").read_text()
    assert ffsim(*args, "--use", "u.csv", "-q").err == ""
    table = list(csv.DictReader(io.StringIO(Path("u.csv").read_text())))
    assert 0.9 < max(float(row["use_frac"]) for row in table) <= 1 + 1e-9
    assert float(table[-1]["end_s"]) == pytest.approx(rows(ffsim, *args)[0]["time_s"])


def test_what_the_engine_says_goes_to_stderr_unless_quiet(ffsim, monkeypatch):
    from ffsim.study import collective

    simulate = collective.simulate_flows

    def talking(*args, **options):
        logging.getLogger("ffsim.engine.fluid").info("compiling the flow solver")
        return simulate(*args, **options)

    monkeypatch.setattr(collective, "simulate_flows", talking)
    args = (*ASK, "--nodes", "2", "--size", "1MiB")
    assert ffsim(*args).err == "compiling the flow solver\n"
    assert ffsim(*args).err == "compiling the flow solver\n"
    assert ffsim(*args, "-q").err == ""


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--algorithm", "rng"], 2, "--algorithm rng: no algorithm named 'rng'; did you mean 'ring'?"),
        (["--nodes", "2-8"], 2, "--nodes 2-8: cannot read '2-8' as a whole number; write 16, 2:128 or 2,16,128"),
        (["--nodes", "8:2"], 2, "--nodes 8:2: range '8:2' does not grow; write smaller:larger"),
        (["--size", "100"], 2, "--size 100: cannot read '100' as size; use one of B, kB"),
        (["--size", "1 Gb"], 2, "--size 1 Gb: cannot read '1 Gb' as size"),
        (["--placement", "zone"], 2, "--placement zone: got 'zone'; use one of 'in-zone', 'cross-zone' or 'spread'"),
        (["--placement", "0,0"], 2, "placement lists node 0 twice"),
        (["--placement", "0,1250"], 2, "there is no node 1250: they are 0 to 1,249; name others"),
        (["--placement", "0,1", "--nodes", "4"], 2, "placement lists 2 nodes a group, nodes says otherwise"),
        (
            ["--placement", "cross-zone", "--nodes", "3"],
            2,
            "3 nodes do not split over two zones; use in-zone or spread",
        ),
        (["--nodes", "2000"], 3, "fire-flyer-2: nodes: 2,000 are wanted and 625 are in one zone; use fewer nodes"),
        (["--nodes", "200", "--groups", "10"], 3, "nodes: 2,000 are wanted and 1,200 are for groups of 200"),
        (["--nodes", "2000", "--placement", "spread"], 3, "2,000 are wanted and 1,250 are in the cluster; use fewer"),
        (["--nodes", "1", "--gpus-per-node", "1"], 2, "one rank alone exchanges nothing; use at least two"),
        (["--gpus-per-node", "9"], 2, "9 GPUs of each node are wanted and it has 8; use fewer"),
        (["--op", "all_redcue"], 2, "'all_redcue' is not one of"),
        (["--background", "fast"], 2, "--background fast: cannot read 'fast' as bandwidth; use one of Mbit/s"),
        (["--background", "no.csv"], 2, "no.csv: no such file; check the path"),
        (["--queue-pairs", "4"], 2, "--queue-pairs splits flows that are hashed: add --routing hash"),
        (["--set", "nodes.gpuz=1"], 2, "--set nodes.gpuz=1: nodes.gpuz: unknown key; did you mean 'gpu'?"),
        (["--use", "u.csv"], 2, "--use: use over time is shown of one row, and there are 6; give one algorithm"),
        (["--plot", "p.svg", "--size", "0 B"], 2, "--plot: no bytes are moved, so there is no bandwidth; leave it out"),
        (["--use", "u.csv", "--depth", "bounds"], 2, "--use needs something simulated"),
        (["-o", "no/where.json"], 2, "there is no folder no; create it first"),
        (["--plot", "a.svg", "-o", "a.svg"], 2, "a.svg: is named for two outputs; name two files"),
    ],
)
def test_bad_usage_is_refused(ffsim, tmp_path, args, code, says):
    answer = ffsim(*ASK, *args)
    assert answer.code == code, answer.err
    assert says in answer.err
    assert answer.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_barrier_takes_time_and_has_no_bandwidth(ffsim):
    (barrier,) = rows(ffsim, "collective", "fire-flyer-2", "--op", "barrier", "--algorithm", "dissemination")
    assert barrier["time_s"] > 0
    assert (barrier["algbw_bytes_per_s"], barrier["busbw_bytes_per_s"]) == (0.0, 0.0)
    assert barrier["bottleneck"] == "latency"


def test_an_operation_that_its_algorithm_does_not_do_is_refused(ffsim):
    answer = ffsim("collective", "fire-flyer-2", "--algorithm", "double-tree,rng", "--op", "all_gather")
    assert (answer.code, answer.out) == (2, "")
    first, second = answer.err.splitlines()
    assert first.startswith("--algorithm double-tree,rng: double-tree does no all_gather; use one of ring")
    assert second == "--algorithm double-tree,rng: no algorithm named 'rng'; did you mean 'ring'?"


def test_all_wrong_options_are_reported_at_once(ffsim):
    answer = ffsim("collective", "fire-flyer-3", "--algorithm", "rng", "--nodes", "x", "--size", "y")
    assert answer.code == 2
    assert [line.split(":")[0] for line in answer.err.splitlines()] == [
        "--algorithm rng",
        "--nodes x",
        "--size y",
        "no cluster file named 'fire-flyer-3'; did you mean 'fire-flyer-2'?",
    ]


def test_storage_traffic_needs_storage(ffsim):
    answer = ffsim("collective", "h800-2048", "--algorithm", "ring", "--background", "1 GB/s", "--size", "1MiB")
    assert (answer.code, answer.err) == (2, "h800-2048: background: there are no storage nodes; give a file\n")


def test_a_background_without_lanes_is_doubted(ffsim):
    Path("others.csv").write_text("src,dst,bytes\ngpu 99,gpu 8,1e9\n")
    ask = ("collective", "h800-2048", "--algorithm", "ring", "--size", "1MiB", "--background", "others.csv")
    assert "warning: h800-2048 has no virtual lanes" in ffsim(*ask).err
