"""Measured collectives: the row of a table to the time that the models of NCCL and DeepEP give it.

What ``message_bytes`` counts was worked out from the rates: it is the whole buffer of a rank (`nccl_time`). Read as one
rank's share, a gather over two H100 would move 459 GB/s over a link of 450, an exchange 517.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ffsim.collectives.deepep import (
    ExchangeGroup,
    exchange_time,
    load_expert_kernels,
    load_low_latency_kernels,
    low_latency_time,
)
from ffsim.collectives.experts import Routing
from ffsim.collectives.nccl import OPERATIONS, PAIRWISE, NcclLibrary, NodeLinks, Operation, load_nccl, nccl_time
from ffsim.compute.cells import DTYPES, Cells, Skip
from ffsim.hardware import Gpu, Nic, load_part

GENERATIONS = {
    "a100-sxm": "nvlink3",
    "h100-sxm": "nvlink4",
    "h200-sxm": "nvlink4",
    "h800-sxm": "nvlink4",
    "a100-pcie": "pcie4",
}
"""By profile of a GPU: whose NCCL figures are its own."""
PREFIXES = {"nccl_": "", "custom_": "-trtllm", "vidur_": "-vidur", "": "-torch"}
SPELLINGS: dict[str, Operation] = {"alltoall": "all_to_all"}
WORDS = {"all_reduce": "all-reduce", "all_gather": "all-gather", "reduce_scatter": "reduce-scatter"}
SOFTWARE = {"nccl_": "NCCL", "custom_": "TensorRT-LLM", "vidur_": "NCCL as in Vidur", "": "torch.distributed"}
LARGE_BYTES = 2**20
NIC = "cx7-400g"  # one a GPU, as in the machines that the tables of exchanges come from
V3_HIDDEN = 7168


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRow:
    """A row as the models see it.

    Attributes:
        label: family under which its error is reported.
        what: size and ranks, for people.
        size_bytes: what a rank sends or holds.
        seconds: predicted.
        least_s: what no such links can do in less.
    """

    label: str
    what: str
    size_bytes: float
    seconds: float
    least_s: float

    @property
    def family(self) -> str:
        """Label and class of size."""
        return f"{self.label}, {'above' if self.size_bytes > LARGE_BYTES else 'up to'} 1 MiB"


def is_transfer(op: str) -> bool:
    """Whether an operator runs over links and not on one GPU."""
    return op.startswith(("deepep_", "moe_a2a_")) or _operation(op) is not None


def read_transfer(cells: Cells, gpu: Gpu) -> TransferRow | None:
    """Predict one row; none where its cells are wrong, which they then say.

    Raises:
        Skip: links that the row does not describe, or figures that do not ship.
    """
    exchange = cells.text("op").startswith(("deepep_", "moe_a2a_"))
    if gpu.scale_up is None:
        raise Skip(f"of collectives on {gpu.title}, which has no NVLink")
    return _exchange(cells, gpu) if exchange else _collective(cells, gpu)


def _operation(op: str) -> tuple[str, Operation] | None:
    """Prefix (whose measurement) and operation."""
    prefix = next(each for each in PREFIXES if op.startswith(each))
    name = op.removeprefix(prefix)
    known = SPELLINGS.get(name, name)
    return next(((prefix, each) for each in OPERATIONS if each == known), None)


@lru_cache(maxsize=16)
def _library(name: str) -> NcclLibrary:
    return load_nccl(name)


def _collective(cells: Cells, gpu: Gpu) -> TransferRow | None:
    found = _operation(cells.text("op"))
    assert found is not None
    prefix, op = found
    ranks, size = cells.count("num_gpus", "world"), cells.number("message_bytes", "bytes")
    nodes = cells.count("num_nodes", default=1)
    if op in PAIRWISE and ranks != 2:
        cells.fail("num_gpus", f"a send between {ranks} GPUs", "write 2")
    elif ranks < 2:
        cells.fail("num_gpus", "a collective of one GPU", "write 2 or more")
    if cells.problems:
        return None
    if nodes > 1:
        raise Skip("of collectives between nodes, whose network the row does not describe")
    if gpu.profile not in GENERATIONS:
        raise Skip(f"of collectives on {gpu.profile}, for which no NCCL figures ship")
    rate, kind = _links(gpu, ranks)
    library = _library(f"nccl-{kind}{PREFIXES[prefix]}")
    time = nccl_time(op, size, ranks, ranks, NodeLinks(inside_bytes_per_s=rate), library)
    return TransferRow(
        label=f"{SOFTWARE[prefix]} {WORDS.get(op, op.replace('_', ' '))}",
        what=f"{_shown(size)} over {ranks} GPUs: {time.algorithm}, {time.protocol}",
        size_bytes=size,
        seconds=time.seconds,
        least_s=size / ranks / rate,
    )


def _links(gpu: Gpu, ranks: int) -> tuple[float, str]:
    """Rate of a rank's link, and its kind; cards joined in pairs reach two ranks over the bridge, more over PCIe."""
    assert gpu.scale_up is not None
    kind = GENERATIONS[gpu.profile]
    if kind != "pcie4":
        return gpu.scale_up.value, kind
    return (gpu.scale_up.value, "bridge3") if ranks == 2 else (gpu.host_link.value, kind)


def _shown(size: float) -> str:
    return f"{size / 2**20:.4g} MiB" if size >= 2**20 else f"{size / 2**10:.4g} KiB"


LIBRARIES = {
    ("deepep_normal", "deepep"): ("deepep-normal", "DeepEP", "normal"),
    ("deepep_ll", "deepep"): ("deepep-low-latency", "DeepEP", "low latency"),
    ("moe_a2a", "deepep_ht"): ("deepep-normal-vllm", "vLLM", "DeepEP normal"),
    ("moe_a2a", "deepep_ll"): ("deepep-low-latency-vllm", "vLLM", "DeepEP low latency"),
    ("moe_a2a", "deepep_v2_context"): ("deepep-v2-vllm", "vLLM", "DeepEP V2"),
    ("moe_a2a", "deepep_v2_generation"): ("deepep-v2-vllm-generation", "vLLM", "DeepEP V2 generation"),
}
"""By operator and kernel: figures, and how they are called."""


def _exchange(cells: Cells, gpu: Gpu) -> TransferRow | None:
    stem, _, direction = cells.text("op").rpartition("_")
    if direction not in {"dispatch", "combine"}:
        cells.fail("op", f"unknown operator {cells.text('op')!r}", "end it in _dispatch or _combine")
        return None
    kernel = cells.text("kernel", "deepep")
    if (stem, kernel) not in LIBRARIES:
        raise Skip(f"of expert exchanges by {kernel}, for which no figures ship")
    read = _Exchange.of(cells, direction)
    if read is None:
        return None
    assert gpu.scale_up is not None
    file, owner, mode = LIBRARIES[stem, kernel]
    group = ExchangeGroup(
        n_nodes=read.nodes,
        gpus_per_node=read.ranks // read.nodes,
        scale_up_bytes_per_s=gpu.scale_up.value,
        network_bytes_per_s=_network_bytes_per_s(),
    )
    seconds, sent = _exchange_s(cells, file, direction, read, group)
    return TransferRow(
        label=f"{owner} {direction}, {mode}",
        what=f"{read.tokens} tokens over {read.ranks} ranks of {read.nodes} nodes",
        size_bytes=sent,
        seconds=seconds,
        least_s=sent / read.ranks / gpu.scale_up.value,
    )


@lru_cache(maxsize=1)
def _network_bytes_per_s() -> float:
    return load_part(Nic, NIC).bandwidth.value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    """Cells of an expert exchange."""

    tokens: int
    ranks: int
    nodes: int
    experts: int
    top_k: int
    hidden: int
    element_bytes: int

    @classmethod
    def of(cls, cells: Cells, direction: str) -> _Exchange | None:
        ranks, nodes = cells.count("ep", "num_gpus"), cells.count("num_nodes", default=1)
        experts, top_k = cells.count("num_experts"), cells.count("topk")
        tokens, hidden = cells.count("num_tokens"), cells.count("hidden", default=V3_HIDDEN)
        dtype = cells.text("dtype", "default")
        if ranks % nodes:
            cells.fail("num_nodes", f"{ranks} ranks do not spread evenly over {nodes} nodes", "mend the row")
        if experts % ranks:
            cells.fail("num_experts", f"{experts} experts do not spread evenly over {ranks} ranks", "mend the row")
        if top_k > experts:
            cells.fail("topk", f"{top_k} of {experts} experts", "mend the row")
        if cells.problems:
            return None
        # vLLM's tables name no format; their slopes are those of BF16 both ways
        narrow = direction == "dispatch" and DTYPES.get(dtype, "bf16").startswith("fp8")
        return cls(
            tokens=tokens,
            ranks=ranks,
            nodes=nodes,
            experts=experts,
            top_k=top_k,
            hidden=hidden,
            element_bytes=1 if narrow else 2,
        )

    def token_bytes(self, header_bytes: int) -> float:
        """One token on the wire, in FP8 with a scale for every 128 elements."""
        scales = self.hidden / 128 * 4 if self.element_bytes == 1 else 0.0
        return self.hidden * self.element_bytes + scales + (header_bytes if self.element_bytes == 1 else 0)


LOW_LATENCY_HEADER_BYTES = 16  # source: DeepEP tests/legacy/test_low_latency.py


def _exchange_s(cells: Cells, file: str, direction: str, read: _Exchange, group: ExchangeGroup) -> tuple[float, float]:
    """Seconds, and what a rank sends."""
    dispatch = direction == "dispatch"
    if "low-latency" in file:
        size, selections = read.token_bytes(LOW_LATENCY_HEADER_BYTES), read.tokens * read.top_k
        kernels = _low_latency(file)
        way = kernels.dispatch if dispatch else kernels.combine
        return low_latency_time(kernels, way, selections, size, group).seconds, selections * size
    normal, size = _normal(file), read.token_bytes(0)
    sms = cells.count("sms", default=normal.sms.value)
    routing = Routing(experts=read.experts, top_k=read.top_k)
    reached = routing.touched(read.nodes), routing.touched(read.ranks)
    figures = normal.dispatch if dispatch else normal.combine
    return exchange_time(figures, sms, read.tokens, size, reached, group).seconds, read.tokens * size * reached[1]


_normal = lru_cache(maxsize=16)(load_expert_kernels)
_low_latency = lru_cache(maxsize=16)(load_low_latency_kernels)
