"""Bills by hand."""

import pytest

from ffsim.config import Figure, Source
from ffsim.economics import bill
from ffsim.topology import load_cluster

SOURCE = Source(ref="made for tests", kind="assumed")


def test_one_day_on_sixteen_gpus():
    cluster = load_cluster("h800-2048")
    spec = cluster.spec
    extra = ("tuning", Figure(value=100.0, low=90.0, high=110.0, source=SOURCE))
    result = bill(cluster, 16, 86_400.0, "run", [extra])
    assert result.gpu_hours == 16 * 24
    assert result.days == 1
    assert result.cost_usd == 16 * 24 * spec.rental.value
    assert (result.total_gpu_hours, result.total_cost_usd) == (16 * 24 + 100, (16 * 24 + 100) * spec.rental.value)
    assert [(line.name, line.simulated) for line in result.lines] == [("run", True), ("tuning", False)]
    assert result.energy_j == pytest.approx(2 * spec.nodes.power.value * spec.pue.value * 86_400)
    assert result.energy_cost_usd == pytest.approx(result.energy_j * spec.energy_price.value)
    assert result.cost_figures == (spec.rental,)
    assert result.energy_cost_figures == (spec.nodes.power, spec.pue, spec.energy_price)
