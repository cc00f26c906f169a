"""What the commands print and write."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ffsim import __version__
from ffsim.cli.main import COMMANDS

DATA = Path(__file__).parents[1] / "data"
MOE = DATA / "tiny-pretrain.yaml"


def rounded(value):
    """Six significant digits: processors may differ in the last ones."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def test_run_json_is_versioned_and_stable(ffsim, data_regression):
    answer = ffsim("run", "h800-2048", MOE, "--format", "json", "--seed", "3")
    assert answer.code == 0
    data = json.loads(answer.out)
    assert data["schema"] == "ffsim.result/1"
    assert data["provenance"].pop("ffsim_version") == __version__
    assert len(data["provenance"].pop("scenario_sha256")) == 64
    data["scenario"]["workload"] = Path(data["scenario"]["workload"]).name
    data_regression.check(rounded(data))


def test_run_text_is_stable(ffsim, file_regression):
    file_regression.check(ffsim("run", "h800-2048", MOE).out)


@pytest.mark.slow
def test_run_csv_and_markdown_say_the_same(ffsim):
    table = {
        row["path"]: row["value"]
        for row in csv.DictReader(io.StringIO(ffsim("run", "h800-2048", MOE, "--format", "csv").out))
    }
    data = json.loads(ffsim("run", "h800-2048", MOE, "--format", "json").out)
    assert float(table["headline.step_s"]) == data["headline"]["step_s"]
    markdown = ffsim("run", "h800-2048", MOE, "--format", "markdown").out
    assert markdown.startswith("# Tiny MoE pre-training")
    assert "| step time " in markdown


def test_the_same_command_writes_the_same_bytes(ffsim):
    for name in ("a.json", "b.json"):
        assert ffsim("run", "h800-2048", MOE, "-o", name).code == 0
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


@pytest.mark.slow
def test_the_suffix_of_the_output_chooses_the_format(ffsim):
    for name, start in (("a.json", "{"), ("a.csv", "path,value"), ("a.md", "# Tiny"), ("a.txt", "Tiny MoE")):
        answer = ffsim("run", "h800-2048", MOE, "-o", name)
        assert (answer.code, answer.out) == (0, "")
        assert Path(name).read_text().startswith(start)


def test_an_output_that_exists_is_replaced_whole_or_not_at_all(ffsim):
    Path("a.json").write_text("kept")
    assert ffsim("run", "h800-2048", MOE, "--set", "plan.pp=5", "-o", "a.json").code == 3
    assert Path("a.json").read_text() == "kept"
    assert ffsim("run", "h800-2048", MOE, "-o", "a.json").code == 0
    assert json.loads(Path("a.json").read_text())["schema"] == "ffsim.result/1"
    assert [path.name for path in Path().iterdir()] == ["a.json"]


@pytest.mark.slow
def test_a_link_and_a_pipe_stay_what_they_are(ffsim):
    Path("real.json").write_text("old")
    Path("link.json").symlink_to("real.json")
    assert ffsim("run", "h800-2048", MOE, "-o", "link.json").code == 0
    assert Path("link.json").is_symlink()
    assert json.loads(Path("real.json").read_text())["schema"] == "ffsim.result/1"
    os.mkfifo("pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit(Path("pipe").read_text)
        assert ffsim("run", "h800-2048", MOE, "--format", "csv", "-o", "pipe").code == 0
        assert read.result(timeout=60).startswith("path,value")
    assert Path("pipe").is_fifo()


def test_a_full_disk_is_said(ffsim):
    answer = ffsim("run", "h800-2048", MOE, "-o", "/dev/full")
    assert answer.code == 2
    assert answer.err == "/dev/full: cannot be written: No space left on device; choose another place\n"
    assert Path("/dev/full").is_char_device()


def test_two_outputs_need_two_names(ffsim):
    answer = ffsim("run", "h800-2048", MOE, "--report", "a.html", "--trace", "a.html")
    assert (answer.code, answer.err) == (2, "a.html: is named for two outputs; name two files\n")
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_report_and_trace_are_written_beside_the_answer(ffsim):
    answer = ffsim("run", "h800-2048", MOE, "--report", "r.html", "--trace", "t.json", "--format", "json")
    assert answer.code == 0
    json.loads(answer.out)
    assert "<!doctype html>" in Path("r.html").read_text()[:100].lower()
    assert json.loads(Path("t.json").read_text())["traceEvents"]
    assert "r.html" in answer.err
    assert "ui.perfetto.dev" in answer.err
    assert ffsim("run", "h800-2048", MOE, "--report", "r.html", "-q").err == ""


def test_bounds_answer_without_a_timeline(ffsim):
    data = json.loads(ffsim("run", "h800-2048", MOE, "--depth", "bounds", "--format", "json").out)
    bounds = data["bounds"]["step_s"]
    assert bounds["lower"] <= data["headline"]["step_s"] <= bounds["upper"]
    assert data["breakdown"]["exposed"] == []
    text = ffsim("run", "h800-2048", MOE, "--depth", "bounds").out
    assert "where the step goes" not in text


def test_explain_names_what_limits_and_every_range(ffsim):
    answer = ffsim("explain", "h800-2048", MOE)
    assert answer.code == 0
    assert "The step is held up first by " in answer.out
    data = json.loads(ffsim("explain", "h800-2048", MOE, "--format", "json").out)
    assert data["schema"] == "ffsim.explanation/1"
    assert [row["saved_frac"] for row in data["limits"][:-1]] == sorted(
        (row["saved_frac"] for row in data["limits"][:-1]), reverse=True
    )
    assert {row["input"] for row in data["sensitivity"]} >= {"assumptions.operator_time", "nic.usable_share"}


def test_explain_opens_up_operators(ffsim):
    text = ffsim("explain", "h800-2048", MOE, "--operators", "moe")
    assert text.code == 0
    assert "feed_forward/experts/grouped_linear" in text.out
    assert "cross_entropy" not in text.out
    data = json.loads(ffsim("explain", "h800-2048", MOE, "--operators", "--format", "json").out)
    assert data["schema"] == "ffsim.operators/1"
    assert {row["basis"] for row in data["operators"]} <= {"measured", "interpolated", "extrapolated"}
    for total in data["totals"]:
        own = [row["seconds"] for row in data["operators"] if all(row[key] == total[key] for key in ("piece", "phase"))]
        assert (len(own), sum(own)) == (total["operators"], pytest.approx(total["seconds"]))
    table = list(csv.DictReader(io.StringIO(ffsim("explain", "h800-2048", MOE, "--operators", "--format", "csv").out)))
    assert [row["name"] for row in table] == [row["name"] for row in data["operators"]]
    assert {"flop", "bytes", "intensity_flop_per_byte", "seconds", "roofline_frac"} <= set(table[0])


def test_explain_operators_alone_and_beside_communication(ffsim):
    seconds = {}
    for condition in ("alone", "beside"):
        job = ("explain", "h800-2048", MOE, "--depth", "bounds", "--operators", "moe", "--condition", condition)
        data = json.loads(ffsim(*job, "--format", "json").out)
        assert data["condition"] == condition
        seconds[condition] = sum(row["seconds"] for row in data["operators"])
    assert seconds["alone"] < seconds["beside"]


def test_explain_refuses_operators_that_the_model_has_not(ffsim):
    answer = ffsim("explain", "h800-2048", DATA / "tiny-1f1b.yaml", "--operators", "moe")
    assert answer.code == 2
    assert "Tiny dense has no operators of 'moe': use one of all, embedding, head, dense" in answer.err
    assert "add --operators" in ffsim("explain", "h800-2048", MOE, "--condition", "alone").err


def test_catalog_lists_every_kind_and_shows_sources(ffsim):
    listing = ffsim("catalog").out
    for name in ("h800-2048", "fire-flyer-2", "deepseek-v3-pretrain", "a100-pcie-40gb", "cx7-400g", "qm8700"):
        assert name in listing
    gpu = ffsim("catalog", "gpu", "h800-sxm").out
    assert "peak.bf16" in gpu
    assert "arXiv 2505.09343" in gpu
    dgx = ffsim("catalog", "cluster", "dgx-a100-10000").out
    assert "1,320" in dgx
    assert "1,250" in dgx
    model = json.loads(ffsim("catalog", "model", "deepseek-v3", "--format", "json").out)
    assert model["counted"][0]["ours"] == 671_026_419_200


def test_every_entry_of_the_catalogue_can_be_shown(ffsim):
    for row in json.loads(ffsim("catalog", "--format", "json").out)["entries"]:
        answer = ffsim("catalog", row["kind"], row["name"])
        assert answer.code == 0, (row, answer.err)
        assert row["title"] in answer.out


@pytest.mark.parametrize(
    "kind",
    [
        "cluster",
        "workload",
        "collective",
        "flows",
        "storage",
        "validation",
        "model",
        "gpu",
        "cpu",
        "nic",
        "switch",
        "ssd",
    ],
)
def test_schema_is_json_schema(ffsim, kind):
    schema = json.loads(ffsim("schema", kind).out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == f"ffsim {kind} file"


def test_validate_reads_rows_of_a_user_and_exits_4_on_a_miss(ffsim):
    Path("rows.yaml").write_text(
        """
- {id: hit, source: me, run: {cluster: h800-2048, workload: WORK}, quantity: headline.gpus, value: 128, rel_tol: 0}
- {id: miss, source: me, model: {name: deepseek-v3}, quantity: mtp_parameters, value: 1, unit: billion, rel_tol: 1}
""".replace("WORK", str(MOE))
    )
    answer = ffsim("validate", "rows.yaml")
    assert answer.code == 4
    assert "miss: error " in answer.err
    assert "hit " in answer.out
    assert "OUTSIDE" in answer.out
    rows = json.loads(ffsim("validate", "rows.yaml", "--format", "json").out)["rows"]
    assert [row["passed"] for row in rows] == [True, False]


FAMILIES = """
families:
  sizes: {ranking: true, target_mean: 0.01, target_rank: 0.9}
rows:
  - {id: large, family: sizes, source: me, model: {name: deepseek-v3}, quantity: total_parameters,
     value: 671, unit: billion, rel_tol: 1}
  - {id: middle, family: sizes, source: me, model: {name: deepseek-v2}, quantity: total_parameters,
     value: 100, unit: billion, rel_tol: 2}
  - {id: small, family: sizes, source: me, model: {name: llama-2-7b}, quantity: total_parameters,
     value: 300, unit: billion, rel_tol: 1}
  - {id: other, source: me, family: KV, model: {name: llama-2-7b}, quantity: kv_elements, value: 262144, rel_tol: 0}
"""


def test_validate_judges_families_by_their_goals(ffsim):
    Path("rows.yaml").write_text(FAMILIES)
    answer = ffsim("validate", "rows.yaml", "--summary", "--family", "sizes")
    assert answer.code == 4
    assert "sizes: mean error 77.8" in answer.err
    assert "sizes: rank correlation 0.500 is below 0.9" in answer.err
    assert "large: error" not in answer.err
    assert "KV" not in answer.out
    shown = json.loads(ffsim("validate", "rows.yaml", "--format", "json").out)
    sizes, cache = shown["families"]
    assert (sizes["rows"], sizes["within_tolerance"], sizes["worst_row"]) == (3, 3, "middle")
    assert sizes["rank_correlation"] == 0.5
    assert (cache["worst_abs_error_frac"], cache["missed"]) == (0, [])
    assert "use 'sizes', 'KV'" in ffsim("validate", "rows.yaml", "--family", "size").err
    Path("rows.yaml").write_text(FAMILIES.replace("families:\n  sizes:", "families:\n  siezs:"))
    assert "families.siezs: no row of this file is of this family" in ffsim("validate", "rows.yaml").err


@pytest.mark.slow
def test_a_refused_row_is_a_miss_and_the_others_still_run(ffsim):
    run = "run: {cluster: h800-2048, workload: WORK, set: {plan.gpus: 100}}"
    too_large = "run: {cluster: h800-2048, workload: deepseek-v3-pretrain, set: {plan.micro_batch: 2}}"
    Path("rows.yaml").write_text(
        f"""
- {{id: refused, source: me, {run}, quantity: headline.gpus, value: 100, rel_tol: 0}}
- {{id: odd, source: me, {run}, quantity: fits, value: 0, rel_tol: 0}}
- {{id: full, source: me, {too_large}, quantity: fits, value: 0, rel_tol: 0}}
- {{id: fits, source: me, run: {{cluster: h800-2048, workload: WORK}}, quantity: fits, value: 1, rel_tol: 0}}
- {{id: twice, source: me, run: {{cluster: h800-2048, workload: WORK, also: [WORK]}},
   quantity: memory.1.framework+communication_bytes, value: 8, unit: GB, rel_tol: 1e-9}}
""".replace("WORK", str(MOE))
    )
    answer = ffsim("validate", "rows.yaml")
    assert answer.code == 4
    assert "refused: has no answer" in answer.err
    assert "odd: has no answer" in answer.err
    rows = json.loads(ffsim("validate", "rows.yaml", "--format", "json").out)["rows"]
    assert [row["passed"] for row in rows] == [False, False, True, True, True]
    assert [row["simulated"] for row in rows] == [None, None, 0, 1, pytest.approx(8)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{id: a, quantity: x, value: 1, rel_tol: 0, source: s}", "a row needs exactly one of run, model, cluster"),
        ("{id: a, model: {name: x}, quantity: kv_bytes, value: 1, unit: B, rel_tol: 0, source: s}", "a: no model file"),
        (
            "{id: a, model: {name: deepseek-v3}, quantity: kv, value: 1, rel_tol: 0, source: s}",
            "a: quantity: unknown quantity 'kv'; use one of total_parameters",
        ),
        (
            "{id: a, model: {name: deepseek-v3}, quantity: kv_bytes, value: 1, unit: Gb, rel_tol: 0, source: s}",
            "rows.yaml:1:75: rows.0.unit: cannot read 'Gb' as size; use one of B, kB",
        ),
        (
            "{id: a, model: {name: x}, quantity: q, value: 1, rel_tol: 0, source: s}\n- {id: a}",
            "rows.1.source: missing",
        ),
    ],
)
def test_bad_rows_are_refused(ffsim, row, says):
    Path("rows.yaml").write_text(f"- {row}\n")
    answer = ffsim("validate", "rows.yaml")
    assert answer.code == 2
    assert says in answer.err


def test_version(ffsim):
    assert ffsim("--version").out == f"ffsim, version {__version__}\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_opens_with_examples(ffsim, command):
    answer = ffsim(*[command] * bool(command), "--help")
    assert answer.code == 0
    assert "Examples:" in answer.out


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_fast(command):
    """Best of three in fresh processes, interpreter start included."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "ffsim", *[command] * bool(command), "--help"], check=True, capture_output=True
        )
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.4


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_the_main_job_stays_below_400_mb(tmp_path):
    """With report and trace, the solver compiled already; its time is what `make bench` measures."""
    program = (
        "import re, sys; from ffsim.cli.main import run_cli; code = run_cli(sys.argv[1:]); "
        "status = open('/proc/self/status').read(); "  # the peak of getrusage counts the parent's at the start
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1], file=sys.stderr); sys.exit(code)"
    )
    job = ["run", "h800-2048", "deepseek-v3-pretrain", "-q", "--report", "r.html", "--trace", "t.json"]
    command = [sys.executable, "-c", program, *job]
    small = str(Path(__file__).parents[1] / "data" / "tiny-pretrain.yaml")
    subprocess.run([sys.executable, "-m", "ffsim", "run", "h800-2048", small, "-q"], check=True, capture_output=True)
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert int(done.stderr) < 400e3  # KB


def test_catalog_draws_the_fabric_of_a_cluster(ffsim, tmp_path):
    file = tmp_path / "fabric.svg"
    answer = ffsim("catalog", "cluster", "fire-flyer-2", "--picture", str(file))
    assert answer.code == 0
    assert "counted by ffsim" in answer.out
    assert file.read_text(encoding="utf-8").startswith("<svg")
    refused = ffsim("catalog", "gpu", "h800-sxm", "--picture", str(file))
    assert refused.code == 2
    assert "draws the fabric of one cluster" in refused.err


def test_catalog_draws_a_schedule_and_compares_it_with_its_closed_forms(ffsim, tmp_path):
    file = tmp_path / "schedule.svg"
    asked = ("catalog", "schedule", "zb-h1", "--ranks", "2", "--micro-batches", "3")
    answer = ffsim(*asked, "--picture", str(file))
    assert "rank 0  F0 F1 ·· I0 W0 F2 I1 W1 I2 W2\nrank 1  ·· F0 I0 F1 I1 W0 F2 I2 W1 W2\n" in answer.out
    assert file.read_text().count("<svg") == 1
    data = json.loads(ffsim(*asked, "--times", "F=2,Bi=3,W=1", "--message", "0.5", "--format", "json").out)
    assert (data["schema"], data["times"]["B"], data["largest_bubble_form"]) == ("ffsim.schedule/1", 4.0, 4.0)
    assert data["ranks"][1]["operations"][0] == {
        "kind": "F",
        "module": 0,
        "micro_batch": 0,
        "start": 2.5,
        "end": 4.5,
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["schedule", "zb-h3"], "no schedule named 'zb-h3'; use one of gpipe, 1f1b,"),
        (["schedule", "zb-h1", "--times", "F=x,Q=1"], "--times: cannot read 'Q=1'"),
        (["schedule", "1f1b", "--times", "F=0,Bi=0,W=0"], "--times: nothing takes any time"),
        (["schedule", "zb-h1", "--times", "F=-1"], "zb-h1 needs finite durations of at least 0"),
        (["schedule", "interleaved", "--micro-batches", "9"], "a multiple of 4 micro-batches, got 9: use 8 or 12"),
        (["gpu", "--ranks", "8"], "--ranks: only for one schedule"),
    ],
)
def test_catalog_refuses_what_is_no_schedule(ffsim, options, says):
    refused = ffsim("catalog", *options)
    assert refused.code == 2
    assert says in refused.err
