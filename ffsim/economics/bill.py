"""What a run costs: GPU-hours, rent, energy, each with its range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ffsim.config import Figure
from ffsim.topology import Cluster

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One position of a bill: something simulated, or published and taken over."""

    name: str
    gpu_hours: float
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a run costs.

    Attributes:
        lines: the simulated run first, then what is added to it.
        gpu_hours, cost_usd: of the simulated run.
        total_gpu_hours, total_cost_usd: of all lines.
        days: of the simulated run on the GPUs it uses.
        energy_j: drawn from the grid by the simulated run: nodes times PUE.
        energy_cost_usd: of that energy; part of the rent where GPUs are rented.
        cost_figures, energy_figures, energy_cost_figures: what each is proportional to, besides time, by figures that
            may have ranges.
    """

    lines: tuple[Line, ...]
    gpu_hours: float
    cost_usd: float
    total_gpu_hours: float
    total_cost_usd: float
    days: float
    energy_j: float
    energy_cost_usd: float
    cost_figures: tuple[Figure[float], ...]
    energy_figures: tuple[Figure[float], ...]
    energy_cost_figures: tuple[Figure[float], ...]


def bill(
    cluster: Cluster, gpus: int, seconds: float, title: str, others: Sequence[tuple[str, Figure[float]]] = ()
) -> Bill:
    """Bill a run.

    Args:
        cluster: prices, power and PUE.
        gpus: GPUs in use.
        seconds: how long.
        title: of the run.
        others: published GPU-hours to be added, by name.

    Domain: power is the whole node's while training, whatever the share of time that computes; storage, switches and
    idle nodes are not counted.
    """
    spec = cluster.spec
    gpu_hours = gpus * seconds / HOUR_S
    rental, power, pue = spec.rental, spec.nodes.power, spec.pue
    lines = (
        Line(name=title, gpu_hours=gpu_hours, simulated=True),
        *(Line(name=name, gpu_hours=figure.value, simulated=False) for name, figure in others),
    )
    total = sum(line.gpu_hours for line in lines)
    energy_j = gpus / cluster.gpus_per_node * power.value * pue.value * seconds
    return Bill(
        lines=lines,
        gpu_hours=gpu_hours,
        cost_usd=gpu_hours * rental.value,
        total_gpu_hours=total,
        total_cost_usd=total * rental.value,
        days=seconds / (24 * HOUR_S),
        energy_j=energy_j,
        energy_cost_usd=energy_j * spec.energy_price.value,
        cost_figures=(rental,),
        energy_figures=(power, pue),
        energy_cost_figures=(power, pue, spec.energy_price),
    )
