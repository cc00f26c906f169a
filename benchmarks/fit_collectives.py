"""Fit the figures of NCCL and DeepEP to the measured rows that ship, and say how far off they are on rows left out.

Run as ``python benchmarks/fit_collectives.py [FILE ...]``: prints what to write into ffsim/collectives/data.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ffsim.collectives import NcclLibrary, load_expert_kernels, load_low_latency_kernels, load_nccl, rows
from ffsim.compute.cells import Cells
from ffsim.hardware import Gpu, load_part

MEASURED = Path(rows.__file__).parent / "measured"
LARGE = 2**20
STIFF = 30.0  # weight of what must not be, against relative errors


@dataclass(frozen=True)
class Task:
    """One file to fit: which figures, to which rows, and by what the rows that are left out in turn are told apart."""

    load: Callable[[str], Any]
    cache: str
    paths: Sequence[str]
    wanted: Callable[[dict[str, str]], bool]
    folds: str


LINKS = ("inside.LL.hop", "inside.LL.share", "inside.LL128.hop", "inside.LL128.share", "inside.Simple.hop")
NVLINK = (
    "launch", *LINKS, "inside.Simple.share", "inside.Simple.ramp", "own_copy",
    "direct_launch", "direct.LL.share", "direct.Simple.hop", "direct.Simple.share", "direct.Simple.ramp",
)  # fmt: skip
OLDER = ("inside.Simple.share", "inside.Simple.ramp", "direct_launch", "direct.Simple.share", "direct.Simple.ramp")
ONE_SHOT = ("one_shot.launch", "one_shot.rank", "one_shot.share")
NORMAL = ("latency", "node_latency", "fill", "scale_up_share", "network_share", "copy_per_sm", "copy_inside_per_sm")
INSIDE = ("latency", "fill", "copy_inside_per_sm")
SELECTION = ("latency", "node_latency", "network_share")


def _both(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{way}.{name}" for way in ("dispatch", "combine") for name in names)


def _rows(gpu: str, *starts: str, kernel: str = "") -> Callable[[dict[str, str]], bool]:
    return lambda row: row["gpu"].startswith(gpu) and row["op"].startswith(starts) and row["kernel"].startswith(kernel)


def _pairs(ranks: str) -> Callable[[dict[str, str]], bool]:
    return lambda row: row["gpu"] == "a100_pcie_pairwise_nvlink" and (row["num_gpus"] == "2") == (ranks == "2")


TASKS = {
    "nccl-nvlink3": Task(load_nccl, "_library", NVLINK, _rows("a100_sxm", "nccl_"), "num_gpus"),
    "nccl-nvlink4": Task(
        load_nccl, "_library", (*NVLINK, "nvls.hop", "nvls.share"), _rows("h100", "nccl_"), "num_gpus"
    ),
    "nccl-nvlink3-trtllm": Task(
        load_nccl, "_library", ONE_SHOT, _rows("a100", "custom_"), "num_gpus"
    ),
    "nccl-nvlink4-trtllm": Task(
        load_nccl, "_library", ONE_SHOT, _rows("h", "custom_"), "num_gpus"
    ),
    "nccl-nvlink3-vidur": Task(load_nccl, "_library", (*OLDER, "host"), _rows("a100_sxm", "vidur_"), "num_gpus"),
    "nccl-nvlink4-vidur": Task(load_nccl, "_library", (*OLDER, "host"), _rows("h100", "vidur_"), "num_gpus"),
    "nccl-bridge3-vidur": Task(load_nccl, "_library", (*OLDER, "host"), _pairs("2"), "op"),
    "nccl-pcie4-vidur": Task(load_nccl, "_library", ("inside.Simple.share",), _pairs("4"), "op"),
    "deepep-normal": Task(
        load_expert_kernels,
        "_normal",
        tuple(path for path in _both(NORMAL) if path != "combine.scale_up_share"),
        _rows("h100", "deepep_normal"),
        "num_nodes",
    ),
    "deepep-normal-vllm": Task(
        load_expert_kernels, "_normal", _both(INSIDE), _rows("h", "moe_a2a", kernel="deepep_ht"), "gpu"
    ),
    "deepep-v2-vllm": Task(
        load_expert_kernels, "_normal", _both(INSIDE), _rows("h", "moe_a2a", kernel="deepep_v2_context"), "op"
    ),
    "deepep-v2-vllm-generation": Task(
        load_expert_kernels, "_normal", _both(("latency",)), _rows("h", "moe_a2a", kernel="deepep_v2_gen"), "op"
    ),
    "deepep-low-latency": Task(
        load_low_latency_kernels,
        "_low_latency",
        (*_both(SELECTION), "dispatch.scale_up_share", "combine.copy"),
        _rows("h100", "deepep_ll"),
        "num_nodes",
    ),
    "deepep-low-latency-vllm": Task(
        load_low_latency_kernels,
        "_low_latency",
        ("dispatch.latency", "combine.latency", "dispatch.copy", "combine.copy"),
        _rows("h", "moe_a2a", kernel="deepep_ll"),
        "gpu",
    ),
}  # fmt: skip


def _leaf(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = getattr(value, name)
    return value


def _with(value: Any, path: Sequence[str], leaf: Any) -> Any:
    if not path:
        return leaf
    return replace(value, **{path[0]: _with(getattr(value, path[0]), path[1:], leaf)})


def _to_free(path: str, value: float) -> float:
    """A figure as a number without bounds; those at the end of their range start a little inside it."""
    if path.endswith("share"):
        share = min(value, 0.99)
        return float(np.log(share / (1 - share)))
    return float(np.log(value or (1e4 if path.endswith("ramp") else 1e-6)))


def _from_free(path: str, free: float) -> float:
    return 1 / (1 + np.exp(-free)) if path.endswith("share") else float(np.exp(free))


def _predicted(task: Task, file: Any, part: Sequence[tuple[Cells, Gpu]]) -> list[tuple[float, float]]:
    """Seconds and size of every row with given figures in place of those that ship."""
    kept = getattr(rows, task.cache)
    setattr(rows, task.cache, lambda _: file)
    try:
        found = [rows.read_transfer(cells, gpu) for cells, gpu in part]
    finally:
        setattr(rows, task.cache, kept)
    return [(each.seconds, each.size_bytes) for each in found if each is not None]


def _fit(task: Task, start: Any, part: Sequence[tuple[Cells, Gpu]]) -> Any:
    """Figures of the smallest errors, found from where they start and from a little beside."""
    measured = np.array([cells.number("latency_us") * 1e-6 for cells, _ in part])

    def at(free: Any) -> Any:
        value = start
        for path, each in zip(task.paths, free, strict=True):
            steps = path.split(".")
            figure = replace(_leaf(value, steps), value=_from_free(path, each), low=None, high=None)
            value = _with(value, steps, figure)
        return value

    def off(free: Any) -> Any:
        value = at(free)
        errors = np.log([seconds for seconds, _ in _predicted(task, value, part)]) - np.log(measured)
        return np.append(errors, _disorder(value))

    origin = np.array([_to_free(path, _leaf(start, path.split(".")).value) for path in task.paths])
    best = None
    for seed in range(2):
        shifted = origin + np.random.default_rng(seed).normal(0, 0.15, len(origin)) * (seed > 0)
        found = least_squares(off, shifted, loss="soft_l1", f_scale=0.1, diff_step=[1e-3], max_nfev=30)
        best = found if best is None or found.cost < best.cost else best
    assert best is not None
    return at(best.x)


def _disorder(value: Any) -> list[float]:
    """By how much a protocol that checks more bytes at a time has the shorter step: no kernel is built that way."""
    if not isinstance(value, NcclLibrary):
        return []
    hops = [figures.hop.value for _, figures in value.inside.each()]
    return [STIFF * max(0.0, float(np.log(short / long))) for short, long in pairwise(hops)]


def _errors(task: Task, file: Any, part: Sequence[tuple[Cells, Gpu]]) -> str:
    pairs = _predicted(task, file, part)
    errors = np.array(
        [abs(s / (c.number("latency_us") * 1e-6) - 1) for (s, _), (c, _) in zip(pairs, part, strict=True)]
    )
    large = np.array([size > LARGE for _, size in pairs])
    said = []
    for name, each in (("above 1 MiB", errors[large]), ("up to 1 MiB", errors[~large])):
        if len(each):
            said.append(f"{name}: {len(each)} rows, median {np.median(each):.1%}, P90 {np.quantile(each, 0.9):.1%}")
    return "; ".join(said)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main(names: Sequence[str]) -> None:
    """Fit the named files, or all."""
    with (MEASURED / "links.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    for name in names or TASKS:
        task = TASKS[name]
        chosen = [row for row in table if task.wanted(row)]
        gpus = {row["gpu"]: load_part(Gpu, _gpu(row["gpu"])) for row in chosen}
        part = [(Cells(row, ""), gpus[row["gpu"]]) for row in chosen]
        shipped = task.load(name)
        fitted = _fit(task, shipped, part)
        _say(f"{name}\n  as it ships: {_errors(task, shipped, part)}\n  fitted: {_errors(task, fitted, part)}")
        for path in task.paths:
            _say(f"    {path}: {_leaf(fitted, path.split('.')).value:.4g}")
        for fold in sorted({row[task.folds] for row in chosen}):
            inside = [each for row, each in zip(chosen, part, strict=True) if row[task.folds] != fold]
            outside = [each for row, each in zip(chosen, part, strict=True) if row[task.folds] == fold]
            if inside and outside:
                _say(f"  left out {task.folds} {fold}: {_errors(task, _fit(task, shipped, inside), outside)}")


def _gpu(name: str) -> str:
    return {"a100_sxm": "a100-sxm-80gb", "a100_pcie_pairwise_nvlink": "a100-pcie-40gb"}.get(
        name, name.replace("_", "-")
    )


if __name__ == "__main__":
    main(sys.argv[1:])
