"""Measured operators against the model: what ``ffsim calibrate`` reads, reports, fits and refuses."""

import csv
from pathlib import Path

import pytest

from ffsim.compute.calibrate import calibrate, fit_profile, resolve_gpu
from ffsim.compute.measured import measured
from ffsim.compute.profile import OperatorProfile, plain
from ffsim.config import build, parse_document
from ffsim.errors import ScenarioError

GEMM = "op,dtype,m,n,k,us\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "measured.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str, gpu: str = "h200") -> str:
    with pytest.raises(ScenarioError) as caught:
        calibrate(written(folder, text), gpu)
    return str(caught.value)


@pytest.mark.parametrize("name", ["h200", "H200", "h200_sxm", "h200-sxm"])
def test_a_gpu_is_known_by_every_name_that_tables_use(name):
    gpu, names = resolve_gpu(name)
    assert gpu.title == "NVIDIA H200 SXM5 141 GB"
    assert {"h200-sxm", "h200"} <= set(names)


def test_of_several_memory_sizes_the_largest_is_meant():
    assert resolve_gpu("a100_sxm")[0].title == "NVIDIA A100 SXM4 80 GB"


def test_a_shape_that_ships_measured_is_met(tmp_path):
    result = calibrate(written(tmp_path, GEMM + "gemm,bf16,4096,7168,16384,1462.4\n"), "h200")
    (family,) = result.families()
    assert (family.name, family.measured) == ("gemm_bf16", 1.0)
    assert family.errors.median < 0.06


def test_calls_shorter_than_their_issue_count_as_launches(tmp_path):
    result = calibrate(written(tmp_path, GEMM + "gemm,bf16,64,256,512,24.0\n"), "h200")
    assert [family.name for family in result.families()] == ["kernel_launch"]


def test_rows_of_other_gpus_and_of_unmodelled_operators_are_counted(tmp_path):
    text = (
        "gpu,op,dtype,m,n,k,latency_us\n"
        "h100_sxm,gemm,bf16,4096,4096,4096,250\n"
        "h200_sxm,gemm,bf16,4096,4096,4096,190\n"
        "h200_sxm,gemm,int8_wo,4096,4096,4096,190\n"
        "h200_sxm,nccl_all_reduce,half,,,,20\n"
    )
    result = calibrate(written(tmp_path, text), "h200")
    assert len(result.predictions) == 1
    assert sum(result.skipped.values()) == 3
    assert result.to_dict()["families"][0]["rows"] == 1


def test_every_wrong_cell_is_named_with_its_line(tmp_path):
    text = GEMM + "gemm,bf16,4096,4096,4096,0\ngemm,bf16,-1,4096,4096,190\ngemm,bf16,,4096,x,nan\ngem,bf16,1,1,1,1\n"
    message = refused(tmp_path, text)
    for part in (":2: us: 0 is not", ":3: m: -1", ":4: m: is missing", ":4: k: 'x'", ":4: us: nan", ":5: op: unknown"):
        assert part in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("op,dtype,m,n,k,latency_ms\ngemm,bf16,1,1,1,1\n", "no time column, found latency_ms"),
        ("dtype,m,n,k,us\nbf16,1,1,1,1\n", "no column op"),
        ("op,us,us\ngemm,1,1\n", "column us occurs twice"),
        (GEMM, "it has no rows"),
        ("", "no column op"),
        (GEMM + "gemm,bf16,8192,8192,8192,1.6\n", "less than the 1.11e+03 us that the data sheet allows"),
        (GEMM + "gemm,bf16,8192,8192,8192,1600000\n", "give microseconds, not nanoseconds"),
        ("op,layer,batch,seq,attention,hidden,heads,fwd_us\nlayer,x,1,4096,mqa,4096,32,100\n", "neither gqa nor mla"),
        ("op,layer,batch,seq,attention,hidden,heads,fwd_us\nlayer,x,1,4096,gqa,4096,32,100\n", "dense_ffn: is missing"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, text, said):
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("rank", "values", "said"), [("abc", 128, "'abc' is not a number"), (0, 256, "wider than keys")]
)
def test_a_wrong_latent_layer_is_named_with_its_line(tmp_path, rank, values, said):
    columns = "op,layer,batch,seq,attention,hidden,heads,q_lora_rank,kv_lora_rank,qk_nope_dim,qk_rope_dim,v_head_dim"
    row = f"layer,x,1,4096,mla,2048,16,{rank},512,128,64,{values},10944,2000"
    message = refused(tmp_path, f"{columns},dense_ffn,fwd_us\n{row}\n")
    assert ":2: " in message
    assert said in message


def test_no_such_file_and_no_such_gpu(tmp_path):
    with pytest.raises(ScenarioError, match="cannot be read"):
        calibrate(tmp_path / "absent.csv", "h200")
    with pytest.raises(ScenarioError, match="no gpu file named 'h900'"):
        calibrate(written(tmp_path, GEMM), "h900")


LAYERS = """op,layer,mode,batch,seq,attention,hidden,heads,kv_heads,dense_ffn,fwd_us,fwdbwd_us
layer,llama7b,compiled,1,4096,gqa,4096,32,32,11008,2851.1,8857.5
layer,llama7b,compiled,1,2048,gqa,4096,32,32,11008,1321.2,4365.0
layer,llama7b,compiled,2,4096,gqa,4096,32,32,11008,5448.9,17506.7
"""


def test_whole_layers_are_composed_of_their_operators(tmp_path):
    result = calibrate(written(tmp_path, LAYERS), "h200")
    assert {each.family for each in result.predictions} == {"layer_compiled"}
    assert max(abs(each.error) for each in result.predictions) < 0.08


def test_a_composed_row_that_cannot_be_is_left_out_unless_most_are(tmp_path):
    short = "layer,odd,compiled,1,4096,gqa,4096,32,32,11008,2.8,8.8\n"
    result = calibrate(written(tmp_path, LAYERS + short), "h200")
    assert len(result.predictions) == 6
    assert list(result.skipped.values()) == [2]
    assert "less than the" in refused(tmp_path, LAYERS.splitlines()[0] + "\n" + short)


@pytest.mark.slow
def test_a_profile_fitted_to_slower_kernels_meets_them_on_rows_left_out(tmp_path):
    rows = measured("h100-sxm").select(family="gemm", dtype="bf16", library="torch_flow")
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["op", "dtype", "kernel", "m", "n", "k", "us"])
        o = rows.operators
        for i in range(0, len(rows), 2):
            writer.writerow(["gemm", "bf16", "mine", o.m[i], o.n[i], o.k[i], rows.seconds[i] * 1.5e6])
    fitted = fit_profile(path, "h100")
    (refit,) = fitted.refits
    assert refit.before.median > 0.25
    assert refit.after.median < 0.08
    document = parse_document(fitted.yaml(), "mine.yaml")
    assert plain(build(document, OperatorProfile)) == plain(fitted.profile)


def test_too_few_rows_are_not_fitted(tmp_path):
    with pytest.raises(ScenarioError, match="1 rows, 8 are needed"):
        fit_profile(written(tmp_path, GEMM + "gemm,bf16,4096,7168,16384,1462.4\n"), "h200")
