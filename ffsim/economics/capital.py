"""What buying a cluster costs, as far as it is published: a relative price, not dollars."""

from __future__ import annotations

from dataclasses import dataclass

from ffsim.topology import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Capital:
    """The price of a cluster per GPU, in a unit that only clusters priced together share.

    Attributes:
        unit: see `ffsim.topology.spec.RelativePrice`.
        nodes_per_gpu, network_per_gpu: the parts of ``per_gpu``.
        low_per_gpu, high_per_gpu: its range; where none is published, the price itself.
    """

    unit: str
    nodes_per_gpu: float
    network_per_gpu: float
    per_gpu: float
    low_per_gpu: float
    high_per_gpu: float


def relative_capital(cluster: Cluster) -> Capital | None:
    """The relative price of a cluster per GPU, none where its file states none.

    Domain: nodes and network as built for the number of GPUs that the price was published for; a job on a part of the
    cluster bears its share of the whole network. Storage, buildings and operation are not in it.

    >>> from ffsim.topology import load_cluster
    >>> capital = relative_capital(load_cluster("fire-flyer-2"))
    >>> round(capital.per_gpu, 3), round(capital.network_per_gpu, 3)
    (1.16, 0.035)
    """
    price = cluster.spec.relative_price
    if price is None:
        return None
    low, high = (nodes + network for nodes, network in zip(price.nodes.bounds, price.network.bounds, strict=True))
    return Capital(
        unit=price.unit,
        nodes_per_gpu=price.nodes.value / price.gpus,
        network_per_gpu=price.network.value / price.gpus,
        per_gpu=(price.nodes.value + price.network.value) / price.gpus,
        low_per_gpu=low / price.gpus,
        high_per_gpu=high / price.gpus,
    )
