"""What a comparison keeps of every answer: figures with ranges, causes, memory, sensitivities; plain values all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ffsim.config import Figure
from ffsim.economics import Capital, relative_capital
from ffsim.study.result import DAY_S, RunResult
from ffsim.study.validation import Verdict
from ffsim.training import combined_range
from ffsim.training.limits import FASTER

MEGA = 1e6
NETWORK, NODE_LINKS = "network (NICs and switches)", "links inside the node"
EXPOSED = "exposed/"
Better = Literal["low", "high", ""]

# Every figure of a candidate, and which end is the better one. A further one is a line here and in `measure`.
FIGURES: dict[str, Better] = {
    "step_s": "low",
    "tokens_per_s": "high",
    "gpus": "",
    "gpu_hours": "low",
    "gpu_hour_cost_usd": "low",
    "gpu_hour_energy_cost_usd": "low",
    "cost_per_mtoken_usd": "low",
    "cost_usd": "low",
    "energy_per_mtoken_j": "low",
    "energy_per_mtoken_cost_usd": "low",
    "energy_j": "low",
    "mfu_frac": "high",
    "peak_memory_bytes": "low",
    "memory_margin_bytes": "high",
    "bubble_s": "low",
    "exposed_communication_s": "low",
    "exposed_communication_frac": "low",
    "network_frac": "low",
    "node_links_frac": "low",
    "relative_price_per_gpu": "low",
    "relative_price_per_token_rate": "low",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an uncertain input is, and what the step becomes at both ends of its range."""

    figure: tuple[float, float, float]
    steps_s: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A dated figure of a cluster that money or energy rests on, in the unit of its key."""

    name: str
    figure: Figure[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of a candidate that ran.

    Attributes:
        cluster_title, cluster_name: of its file.
        figures: by the names of `FIGURES`; those that the depth or the cluster file does not give are missing.
        ranges: low and high of those that rest on inputs with ranges.
        exposed: cause -> seconds of the step, mean over pipeline ranks; they sum to the step.
        memory: kind -> bytes on the fullest GPU.
        capacity_bytes: of a GPU.
        effects: of every uncertain input on the step, by its name.
        price_unit: of the relative prices, empty where the cluster file states none.
        prices: that cost and energy rest on.
        sources: (input, source) of the main inputs.
        notes: what the cluster file says to bear in mind.
        warnings: doubts about the answer.
        published: what is published about this very scenario.
        sha256: of everything that determines the answer.
    """

    cluster_title: str
    cluster_name: str
    figures: dict[str, float]
    ranges: dict[str, tuple[float, float]]
    exposed: dict[str, float]
    memory: dict[str, float]
    capacity_bytes: float
    effects: dict[str, Effect]
    price_unit: str
    prices: tuple[Price, ...]
    sources: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    published: tuple[Verdict, ...]
    sha256: str


def measure(result: RunResult, published: Sequence[Verdict] = ()) -> Measured:
    """Keep what a comparison shows of an answer, so that the answer itself can go.

    ``network_frac`` is the share of the step that goes with the rate of NICs and switches: what a 10 % faster network
    saves, over what 10 % less time for everything saves. ``node_links_frac`` is the same for PCIe and NVLink. Both hold
    for small changes; ``exposed_communication_frac`` is the share in which a GPU waits for messages of any kind.
    """
    inputs = result.step.prepared.inputs
    cluster, fullest = inputs.cluster, max(result.step.prepared.memory, key=lambda rank: rank.total)
    figures, ranges = _figures(result), _ranges(result)
    causes = {row["path"].removeprefix("step/"): row["seconds"] for row in result.exposed()}
    if causes:
        figures["exposed_communication_frac"] = figures["exposed_communication_s"] / figures["step_s"]
    if result.limits:
        figures["network_frac"] = result.limits[NETWORK] / (1 - 1 / FASTER)
        figures["node_links_frac"] = result.limits[NODE_LINKS] / (1 - 1 / FASTER)
    capital = relative_capital(cluster)
    if capital is not None:
        _add_capital(figures, ranges, capital)
    return Measured(
        cluster_title=cluster.spec.title,
        cluster_name=cluster.name,
        figures={name: figures[name] for name in FIGURES if name in figures},
        ranges={name: ranges[name] for name in FIGURES if name in ranges},
        exposed=causes,
        memory={str(kind): size for kind, size in fullest.by_kind.items()},
        capacity_bytes=cluster.gpu.memory.value,
        effects={
            row["input"]: Effect(
                figure=(row["value"], row["low"], row["high"]), steps_s=(row["step_at_low_s"], row["step_at_high_s"])
            )
            for row in result.sensitivities()
        },
        price_unit="" if capital is None else capital.unit,
        prices=_prices(result),
        sources=tuple((row["input"], row["source"]) for row in result.sources()),
        notes=cluster.spec.notes,
        warnings=result.warnings,
        published=tuple(published),
        sha256=result.provenance.sha256,
    )


def _add_capital(figures: dict[str, float], ranges: dict[str, tuple[float, float]], capital: Capital) -> None:
    """The relative price of a GPU, and of the GPUs of the job over the tokens that they work off in a second."""
    price, price_low, price_high = capital.per_gpu, capital.low_per_gpu, capital.high_per_gpu
    rate, gpus = figures["tokens_per_s"], figures["gpus"]
    slow, fast = ranges.get("tokens_per_s", (rate, rate))
    figures["relative_price_per_gpu"] = price
    figures["relative_price_per_token_rate"] = price * gpus / rate
    if price_low < price_high:
        ranges["relative_price_per_gpu"] = (price_low, price_high)
    ends = [(price * gpus / fast, price * gpus / slow), (price_low * gpus / rate, price_high * gpus / rate)]
    low, high = combined_range(price * gpus / rate, ends)
    if low < high:
        ranges["relative_price_per_token_rate"] = (low, high)


def _figures(result: RunResult) -> dict[str, float]:
    h, spec = result.headline, result.step.prepared.inputs.spec
    rental = result.bill.cost_figures[0]
    per_mtoken = MEGA / spec.tokens
    figures = {name: h[name] for name in FIGURES if name in h}
    return figures | {
        "tokens_per_s": h["tokens_per_day"] / DAY_S,
        "gpu_hour_cost_usd": rental.value,
        "gpu_hour_energy_cost_usd": h["energy_cost_usd"] / h["gpu_hours"],
        "cost_per_mtoken_usd": h["cost_usd"] * per_mtoken,
        "energy_per_mtoken_j": h["energy_j"] * per_mtoken,
        "energy_per_mtoken_cost_usd": h["energy_cost_usd"] * per_mtoken,
        "memory_margin_bytes": h["memory_margin_bytes"],
    }


def _ranges(result: RunResult) -> dict[str, tuple[float, float]]:
    ends = {name: (row["low"], row["high"]) for name, row in result.range.items()}
    inputs = result.step.prepared.inputs
    per_mtoken, capacity = MEGA / inputs.spec.tokens, inputs.cluster.gpu.memory.value
    found = {name: ends[name] for name in FIGURES if name in ends}
    for name, total in (
        ("cost_per_mtoken_usd", "cost_usd"),
        ("energy_per_mtoken_j", "energy_j"),
        ("energy_per_mtoken_cost_usd", "energy_cost_usd"),
    ):
        found[name] = (ends[total][0] * per_mtoken, ends[total][1] * per_mtoken)
    if "tokens_per_day" in ends:
        found["tokens_per_s"] = (ends["tokens_per_day"][0] / DAY_S, ends["tokens_per_day"][1] / DAY_S)
    if "peak_memory_bytes" in ends:
        low, high = ends["peak_memory_bytes"]
        found["memory_margin_bytes"] = (capacity - high, capacity - low)
    found["gpu_hour_cost_usd"] = result.bill.cost_figures[0].bounds
    energy = result.headline["energy_cost_usd"] / result.headline["gpu_hours"]
    found["gpu_hour_energy_cost_usd"] = proportional_range(energy, result.bill.energy_cost_figures)
    return {name: pair for name, pair in found.items() if pair[0] < pair[1]}


def proportional_range(value: float, figures: Iterable[Figure[float]]) -> tuple[float, float]:
    """Range of a value that is proportional to every one of some independent figures."""
    ends = [
        (value * low / one.value, value * high / one.value)
        for one in figures
        if one.value
        for low, high in (one.bounds,)
    ]
    return combined_range(value, ends)


def _prices(result: RunResult) -> tuple[Price, ...]:
    spec = result.step.prepared.inputs.cluster.spec
    named: list[tuple[str, Figure[Any]]] = [
        ("rental", spec.rental),
        ("node_power", spec.nodes.power),
        ("pue", spec.pue),
        ("energy_price", spec.energy_price),
    ]
    if spec.relative_price is not None:
        named += [("relative_price_nodes", spec.relative_price.nodes)]
        named += [("relative_price_network", spec.relative_price.network)]
    return tuple(Price(name=name, figure=figure) for name, figure in named)
