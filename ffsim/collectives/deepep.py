"""DeepEP's kernels in closed form: how long a dispatch or a combine takes on idle links.

Normal kernels send a token once to every node it has an expert on and hand it on over NVLink to every rank; on its way
SMs copy it once for each of these nodes and ranks, which is what few SMs are short of. Low-latency kernels send every
selection by itself, straight to the rank of its expert. The slowest of network, NVLink and copying decides:

    T = latency + node_latency * log2(nodes) + fill(tokens) + max(network, NVLink, copies)

Source: github deepseek-ai/DeepEP (README, docs/legacy.md, tests/legacy), figures fitted to the rows named in data/.
Domain: balanced experts; one exchange at a time; ranks that start together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log2
from pathlib import Path
from typing import Literal

from ffsim.collectives.data import check
from ffsim.config import Amount, Bandwidth, Count, Figure, PositiveShare, Shelf, Time, load, spec


@spec
class ExchangeFigures:
    """One direction of a normal exchange.

    Attributes:
        latency, node_latency: of a kernel within a node, and more for every doubling of nodes. [s]
        fill: time by which long exchanges trail what binds them, reached half with ``fill_tokens`` tokens. [s]
        scale_up_share, network_share: of the data-sheet rates of NVLink and of the NIC.
        copy_per_sm: what one SM copies where nodes are crossed, one copy for every node and rank reached. [bytes/s]
        copy_inside_per_sm: the same within one node, one copy for every rank reached. [bytes/s]
    """

    latency: Figure[Time]
    node_latency: Figure[Time]
    fill: Figure[Time]
    fill_tokens: Figure[Amount]
    scale_up_share: Figure[PositiveShare]
    network_share: Figure[PositiveShare]
    copy_per_sm: Figure[Bandwidth]
    copy_inside_per_sm: Figure[Bandwidth]

    def fixed_s(self, n_nodes: int, tokens: float) -> float:
        """What does not depend on links and SMs."""
        fill = self.fill.value * tokens / (tokens + self.fill_tokens.value) if tokens else 0.0
        return self.latency.value + self.node_latency.value * log2(n_nodes) + fill

    def copy_rate(self, n_nodes: int) -> float:
        """Bytes per second that one SM copies."""
        return (self.copy_per_sm if n_nodes > 1 else self.copy_inside_per_sm).value


@spec
class ExpertKernels:
    """Normal (high-throughput) kernels, and what they cost beside the links.

    Attributes:
        sms: SMs that the kernels take where a plan does not say otherwise.
        dispatch, combine: the two directions.
        beside_compute_share: share of the network rate reached while compute kernels run beside.
        row_mapping: compute time per dispatched row (token and expert) spent on working out where it goes. [s]
    """

    kind: Literal["expert_kernels"]
    title: str
    sms: Figure[Count]
    dispatch: ExchangeFigures
    combine: ExchangeFigures
    beside_compute_share: Figure[PositiveShare]
    row_mapping: Figure[Time]


@spec
class SelectionFigures:
    """One direction of a low-latency exchange.

    Attributes:
        latency, node_latency: of a kernel within a node, and more for every doubling of nodes. [s]
        scale_up_share, network_share: of the data-sheet rates of NVLink and of the NIC.
        copy: what the kernel copies on all its SMs, none where NVLink always binds first. [bytes/s]
    """

    latency: Figure[Time]
    node_latency: Figure[Time]
    scale_up_share: Figure[PositiveShare]
    network_share: Figure[PositiveShare]
    copy: Figure[Bandwidth] | None = None


@spec
class LowLatencyKernels:
    """Low-latency kernels: every selection straight to the rank of its expert.

    Attributes:
        over_network: ``all``, as in February 2025, or ``between_nodes``, with NVLink inside, as since June 2025.
    """

    kind: Literal["low_latency_kernels"]
    title: str
    over_network: Literal["all", "between_nodes"]
    dispatch: SelectionFigures
    combine: SelectionFigures


DATA = Path(__file__).parent / "data"
SHELF = Shelf("expert kernels", "expert_kernels", DATA)
LOW_LATENCY_SHELF = Shelf("low-latency kernels", "low_latency_kernels", DATA / "low_latency")


def load_expert_kernels(name: str = "deepep-normal") -> ExpertKernels:
    """Load kernel figures by name or path.

    Raises:
        ScenarioError: no such file, or it is wrong.
    """
    return load(SHELF, name, ExpertKernels)


def load_low_latency_kernels(name: str = "deepep-low-latency") -> LowLatencyKernels:
    """Load the figures of low-latency kernels by name or path.

    Raises:
        ScenarioError: no such file, or it is wrong.
    """
    return load(LOW_LATENCY_SHELF, name, LowLatencyKernels)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeGroup:
    """An expert-parallel group and its links.

    Attributes:
        n_nodes, gpus_per_node: ranks of the group.
        scale_up_bytes_per_s, network_bytes_per_s: of one GPU, per direction, by the data sheets.
    """

    n_nodes: int
    gpus_per_node: int
    scale_up_bytes_per_s: float
    network_bytes_per_s: float = inf

    def __post_init__(self) -> None:
        if self.n_nodes < 1 or self.gpus_per_node < 1:
            raise ValueError(f"need nodes and GPUs, got {self.n_nodes} nodes with {self.gpus_per_node}")
        if not (self.scale_up_bytes_per_s > 0 and self.network_bytes_per_s > 0):
            raise ValueError(f"need rates above 0, got {self.scale_up_bytes_per_s} and {self.network_bytes_per_s}")

    @property
    def n_ranks(self) -> int:
        """Ranks of the group."""
        return self.n_nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeTime:
    """How long an exchange takes, and of what; the largest of the last three counts.

    Attributes:
        fixed_s: kernel, nodes and filling up.
        network_s, scale_up_s, copies_s: the bytes over each.
    """

    fixed_s: float
    network_s: float
    scale_up_s: float
    copies_s: float

    @property
    def seconds(self) -> float:
        """In all."""
        return self.fixed_s + max(self.network_s, self.scale_up_s, self.copies_s)


def exchange_time(
    figures: ExchangeFigures,
    sms: int,
    tokens: float,
    token_bytes: float,
    reached: tuple[float, float],
    g: ExchangeGroup,
) -> ExchangeTime:
    """Time of a normal dispatch or combine.

    Args:
        figures: of the direction.
        sms: SMs that the kernel runs on.
        tokens: of each rank.
        token_bytes: one token on the wire.
        reached: nodes and ranks that a token reaches on average (`Routing.reach`), the own ones included.
        g: the group.

    Returns:
        The parts. DeepEP's logical bandwidth is ``tokens * token_bytes * nodes`` over the seconds between nodes (with
        ranks for nodes inside one): it counts the local node, so it may be above what the NIC carries.
    """
    check(g.n_ranks, tokens * token_bytes)
    nodes, ranks = reached
    sent = tokens * token_bytes
    copies = ranks + (nodes if g.n_nodes > 1 else 0.0)
    return ExchangeTime(
        fixed_s=figures.fixed_s(g.n_nodes, tokens),
        network_s=sent * nodes * (1 - 1 / g.n_nodes) / (g.network_bytes_per_s * figures.network_share.value),
        scale_up_s=sent * ranks * (1 - 1 / g.gpus_per_node) / (g.scale_up_bytes_per_s * figures.scale_up_share.value),
        copies_s=sent * copies / (sms * figures.copy_rate(g.n_nodes)),
    )


def low_latency_time(
    kernels: LowLatencyKernels,
    figures: SelectionFigures,
    selections: float,
    token_bytes: float,
    g: ExchangeGroup,
) -> ExchangeTime:
    """Time of a low-latency dispatch or combine.

    Args:
        kernels: which.
        figures: of the direction.
        selections: tokens of each rank times experts of each.
        token_bytes: one token on the wire.
        g: the group.
    """
    check(g.n_ranks, selections * token_bytes)
    sent, n, inside = selections * token_bytes, g.n_ranks, g.gpus_per_node
    if kernels.over_network == "all":
        inside = 1
    network = sent * (n - inside) / n / (g.network_bytes_per_s * figures.network_share.value)
    scale_up = sent * (inside - 1) / n / (g.scale_up_bytes_per_s * figures.scale_up_share.value)
    return ExchangeTime(
        fixed_s=figures.latency.value + figures.node_latency.value * log2(g.n_nodes),
        network_s=network,
        scale_up_s=scale_up,
        copies_s=sent / figures.copy.value if figures.copy else 0.0,
    )
