"""Bad input: one clear message, the documented exit code, no traceback, nothing written."""

import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
TINY = (DATA / "tiny-pretrain.yaml").read_text()

NINE = ", ".join(["*a"] * 9)
BOMB = f"a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [{NINE}]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("bcdefgh", "cdefghi", strict=True)
)

FILES = {
    "unknown key": (
        TINY.replace("global_batch", "globl_batch"),
        "case.yaml:6:1: globl_batch: unknown key; did you mean 'global_batch'?",
    ),
    "unknown nested key": (
        TINY.replace("schedule:", "schedul:"),
        "case.yaml:8:23: plan.schedul: unknown key; did you mean 'schedule'?",
    ),
    "wrong unit": (
        TINY.replace("1 Gtoken", "1 Gb/s"),
        "case.yaml:4:9: tokens: cannot read '1 Gb/s' as tokens; use one",
    ),
    "no unit": (TINY.replace("1 Gtoken", "1000000"), "case.yaml:4:9: tokens: 1000000 has no unit; add one of token,"),
    "duplicate key": (
        TINY + "global_batch: 128\n",
        "case.yaml:9:1: global_batch: duplicate key, first given at line 6; keep one of the two",
    ),
    "bomb": (BOMB, "case.yaml:1:4: a: anchors and aliases are not allowed; repeat the value"),
    "unsafe tag": (
        TINY.replace("tiny-moe", "!!python/object/apply:os.system ['touch pwned']"),
        "case.yaml:3:8: model: tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed",
    ),
    "empty": ("", "case.yaml: the file is empty; see `ffsim schema`"),
    "only a comment": ("# nothing\n", "case.yaml: the file is empty"),
    "a list": ("- 1\n", "case.yaml: the top level must be a mapping of keys to values"),
    "not YAML": ("kind: [pretrain\n", "case.yaml:2:1: not valid YAML"),
    "unknown model": (
        TINY.replace("tiny-moe", "deepseek-v4"),
        "case.yaml:3:8: model: no model file named 'deepseek-v4'",
    ),
    "wrong kind": (
        TINY.replace("kind: pretrain", "kind: cluster"),
        "case.yaml:1:7: kind: expected a pretrain or collective or flows or storage file, got kind 'cluster'",
    ),
    "not a number": (TINY.replace("256", ".nan"), "case.yaml:6:15: global_batch: '.nan' is not a finite number"),
}


def assert_refused(answer, code, says, folder, before):
    assert answer.code == code, answer.err
    assert says in answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert "internal error" not in answer.err
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_refused_at_its_place(ffsim, tmp_path, case):
    text, says = FILES[case]
    Path("case.yaml").write_text(text)
    shutil.copy(DATA / "tiny-moe.yaml", tmp_path)
    answer = ffsim("run", "h800-2048", "case.yaml", "-o", "out.json", "--report", "r.html", "--trace", "t.json")
    assert_refused(answer, 2, says, tmp_path, ["case.yaml", "tiny-moe.yaml"])


def test_a_bandwidth_in_gilbert_is_refused(ffsim, tmp_path):
    """pint reads ``200 Gb/s`` as gilbert per second; we do not."""
    text = (
        "base: cx6-200g\nbandwidth: {value: 200 Gb/s, source: {ref: mine, kind: assumed}, low: 1 GB/s, high: 30 GB/s}\n"
    )
    Path("nic.yaml").write_text(text)
    answer = ffsim("run", "h800-2048", "deepseek-v3-pretrain", "--set", "nodes.nic=nic.yaml")
    says = "nic.yaml:2:20: bandwidth.value: cannot read '200 Gb/s' as bandwidth; use one of Mbit/s, Gbit/s"
    assert_refused(answer, 2, says, tmp_path, ["nic.yaml"])


def test_all_problems_of_both_files_are_reported_at_once(ffsim):
    Path("case.yaml").write_text(TINY.replace("global_batch", "globl_batch").replace("1 Gtoken", "1 Gb/s"))
    Path("cluster.yaml").write_text("base: h800-2048\nnodez: {count: 4}\n")
    answer = ffsim("run", "cluster.yaml", "case.yaml")
    lines = answer.err.splitlines()
    assert any(line.startswith("cluster.yaml:2:1: nodez: unknown key; did you mean 'nodes'?") for line in lines)
    assert answer.code == 2


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        ("missing.yaml", "missing.yaml: no such file; check the path"),
        ("deepseek-v3-pretrian", "no workload file named 'deepseek-v3-pretrian'; did you mean 'deepseek-v3-pretrain'?"),
        ("folder.yaml", "folder.yaml: is a directory; name a YAML file"),
        ("binary.yaml", "binary.yaml: is not UTF-8 text (byte 0); save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read(ffsim, tmp_path, workload, says):
    Path("folder.yaml").mkdir()
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert_refused(ffsim("run", "h800-2048", workload), 2, says, tmp_path, ["binary.yaml", "folder.yaml"])


@pytest.mark.parametrize(
    ("override", "code", "says"),
    [
        ("plan.pp=3", 3, "--set plan.pp=3: plan.pp: 3 pipeline ranks do not divide 2,048 GPUs; use a divisor"),
        ("plan.ep=512", 3, "--set plan.ep=512: plan.ep: 512 ranks for 256 routed experts; use at most 256"),
        ("plan.pp=8", 3, "plan: pipeline rank 0 needs 107 GB of 80 GB on each NVIDIA H800 SXM5 80 GB"),
        (
            "plan.tp=2",
            3,
            "2 tensor-parallel ranks would all send the same tokens to the experts; set sequence_parallel",
        ),
        ("plan.gpu=2", 2, "--set plan.gpu=2: plan.gpu: unknown key; did you mean 'gpus'?"),
        ("plan.pp", 2, "--set plan.pp: cannot be read; write --set path.to.key=value"),
        ("plan.pp=x", 2, "--set plan.pp=x: plan.pp: expected a whole number, got 'x'"),
        ("title=x", 2, "--set title=x: both files have 'title'; write cluster.title or workload.title"),
        ("nodes.nic=cx6", 2, "--set nodes.nic=cx6: nodes.nic: no nic file named 'cx6'; installed: cx6-200g, cx7-400g"),
        ("nodes.power.value=8 Gb/s", 2, "nodes.power.value: cannot read '8 Gb/s' as power; use one of W, kW, MW"),
        ("assumptions.operator_time.value=1.2", 2, "value 1.2 lies outside its range 0.94 to 1.08; change low or high"),
        ("assumptions.operator_time.high=1e300", 2, "assumptions.operator_time.high: must be at most 1000, got 1e+300"),
    ],
)
def test_a_bad_option_is_named(ffsim, tmp_path, override, code, says):
    answer = ffsim("run", "h800-2048", "deepseek-v3-pretrain", "--set", override, "-o", "out.json")
    assert_refused(answer, code, says, tmp_path, [])


def test_swapped_names_are_recognised(ffsim, tmp_path):
    answer = ffsim("run", "deepseek-v3-pretrain", "h800-2048")
    assert_refused(answer, 2, "the first name is a workload, the second a cluster; swap the two", tmp_path, [])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["run", "h800-2048"], "Missing argument 'WORKLOAD'"),
        (["run", "h800-2048", "deepseek-v3-pretrain", "--formt", "json"], "No such option"),
        (["run", "h800-2048", "deepseek-v3-pretrain", "--format", "xml"], "'xml' is not one of"),
        (["run", "h800-2048", "deepseek-v3-pretrain", "--seed", "-1"], "-1 is not in the range"),
        (["run", "h800-2048", "deepseek-v3-pretrain", "-o", "no/where.json"], "there is no folder no; create it first"),
        (
            ["run", "h800-2048", "deepseek-v3-pretrain", "--depth", "bounds", "--trace", "t"],
            "--trace needs a simulated",
        ),
        (["explain", "h800-2048", "deepseek-v3-pretrain", "--depth", "bounds"], "explain needs a simulated timeline"),
        (["catalog", "gpu", "h801-sxm"], "no gpu file named 'h801-sxm'; did you mean 'h800-sxm'?"),
        (["catalog", "gpuu"], "'gpuu' is not one of"),
        (["schema", "gpuu"], "'gpuu' is not one of"),
        (["validate", "nothing.yaml"], "nothing.yaml: no such file; check the path"),
    ],
)
def test_bad_usage_is_exit_code_2(ffsim, tmp_path, args, says):
    assert_refused(ffsim(*args), 2, says, tmp_path, [])
