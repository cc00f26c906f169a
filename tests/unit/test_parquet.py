"""Tables of aiconfigurator: the same rows as in a CSV, out of milliseconds, and only those of the right GPU."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path, PurePosixPath

import pytest

from ffsim.compute import parquet
from ffsim.compute.calibrate import calibrate, fit_profile
from ffsim.errors import ScenarioError

H100 = {"framework": "TRTLLM", "version": "1.3.0rc20", "device": "NVIDIA H100 80GB HBM3"}
KERNEL = {**H100, "op_name": "gemm", "kernel_source": "torch_flow"}
SHAPE = {"gemm_dtype": "bfloat16", "m": 4096, "n": 7168, "k": 16384}
GEMM = {**KERNEL, **SHAPE, "latency": 1.5}
HEADS = {"num_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "window_size": 0, "beam_width": 1}
CACHE = {"kv_cache_dtype": "bfloat16", "batch_size": 4, "tp_size": 1}
ATTENTION = {**KERNEL, **HEADS, **CACHE, "attn_dtype": "bfloat16"}
PREFILL = {**ATTENTION, "isl": 1024, "step": 0, "latency": 0.24216}
DECODE = {**ATTENTION, "isl": 1, "step": 4095, "latency": 0.039}
MLA = {**KERNEL, **CACHE, "mla_dtype": "bfloat16", "gemm_type": "bfloat16", "num_heads": 128}
V3 = {**MLA, "architecture": "DeepseekV3ForCausalLM"}
BMM = {**KERNEL, "op_name": "mla_gen_pre", "bmm_dtype": "bfloat16", "num_tokens": 64, "num_heads": 128, "latency": 0.02}
SIZES = {"hidden_size": 7168, "inter_size": 2048, "topk": 8, "num_experts": 256, "moe_tp_size": 1, "moe_ep_size": 8}
MOE = {**KERNEL, **SIZES, "moe_dtype": "fp8_block", "num_tokens": 512, "distribution": "balanced", "latency": 0.53576}


def written(folder: Path, kind: str, *rows: dict[str, object]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    tables = pytest.importorskip("pyarrow.parquet")
    path = folder / f"{kind}_perf.parquet"
    tables.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def refused(path: Path | str, gpu: str = "h100-sxm") -> str:
    with pytest.raises(ScenarioError) as caught:
        calibrate(Path(path), gpu)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "row", "family", "what", "microseconds"),
    [
        ("gemm", GEMM, "gemm_bf16", "m=4096 n=7168 k=16384", 1500),
        ("context_attention", PREFILL, "attention_prefill", "groups=256 m=1024 n=1024 k=256", 242.16),
        ("generation_attention", DECODE, "attention_decode", "groups=32 m=8 n=4096 k=256", 39),
        ("context_mla", {**MLA, "isl": 2048, "step": 0, "latency": 4.0}, "mla_prefill", "groups=512 m=2048", 4000),
        ("generation_mla", {**MLA, "isl": 1, "step": 255, "latency": 0.018}, "mla_decode", "groups=4 m=128 n=256", 18),
        ("mla_context_module", {**V3, "isl": 2048, "step": 0, "latency": 5.8}, "mla_module", "m=8192 n=2112", 5800),
        ("mla_generation_module", {**V3, "isl": 1, "step": 1024, "latency": 0.2}, "mla_module", "m=4 n=2112", 200),
        ("mla_bmm", BMM, "mla_absorb", "groups=128 m=64 n=512 k=128", 20),
        ("moe", MOE, "moe_experts", "groups=32 m=16 n=4096 k=7168", 535.76),
        ("wideep_context_moe", MOE, "moe_experts", "groups=32 m=16 n=4096 k=7168", 535.76),
    ],
)
def test_each_kind_of_table_becomes_rows_in_microseconds(tmp_path, kind, row, family, what, microseconds):
    (found,) = calibrate(written(tmp_path, kind, row), "h100-sxm").predictions
    assert found.case.label == family
    assert found.case.what.startswith(what)
    assert found.case.seconds * 1e6 == pytest.approx(microseconds)


def test_a_table_says_the_same_as_the_csv_made_from_it(tmp_path):
    path = tmp_path / "same.csv"
    path.write_text("op,dtype,kernel,m,n,k,us\ngemm,bf16,torch_flow,4096,7168,16384,1500\n", encoding="utf-8")
    (ours,) = calibrate(path, "h100").predictions
    (theirs,) = calibrate(written(tmp_path, "gemm", GEMM), "h100").predictions
    assert (theirs.seconds, theirs.error, theirs.basis) == (ours.seconds, ours.error, ours.basis)


def test_the_device_column_decides_and_not_the_folder(tmp_path):
    copied = {**GEMM, "device": "NVIDIA H200"}
    result = calibrate(written(tmp_path, "gemm", GEMM, copied, copied), "h100-sxm")
    assert result.skipped == {"of another GPU (NVIDIA H200)": 2}
    assert "holds nothing to compare: 1 of another GPU (NVIDIA H200)" in refused(written(tmp_path, "gemm", copied))


@pytest.mark.parametrize(
    ("device", "gpu", "rows"),
    [("NVIDIA A100-SXM4-80GB", "a100-sxm", 1), ("NVIDIA A100-PCIE-40GB", "a100-pcie", 1), ("NVIDIA H200", "h200", 1)],
)
def test_devices_are_known_as_the_driver_names_them(tmp_path, device, gpu, rows):
    path = written(tmp_path, "gemm", {**GEMM, "device": device, "latency": 5.0})
    assert len(calibrate(path, gpu).predictions) == rows


def test_an_sxm_board_is_not_a_pcie_card(tmp_path):
    path = written(tmp_path, "gemm", {**GEMM, "device": "NVIDIA A100-SXM4-80GB", "latency": 5.0})
    assert "of another GPU (NVIDIA A100-SXM4-80GB)" in refused(path, "a100-pcie")


@pytest.mark.parametrize(
    ("kind", "row", "other", "reason"),
    [
        ("context_attention", PREFILL, {"window_size": 128}, "attention over a window"),
        ("context_attention", PREFILL, {"beam_width": 4}, "beam search"),
        ("context_attention", PREFILL, {"step": 512}, "prefill after a cached prefix"),
        ("gemm", GEMM, {"gemm_dtype": "int8_wo"}, "gemm in int8_wo"),
        ("moe", MOE, {"kernel_source": "moe_torch_flow_nongated"}, "experts without a gate"),
        ("mla_context_module", {**V3, "isl": 64, "step": 0, "latency": 0.3}, {"architecture": "Kimi"}, "of Kimi"),
    ],
)
def test_rows_without_a_model_are_counted(tmp_path, kind, row, other, reason):
    result = calibrate(written(tmp_path, kind, row, {**row, **other}), "h100-sxm")
    assert len(result.predictions) == 1
    assert [(reason in why, rows) for why, rows in result.skipped.items()] == [(True, 1)]


@pytest.mark.parametrize("kind", ["nccl", "moe_a2a", "wideep_deepep_normal", "custom_allreduce"])
def test_tables_of_transfers_are_not_read(tmp_path, kind):
    message = refused(tmp_path / f"{kind}_perf.parquet")
    assert f"table {kind} is of transfers over links, in other units" in message
    assert "gemm_perf.parquet" in message


def test_other_tables_are_refused_with_those_that_are_read(tmp_path):
    assert "no model of the table mamba2" in refused(tmp_path / "mamba2_perf.parquet")


def test_problems_name_the_row(tmp_path):
    message = refused(written(tmp_path, "gemm", GEMM, {**GEMM, "latency": None}, {**GEMM, "m": 0}))
    assert "gemm_perf.parquet: row 2: us: is missing" in message
    assert "gemm_perf.parquet: row 3: m: 0 is not a positive number" in message
    path = written(tmp_path, "gemm", {**GEMM, "latency": 0.0015})
    assert "gemm_perf.parquet: row 1: 1.5 us is less than" in refused(path)


def test_what_is_no_such_table_is_said(tmp_path):
    path = written(tmp_path, "gemm", {**KERNEL, "latency": 1.0})
    assert "no column gemm_dtype, m, n, k" in refused(path)
    path.write_bytes(b"op,us")
    assert "cannot be read" in refused(path)
    assert "cannot be read" in refused(tmp_path / "absent" / "gemm_perf.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refused(tmp_path / "gemm_perf.parquet")
    assert "Parquet needs pyarrow" in message
    assert "pip install 'ffsim[aiconfigurator]'" in message


def test_too_few_rows_are_not_fitted(tmp_path):
    with pytest.raises(ScenarioError, match="1 rows, 8 are needed"):
        fit_profile(written(tmp_path, "gemm", GEMM), "h100-sxm")


class Installed:
    """What importlib.metadata says of an installed package whose files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = [PurePosixPath(each.relative_to(folder).as_posix()) for each in sorted(folder.rglob("*.parquet"))]

    def locate_file(self, path: PurePosixPath) -> Path:
        return self.folder / path


@pytest.fixture
def package(tmp_path, monkeypatch):
    data = tmp_path / "aiconfigurator_core" / "systems" / "data" / "h100_sxm"
    for version in ("gemm/trtllm/1.3.0", "attention/trtllm/1.3.0", "comm/nccl/2.29"):
        (data / version).mkdir(parents=True)
    written(data / "gemm/trtllm/1.3.0", "gemm", GEMM)
    written(data / "attention/trtllm/1.3.0", "context_attention", PREFILL)
    written(data / "attention/trtllm/1.3.0", "generation_attention", DECODE)
    written(data / "comm/nccl/2.29", "nccl", GEMM)
    monkeypatch.setattr(parquet, "distribution", lambda _name: Installed(tmp_path))


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("gemm/trtllm/1.3.0", "gemm_bf16"),
        ("attention/trtllm/1.3.0/context_attention", "attention_prefill"),
        ("attention/trtllm/1.3.0/generation_attention_perf.parquet", "attention_decode"),
    ],
)
def test_a_table_of_the_installed_package_is_found_by_its_gpu(name, family):
    result = calibrate(Path(f"aiconfigurator:{name}"), "h100-sxm")
    assert [each.name for each in result.families()] == [family]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "gpu", "said"),
    [
        ("attention/trtllm/1.3.0", "h100-sxm", "2 tables of h100_sxm fit"),
        ("attention/trtllm/9", "h100-sxm", "no such table of h100_sxm"),
        ("gemm/trtllm/1.3.0", "h800-sxm", "no tables of h800-sxm"),
        ("comm/nccl/2.29", "h100-sxm", "no such table of h100_sxm"),
    ],
)
def test_names_that_fit_no_table_or_several_list_what_there_is(name, gpu, said):
    message = refused(f"aiconfigurator:{name}", gpu)
    assert said in message
    assert "h800" in gpu or "aiconfigurator:attention/trtllm/1.3.0/context_attention" in message


def test_without_the_package_the_extra_is_named(monkeypatch):
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(parquet, "distribution", absent)
    assert "aiconfigurator-core is not installed" in refused("aiconfigurator:gemm/trtllm/1.3.0rc20")
