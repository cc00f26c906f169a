"""``ffsim compare``: the table, its JSON, candidates that cannot run, and questions that cannot be asked."""

import csv
import io
import json
from pathlib import Path

import pytest

from ffsim import __version__

DATA = Path(__file__).parents[1] / "data"
DENSE, MOE = DATA / "tiny-1f1b.yaml", DATA / "tiny-pretrain.yaml"
TWO = ("compare", "h800-2048", "dgx-a100-10000", "--workload", DENSE, "--vary", "plan.pp=2,3")


def rounded(value):
    """Six significant digits: processors may differ in the last ones."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_the_table_is_stable_and_keeps_what_cannot_run(ffsim, file_regression):
    answer = ffsim(*TWO)
    assert answer.code == 0
    assert "3 pipeline ranks do not divide 16 GPUs" in answer.out
    file_regression.check(answer.out)


@pytest.mark.slow
def test_its_json_is_versioned_and_stable(ffsim, data_regression):
    data = json.loads(ffsim(*TWO, "--format", "json", "--seed", "3").out)
    assert data["schema"] == "ffsim.comparison/1"
    assert data["provenance"].pop("ffsim_version") == __version__
    data["question"]["workloads"] = [Path(name).name for name in data["question"]["workloads"]]
    for group in data["comparisons"]:
        group["workload"] = Path(group["workload"]).name
        for candidate in group["candidates"]:
            assert len(candidate.pop("scenario_sha256", 64 * "0")) == 64
    data_regression.check(rounded(data))


def test_every_candidate_is_a_row_of_csv(ffsim):
    job = ("compare", "h800-2048", "--workload", DENSE, MOE, "--depth", "bounds", "--vary", "plan.micro_batch=1,3")
    rows = list(csv.DictReader(io.StringIO(ffsim(*job, "--format", "csv").out)))
    assert [(Path(row["workload"]).stem, row["plan.micro_batch"], row["ran"]) for row in rows] == [
        (name, size, str(size == "1")) for name in ("tiny-1f1b", "tiny-pretrain") for size in ("1", "3")
    ]
    assert float(rows[0]["cost_per_mtoken_usd"]) * 1e3 == pytest.approx(float(rows[0]["cost_usd"]))  # 1 Gtoken
    assert float(rows[0]["cost_usd"]) < float(rows[0]["cost_usd_high"])
    assert rows[1]["step_s"] == rows[1]["step_s_low"] == ""
    assert "do not divide" in rows[1]["refused"]


def test_an_override_may_hold_for_one_cluster_or_workload(ffsim):
    job = ("compare", "h800-2048", "h800-2048-mrft", "--workload", DENSE, "--depth", "bounds", "--format", "json")
    only = ffsim(*job, "--set", "h800-2048-mrft:plan.pp=2", "--set", f"{DENSE}:plan.gpus=32")
    [group] = json.loads(only.out)["comparisons"]
    gpus = [one["figures"]["gpus"]["value"] for one in group["candidates"]]
    weights = [one["memory_bytes"]["weights"] for one in group["candidates"]]
    assert gpus == [32, 32]
    assert weights[1] > 1.5 * weights[0]


def test_nothing_that_can_run_exits_3_with_every_reason(ffsim):
    answer = ffsim("compare", "fire-flyer-2", "--workload", "deepseek-v3-pretrain", DENSE, "--set", "precision=fp8")
    assert answer.code == 3
    assert answer.out.count("none of the candidates can run") == 2
    assert answer.out.count("has no fp8") == 2


def test_mistakes_are_all_named_at_once_before_anything_runs(ffsim):
    answer = ffsim(
        *("compare", "h800-2048", "fire-flyer-3", "--workload", DENSE, "deepseek-v3-pretrains"),
        *("--vary", "plan.shedule=1f1b", "--vary", "plan.pp", "--set", "nodes.nix=3", "-o", "a.json"),
    )
    assert answer.code == 2
    for mistake in (
        "no cluster file named 'fire-flyer-3'; did you mean 'fire-flyer-2'?",
        "no workload file named 'deepseek-v3-pretrains'; did you mean 'deepseek-v3-pretrain'?",
        "--vary plan.shedule=1f1b: plan.shedule: unknown key; did you mean 'schedule'?",
        "--vary plan.pp: cannot be read; write --vary path.to.key=value,value",
        "--set nodes.nix=3: nodes.nix: unknown key; did you mean 'nic'?",
    ):
        assert answer.err.count(mistake) == 1, mistake
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ((), "no cluster to compare"),
        (("h800-2048",), "no workload to compare with; add --workload NAME"),
        (("h800-2048", "h800-2048", "--workload", MOE), "cluster: 'h800-2048' is named twice"),
        (("h800-2048", "--workload", MOE, MOE), "--workload: '"),
        (("h800-2048", "--workload", MOE, "--vary", "plan.pp=2,2"), "--vary plan.pp: '2' is named twice"),
        (("h800-2048", "--workload", MOE, "--vary", "plan.pp=2", "--set", "plan.pp=4"), "is given by --set, too"),
        (("h800-2048", "--workload", MOE, "--set", "h100:plan.pp=4"), "'h100' is neither cluster nor workload here"),
        (("h800-2048", "./h800-2048.yaml", "--workload", MOE), "have one name; rename one of them"),
        (("h800-2048", "--workload", "fire-flyer-2"), "is a cluster, not a workload; name clusters before --workload"),
        (("h800-2048", "--workload", "3fs-read"), "3fs-read: is a workload of kind storage"),
    ],
)
def test_questions_that_cannot_be_asked(ffsim, job, says):
    answer = ffsim("compare", *job)
    assert answer.code == 2
    assert says in answer.err


@pytest.mark.slow
def test_the_report_is_written_beside_the_answer(ffsim):
    answer = ffsim(*TWO, "--report", "r.html", "--format", "markdown")
    assert answer.code == 0
    assert answer.out.startswith("# Tiny dense pre-training: ")
    html = Path("r.html").read_text()
    assert f"ffsim compare h800-2048 dgx-a100-10000 --workload {DENSE} --vary plan.pp=2,3" in html
    assert html.count("<svg") == 4  # no relative price of an H800
    assert "report: r.html" in answer.err
