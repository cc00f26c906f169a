"""Measured kernels from the Parquet tables of ``aiconfigurator`` (Apache-2.0), row by row as if they came from a CSV.

The tables lie in ``systems/data/<gpu>/<family>/<framework>/<version>/<kind>_perf.parquet``. Times of the kinds read
here are milliseconds of one call. Three traps, seen in aiconfigurator-core 0.12.0:

- all-to-all tables count microseconds, and those of NCCL give sizes in elements: neither is read;
- tables were copied between devices (``h200_sxm/.../wideep_deepep_normal_perf.parquet`` holds rows of an H100), so the
  ``device`` column decides and not the folder;
- ``wideep_*_mla`` tables call whole modules by the names of bare kernels, so the file's name says which it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from ffsim.compute.cells import Skip
from ffsim.compute.readers import PACKAGED, Table, read_rows
from ffsim.errors import Problem, ScenarioError
from ffsim.hardware import Gpu

PACKAGES = ("aiconfigurator-core", "aisimulate")  # the second is the first's successor
INSTALL = "pip install 'ffsim[aiconfigurator]'"
SUFFIX = "_perf.parquet"
US_PER_MS = 1000.0
EXCHANGES = ("a2a", "alltoall", "deepep", "nccl", "oneccl", "allreduce")

Raw = Mapping[str, Any]


def _nothing(_raw: Raw) -> Raw:
    return {}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of table that ffsim models.

    Attributes:
        op: operator of its rows; empty where the table's ``op_name`` is it.
        columns: name of each column in our CSV files, and in the table.
        needs: columns of the table that `derived` reads.
        derived: further cells of a row; raises `Skip` for rows that ffsim has no model of.
    """

    op: str
    columns: Mapping[str, str]
    needs: tuple[str, ...] = ()
    derived: Callable[[Raw], Raw] = _nothing


def read_parquet(path: Path, gpu: Gpu, names: Sequence[str]) -> Table:
    """Read a Parquet table of measured kernels.

    Args:
        path: the file, or ``aiconfigurator:family/framework/version[/kind]`` for a table of the installed package.
        gpu: rows whose ``device`` is another are left out.
        names: of the GPU; the first that is a folder of the package is meant.

    Raises:
        ScenarioError: no such file or package, a kind that is not read, or everything that is wrong in the rows.
    """
    where = str(path)
    file = _packaged(where, names) if where.startswith(PACKAGED) else path
    name = file.name.removesuffix(SUFFIX)
    if name not in KINDS:
        raise ScenarioError(_not_read(where, name))
    kind = KINDS[name]
    skipped: Counter[str] = Counter()
    rows: list[tuple[int, dict[str, str]]] = []
    for number, raw in enumerate(_load(file, kind, where), start=1):
        try:
            rows.append((number, _translated(raw, kind, gpu)))
        except Skip as reason:
            skipped[str(reason)] += 1
    return read_rows(where, rows, names, gpu.sms.value, skipped)


def _translated(raw: Raw, kind: Kind, gpu: Gpu) -> dict[str, str]:
    """One row in the columns of our CSV files; milliseconds become microseconds."""
    device = str(raw.get("device") or "")
    if device and _chip(device) != _chip(gpu.title):
        raise Skip(f"of another GPU ({device})")
    cells = {name: raw[column] for name, column in kind.columns.items()}
    cells |= kind.derived(raw)
    cells["op"] = kind.op or raw["op_name"]
    if raw["latency"] is not None:
        cells["us"] = raw["latency"] * US_PER_MS
    return {name: str(value) for name, value in cells.items() if value is not None}


def _chip(device: str) -> tuple[str, bool]:
    """Chip and form of a GPU: ``A100-SXM4-80GB`` and ``NVIDIA A100 SXM4 40 GB`` are one, an A100 PCIe another."""
    found = re.search(r"\b[a-z]+\d+[a-z]?\b", device.lower())
    return found[0] if found else device.lower(), "pcie" in device.lower()


def _load(file: Path, kind: Kind, where: str) -> Iterator[Raw]:
    """Rows of a table as dictionaries.

    Raises:
        ScenarioError: it cannot be read, or lacks columns.
    """
    try:
        from pyarrow import parquet  # noqa: PLC0415 - an optional package
    except ImportError:
        raise ScenarioError(Problem(where=where, what="Parquet needs pyarrow", fix=INSTALL)) from None
    try:
        table = parquet.ParquetFile(file).read()
    except (OSError, ValueError) as error:
        raise ScenarioError(Problem(where=where, what=f"cannot be read: {error}", fix="give a Parquet file")) from None
    wanted = (*kind.columns.values(), *kind.needs, "latency")
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        fix = "tables of aiconfigurator-core 0.12 are read; give others as CSV"
        raise ScenarioError(Problem(where=where, what=f"no column {', '.join(missing)}", fix=fix))
    return (row for batch in table.to_batches() for row in batch.to_pylist())


def _not_read(where: str, name: str) -> Problem:
    if any(part in name for part in EXCHANGES):
        what = f"table {name} is of transfers over links, in other units and not on one GPU"
    else:
        what = f"no model of the table {name}"
    known = ", ".join(f"{each}{SUFFIX}" for each in KINDS)
    return Problem(where=where, what=what, fix=f"these are read, by the file's name: {known}")


# --- tables of the installed package ----------------------------------------------------------------------------------


def _packaged(where: str, names: Sequence[str]) -> Path:
    """File of a table that the installed package ships, found without importing the package.

    Raises:
        ScenarioError: the package is not there, or the name fits no table or several.
    """
    tables = _shipped(where)
    wanted = where.removeprefix(PACKAGED).strip("/").removesuffix(SUFFIX)
    folders = [name.replace("-", "_") for name in names]
    folder = next((each for each in folders if any(table.startswith(f"{each}/") for table in tables)), None)
    if folder is None:
        have = ", ".join(sorted({table.partition("/")[0] for table in tables}))
        raise ScenarioError(Problem(where=where, what=f"no tables of {names[0]}", fix=f"there are those of {have}"))
    own = {name.removeprefix(f"{folder}/"): file for name, file in tables.items() if name.startswith(f"{folder}/")}
    found = [name for name in own if name == wanted or name.startswith(f"{wanted}/")]
    if len(found) != 1:
        what = f"{len(found)} tables of {folder} fit" if found else f"no such table of {folder}"
        near = [name for name in own if name.partition("/")[0] == wanted.partition("/")[0]]
        choice = ", ".join(f"{PACKAGED}{name}" for name in sorted(found or near or own))
        raise ScenarioError(Problem(where=where, what=what, fix=f"use one of {choice}"))
    return own[found[0]]


def _shipped(where: str) -> dict[str, Path]:
    """Tables of the installed package that are read: ``gpu/family/framework/version/kind`` and the file.

    Raises:
        ScenarioError: the package is not installed.
    """
    for package in PACKAGES:
        try:
            installed = distribution(package)
        except PackageNotFoundError:
            continue
        found = {}
        for each in installed.files or ():
            name = each.as_posix().partition("systems/data/")[2].removesuffix(SUFFIX)
            if name.rpartition("/")[2] in KINDS:
                found[name] = Path(str(installed.locate_file(each)))
        return found
    raise ScenarioError(Problem(where=where, what=f"{PACKAGES[0]} is not installed", fix=INSTALL))


# --- the kinds --------------------------------------------------------------------------------------------------------


def _whole_sequences(raw: Raw) -> Raw:
    if raw["step"]:
        raise Skip("prefill after a cached prefix")
    return _unwindowed(raw)


def _one_token(raw: Raw) -> Raw:
    """The new token attends to itself too: ``step`` tokens lie in the cache and ``isl`` (1) comes."""
    return {"kv_len": raw["step"] + raw["isl"], **_unwindowed(raw)}


def _unwindowed(raw: Raw) -> Raw:
    if (raw.get("window_size") or 0) > 0:
        raise Skip("attention over a window")
    if raw.get("beam_width", 1) != 1:
        raise Skip("beam search")
    return {}


def _gated(raw: Raw) -> Raw:
    if "nongated" in str(raw["kernel_source"]):
        raise Skip("experts without a gate")
    return {}


def _deepseek_v3(raw: Raw) -> Raw:
    if raw["architecture"] != "DeepseekV3ForCausalLM":
        raise Skip(f"attention modules of {raw['architecture']}")
    return {}


_KERNEL = {"kernel": "kernel_source"}
_ATTENTION = {
    **_KERNEL,
    "dtype": "attn_dtype",
    "kv_dtype": "kv_cache_dtype",
    "batch": "batch_size",
    "num_heads": "num_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
}
_MLA = {
    **_KERNEL,
    "dtype": "mla_dtype",
    "kv_dtype": "kv_cache_dtype",
    "batch": "batch_size",
    "num_heads": "num_heads",  # of this GPU, whatever tp_size
}
_MODULE = {**_MLA, "dtype": "gemm_type"}
_EXPERTS = {
    **_KERNEL,
    "dtype": "moe_dtype",
    "num_tokens": "num_tokens",
    "hidden": "hidden_size",
    "inter": "inter_size",
    "topk": "topk",
    "num_experts": "num_experts",
    "tp": "moe_tp_size",
    "ep": "moe_ep_size",
    "distribution": "distribution",
}
KINDS = {
    "gemm": Kind("gemm", {**_KERNEL, "dtype": "gemm_dtype", "m": "m", "n": "n", "k": "k"}),
    "context_attention": Kind("attn_prefill", {**_ATTENTION, "seq_len": "isl"}, ("step",), _whole_sequences),
    "generation_attention": Kind("attn_decode", _ATTENTION, ("isl", "step"), _one_token),
    "context_mla": Kind("mla_prefill_core", {**_MLA, "seq_len": "isl"}, ("step",), _whole_sequences),
    "generation_mla": Kind("mla_decode_core", _MLA, ("isl", "step"), _one_token),
    "mla_context_module": Kind("mla_prefill_module", {**_MODULE, "seq_len": "isl"}, ("architecture",), _deepseek_v3),
    "mla_generation_module": Kind("mla_decode_module", {**_MODULE, "kv_len": "step"}, ("architecture",), _deepseek_v3),
    "mla_bmm": Kind(
        "", {**_KERNEL, "dtype": "bmm_dtype", "num_tokens": "num_tokens", "num_heads": "num_heads"}, ("op_name",)
    ),
    "moe": Kind("moe_experts", _EXPERTS, (), _gated),
    "wideep_context_moe": Kind("moe_experts_deepep_context", _EXPERTS),
    "wideep_generation_moe": Kind("moe_experts_deepep_generation", _EXPERTS),
}
